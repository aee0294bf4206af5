"""Archives from anyone: plain ones are unpacked, tricks are refused, and nothing is written outside."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.portable.bundle import Bundle
from controlplane.portable.documents import Limits
from controlplane.portable.unpack import SINGLE, unpack
from controlplane.values.errors import InvalidInput

XML = b"<server-data xmlns='urn:xmpp:pie:0'><host jid='a.example'><user name='u'/></host></server-data>"


def member(name, data=b"x", kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def packed(*members, compress=True, form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if compress else "w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def everything_below(path):
    return sorted(os.path.relpath(os.path.join(at, name), path) for at, _, names in os.walk(path) for name in names)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("compress", [True, False])
def test_a_plain_archive_is_unpacked(tmp_path, form, compress):
    long = "d/" + "e" * 90 + "/" + "f" * 90
    data = packed(
        member("./", b"", tarfile.DIRTYPE), member("./a.xml", XML), member("dir", b"", tarfile.DIRTYPE),
        member(long, b"y" * 100_000), member("empty", b""), compress=compress, form=form,
    )  # fmt: skip
    assert unpack(io.BytesIO(data), tmp_path / "o") == ["a.xml", long, "empty"]
    assert (tmp_path / "o" / long).read_bytes() == b"y" * 100_000
    assert (tmp_path / "o/a.xml").read_bytes() == XML
    assert (tmp_path / "o/a.xml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_single_document_is_taken_too(tmp_path, wrap):
    long = XML.replace(b"/></host>", b">" + b" " * 2000 + b"</user></host>")
    for number, document in enumerate([XML, b"\n<?xml version='1.0'?>" + long, "\ufeff".encode() + long]):
        root = tmp_path / str(number)
        assert unpack(io.BytesIO(wrap(document)), root) == [SINGLE]
        assert (root / SINGLE).read_bytes() == document


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"), member("/evil"), member("a/../../evil"), member("a/./b"), member("a//b"), member(""),
        member("C:evil"), member("a\\..\\evil"), member("a\nb"), member("..", b"", tarfile.DIRTYPE),
        member("../d", b"", tarfile.DIRTYPE), member("x" * 1500), member("a/" * 40 + "b"),
        member("link", b"", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("link", b"", tarfile.SYMTYPE, linkname="ok"), member("hard", b"", tarfile.LNKTYPE, linkname="ok"),
        member("dev", b"", tarfile.CHRTYPE, devmajor=1, devminor=5), member("dev", b"", tarfile.BLKTYPE),
        member("fifo", b"", tarfile.FIFOTYPE), member("cont", b"x", tarfile.CONTTYPE), member("odd", b"x", b"Z"),
        member("sparse", b"x", tarfile.REGTYPE, pax_headers={"GNU.sparse.size": "1000", "GNU.sparse.map": "0,1"}),
        member("ok"), member("ok/below"), member("ok/a/b"), member("z" * 300), member("é" * 200),
    ],
    ids=lambda m: f"{m[0].type.decode()} {m[0].name[:20]!r}",
)  # fmt: skip
def test_a_trick_ends_it_and_nothing_is_outside(tmp_path, bad):
    data = packed(member("ok"), bad, member("after"))
    with pytest.raises(InvalidInput):
        unpack(io.BytesIO(data), tmp_path / "o")
    assert [path for path in everything_below(tmp_path) if not path.startswith("o/")] == []
    assert not any(os.path.islink(tmp_path / path) for path in everything_below(tmp_path))
    assert "o/after" not in everything_below(tmp_path)


def test_a_link_followed_by_a_file_through_it_is_refused(tmp_path):
    (tmp_path / "victim").mkdir()
    trick = member("d", b"", tarfile.SYMTYPE, linkname="../victim")
    with pytest.raises(InvalidInput):
        unpack(io.BytesIO(packed(trick, member("d/evil"))), tmp_path / "o")
    assert everything_below(tmp_path) == []


def test_limits_hold_for_bombs(tmp_path):
    bomb = packed(member("big", b"\0" * 3_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(InvalidInput, match="unpacked"):
        unpack(io.BytesIO(bomb), tmp_path / "a", limits=Limits(unpacked_bytes=1_000_000))
    with pytest.raises(InvalidInput, match="unpacked"):
        unpack(io.BytesIO(gzip.compress(XML + b" " * 3_000_000)), tmp_path / "b", limits=Limits(unpacked_bytes=1 << 20))
    many = packed(*(member(f"f{n}") for n in range(20)))
    with pytest.raises(InvalidInput, match="more than 10 files"):
        unpack(io.BytesIO(many), tmp_path / "c", limits=Limits(files=10))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_wants_much_memory_gets_none(tmp_path, kind):
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 300 << 20
    data = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(8 << 20))
    tracemalloc.start()
    with pytest.raises(InvalidInput):
        unpack(io.BytesIO(data), tmp_path / "o")
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert highest < 20 << 20


@pytest.mark.parametrize("compress", [True, False])
def test_cut_off_anywhere_is_noticed(tmp_path, compress):
    data = packed(member("a", os.urandom(3000)), member("b", os.urandom(3000)), compress=compress)
    cuts = range(0, 3000 * 2 if compress else 8000, 511)
    for cut in cuts:
        root = tmp_path / str(cut)
        try:
            unpack(io.BytesIO(data[:cut]), root)
        except InvalidInput:
            continue
        # A plain archive may be cut between two members: the manifest is there to notice that.
        assert not compress
        assert everything_below(root) == ["a"] or everything_below(root) == ["a", "b"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        b"PK\x03\x04" + b"x" * 600,
        bz2.compress(XML),
        b"\x1f\x8b" + b"x" * 600,
        gzip.compress(b"", mtime=0),
        gzip.compress(gzip.compress(XML, mtime=0), mtime=0),
        bytes(10240),
    ],
)
def test_what_is_neither_is_refused(tmp_path, data):
    with pytest.raises(InvalidInput):
        unpack(io.BytesIO(data), tmp_path / "o")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_archive_never_does_more_than_be_refused(tmp_path_factory, data):
    whole = bytearray(packed(member("a", b"x" * 700), member("d/b" * 40, b"y" * 700), compress=False))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    outer = tmp_path_factory.mktemp("t")
    try:
        unpack(io.BytesIO(bytes(whole)), outer / "o")
    except InvalidInput:
        pass
    assert all(path.startswith("o/") for path in everything_below(outer))
    assert not any(os.path.islink(outer / path) for path in everything_below(outer))


def test_what_was_unpacked_can_be_read(tmp_path):
    unpack(io.BytesIO(packed(member("x.xml", XML))), tmp_path / "o")
    (user,) = Bundle(tmp_path / "o").items()
    assert (user.host, user.name) == ("a.example", "u")
