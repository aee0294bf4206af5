"""The small formats that the probes write and read by themselves."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.probes import trust, web, websocket
from controlplane.probes.relay import credentials
from controlplane.probes.report import Failed
from controlplane.probes.streams import normal_serial
from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret

XRD = (
    "<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>"
    "<Link rel='urn:xmpp:alt-connections:websocket' href='wss://a.example/ws'/>"
    "<Link rel='lrdd' href='https://a.example/x'/></XRD>"
)


@given(st.binary(max_size=300))
def test_a_frame_comes_back_unmasked(payload: bytes) -> None:
    frame = websocket._frame(1, payload)
    assert frame[0] == 0x81
    assert frame[1] & 0x80  # RFC 6455 §5.1: a client masks
    size, at = frame[1] & 0x7F, 2
    if size == 126:
        (size,), at = struct.unpack("!H", frame[2:4]), 4
    mask, body = frame[at : at + 4], frame[at + 4 :]
    assert size == len(payload) == len(body)
    assert bytes(b ^ mask[i % 4] for i, b in enumerate(body)) == payload


@given(st.integers(0, 2**160))
def test_a_serial_has_one_form(number: int) -> None:
    text = f"{number:x}"
    pairs = text.zfill(len(text) + len(text) % 2)
    with_colons = ":".join(pairs[i : i + 2] for i in range(0, len(pairs), 2))
    assert normal_serial(text) == normal_serial(with_colons) == f"{number:X}"


def test_host_meta_links_are_read_from_both_forms() -> None:
    wanted = {("urn:xmpp:alt-connections:websocket", "wss://a.example/ws")}
    assert web._xrd_links(XRD.encode(), "u") == wanted
    body = b'{"links": [{"rel": "urn:xmpp:alt-connections:websocket", "href": "wss://a.example/ws"}, {"rel": "x"}]}'
    assert web._json_links(body, "u") == wanted


@pytest.mark.parametrize("body", [b"", b"[]", b'{"links": [1]}', b'{"links": null}', b"<x/>"])
def test_json_that_is_no_list_of_links_is_a_fault(body: bytes) -> None:
    with pytest.raises(Failed):
        web._json_links(body, "u")


def test_xml_that_is_none_is_a_fault() -> None:
    with pytest.raises(Failed):
        web._xrd_links(b"<html><br></html>", "u")


def test_turn_credentials_are_the_rest_apis() -> None:
    user, password = credentials(Secret("north"), "acme", 1433895918)
    assert user == "1433895918:acme"
    assert len(password.reveal()) == 28
    assert "north" not in repr(password)


def test_trust_roots_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    for value in (str(tmp_path / "x"), str(tmp_path / "missing")):
        with pytest.raises(InvalidInput) as refused:
            trust.roots_text(value)
        assert refused.value.field == "trust_roots"
    assert trust.roots_text(None) is None
