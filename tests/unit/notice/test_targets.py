"""Which URLs may be posted to, and what the signature is."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.notice.webhook import Target, is_public, signature
from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret

INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fe80::1%eth0",
]
OUTSIDE = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("text", INSIDE)
def test_addresses_of_the_inside(text):
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_addresses_of_the_outside(text):
    assert is_public(ipaddress.ip_address(text))


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_an_address_hidden_in_another_is_judged_as_itself(number):
    inner = ipaddress.IPv4Address(number)
    for outer in (f"::ffff:{inner}", f"64:ff9b::{inner}"):
        assert is_public(ipaddress.ip_address(outer)) == is_public(inner)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/x",
        "ftp://hooks.example/",
        "https://",
        "hooks.example",
        "https://user:pw@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example:99999/",
        "https://hooks.example/a b",
        "https://hooks.example/\r\nX-Evil: 1",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://localhost/",
    ],
)
def test_an_organisations_url_is_refused(url):
    with pytest.raises(InvalidInput) as refused:
        Target.parse(url, private=False)
    assert refused.value.field == "target"


def test_what_is_dialled_and_said():
    plain = Target.parse("https://Hooks.Example:8443/a/b?c=d", private=False)
    assert (plain.host, plain.port, plain.path) == ("hooks.example", 8443, "/a/b?c=d")
    assert plain.authority == "hooks.example:8443"
    assert Target.parse("https://hooks.example", private=False).authority == "hooks.example"
    assert Target.parse("http://[::1]:80", private=True).authority == "[::1]"


def test_the_signature_covers_time_and_body():
    made = signature(Secret("s3cret"), b'{"a": 1}', 1_700_000_000)
    expected = hmac.new(b"s3cret", b'1700000000.{"a": 1}', hashlib.sha256).hexdigest()
    assert made == f"t=1700000000,v1={expected}"
    assert signature(Secret("s3cret"), b'{"a": 1}', 1_700_000_001) != made
