"""One spelling for rdata, checked by parsing back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.values.rdata import canonical, txt_value
from controlplane.values.records import txt


@given(st.text(max_size=600))
def test_any_text_survives_quoting_and_the_common_spelling(text):
    quoted = txt(text)
    assert txt_value(quoted) == text.encode()
    assert canonical("TXT", quoted) == quoted
    assert "\n" not in quoted


@pytest.mark.parametrize(
    ("type", "text", "same"),
    [
        ("AAAA", "2001:DB8:0:0::1", "2001:db8::1"),
        ("SRV", "0  5 5222 Edge.Roost.Example.", "0 5 5222 edge.roost.example."),
        ("CNAME", "Edge.Roost.Example.", "edge.roost.example."),
        ("CAA", "0 issue ca.example.net", '0 issue "ca.example.net"'),
        ("TXT", "plain", '"plain"'),
        ("TXT", '"\\065"', '"A"'),
    ],
)
def test_spellings(type, text, same):
    assert canonical(type, text) == same
    assert canonical(type, same) == same


@pytest.mark.parametrize(
    ("type", "text"),
    [
        ("A", "300.1.1.1"),
        ("SRV", "0 5 x."),
        ("MX", "5 mail."),
        ("CAA", "issue"),
        ("A", "1.2.3.4 5.6.7.8"),
        ("TXT", '"open'),
    ],
)
def test_what_is_no_rdata_is_refused(type, text):
    with pytest.raises(ValueError):
        canonical(type, text)
