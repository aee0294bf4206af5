"""A bundle is written, checked, read, and is then what it was; a damaged one is never taken for whole."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.documents import Limits
from controlplane.portable.items import ArchivePage, FileRead, NotCarried, RoomRead, UserRead
from controlplane.portable.paths import opened
from controlplane.portable.sinks import Directory, Tar
from controlplane.portable.tally import Tally
from controlplane.portable.unpack import unpack
from controlplane.portable.writer import Writer
from controlplane.portable.xmltext import to_text
from controlplane.values.errors import InvalidInput
from tests.unit.portable.samples import ABOUT, ALICE, FILE, ROOM, fill, result, user
from tests.unit.portable.xml_strategies import elements


@pytest.fixture
def root(tmp_path):
    with Writer(Directory(tmp_path / "b"), ABOUT, part_bytes=2000) as writer:
        fill(writer)
    return tmp_path / "b"


def facts_of(items):
    for item in items:
        match item:
            case UserRead():
                yield from facts.of_user(item.xml)
            case RoomRead():
                yield from facts.of_room(item.xml)
            case ArchivePage():
                yield from (facts.of_message(text, owner=item.owner, room=item.room) for text in item.items)
            case FileRead():
                file = item.file
                yield facts.of_file(user=file.user, id=file.id, name=file.name, size=file.size, type=file.type,
                                    sha256=file.sha256)  # fmt: skip
            case NotCarried():
                yield facts.Fact("not carried", item.where, item.what, item.why)


def wanted():
    yield from facts.of_user(ALICE)
    yield from facts.of_user(user("bob"))
    yield from facts.of_user(user("con", "<disabled xmlns='urn:roost:portable:1'/>"))
    yield from (facts.of_message(result(n), owner="alice") for n in range(30))
    yield from facts.of_room(ROOM)
    yield from (facts.of_message(result(n, "in the room"), room="team") for n in range(5))
    digest = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"  # sha256sum of abcdef
    yield facts.of_file(user=FILE.user, id=FILE.id, name=FILE.name, size=6, type=FILE.type, sha256=digest)


def assert_same(items):
    with Tally() as left, Tally() as right:
        left.add(wanted())
        right.add(facts_of(items))
        assert list(left.differences(right)) == []
        assert left.counts()["user message"] == 30


def test_everything_comes_back_from_a_directory(root):
    bundle = Bundle(root)
    bundle.check()
    assert_same(bundle.items())
    assert bundle.manifest.about == ABOUT
    assert bundle.manifest.counts == {
        "accounts": 3, "rooms": 1, "user_messages": 30, "room_messages": 5, "uploads": 1, "upload_bytes": 6
    }  # fmt: skip


@pytest.mark.parametrize("compress", [True, False])
def test_everything_comes_back_from_a_streamed_archive(tmp_path, compress):
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

        def close(self):
            """Read afterwards."""

    pipe = Pipe()
    with Writer(Tar(pipe, compress=compress), ABOUT, part_bytes=2000) as writer:
        fill(writer)
    unpack(io.BytesIO(pipe.data), tmp_path / "b")
    bundle = Bundle(tmp_path / "b")
    bundle.check()
    assert_same(bundle.items())


def test_other_programs_can_use_it(root, tmp_path):
    """sha256sum checks it, tar unpacks it, and any XML parser with XInclude finds an XEP-0227 document."""
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=root, check=True)
    with (tmp_path / "b.tar.gz").open("wb") as file, Writer(Tar(file), ABOUT) as writer:
        fill(writer)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "b.tar.gz", "-C", tmp_path / "out"], check=True)
    Bundle(tmp_path / "out").check()
    from xml.etree import ElementInclude, ElementTree

    def load(path):
        tree = ElementTree.parse(root / path).getroot()
        ElementInclude.include(tree, lambda href, *_: load(href))
        return tree

    tree = load("accounts.xml")
    pie = "{urn:xmpp:pie:0}"
    assert [u.get("name") for u in tree.findall(f"{pie}host/{pie}user")] == ["alice", "bob", "con"]
    assert len(tree.findall(f"{pie}host/{pie}user/{{urn:xmpp:pie:0#mam}}archive/{{urn:xmpp:mam:2}}result")) == 30


def test_an_account_comes_before_its_messages_and_they_keep_their_order(root):
    kinds = [type(item).__name__ for item in Bundle(root).items()]
    assert kinds.index("UserRead") < kinds.index("ArchivePage")
    pages = [item for item in Bundle(root).items() if isinstance(item, ArchivePage)]
    texts = [text for page in pages if page.owner == "alice" for text in page.items]
    assert texts == [result(n) for n in range(30)]
    assert {(page.host, page.owner, page.room) for page in pages} == {
        ("acme.example", "alice", None), ("conference.acme.example", None, "team")
    }  # fmt: skip


def test_file_contents_are_where_the_index_says(root):
    (found,) = [item.file for item in Bundle(root).items() if isinstance(item, FileRead)]
    with opened(root, found.href) as file:
        assert file.read() == b"abcdef"
    assert (found.name, found.size, found.path) == (FILE.name, 6, FILE.path)


def test_the_same_data_gives_the_same_bytes(root, tmp_path):
    with Writer(Directory(tmp_path / "again"), ABOUT, part_bytes=2000) as writer:
        fill(writer)
    assert subprocess.run(["diff", "-r", root, tmp_path / "again"]).returncode == 0


def test_a_growing_archive_leaves_its_full_parts_alone(root, tmp_path):
    with Writer(Directory(tmp_path / "more"), ABOUT, part_bytes=2000) as writer:
        fill(writer, 60)
    parts = sorted((root / "archives/alice").iterdir())
    assert len(parts) > 3
    for part in parts[:-1]:
        assert part.read_bytes() == (tmp_path / "more/archives/alice" / part.name).read_bytes()


FILES = ["roost.json", "SHA256SUMS", "accounts.xml", "accounts-000001.xml", "rooms-000001.xml",
         "archives/alice/000002.xml", "room-archives/team/000001.xml", "uploads.xml",
         "uploads/s%2F42/Zo%C3%AB%201.JPG"]  # fmt: skip


@pytest.mark.parametrize("path", FILES)
def test_one_flipped_bit_is_noticed_anywhere(root, path):
    data = bytearray((root / path).read_bytes())
    for at in {0, len(data) // 2, len(data) - 1}:
        if path == "roost.json" and at != 0:
            at = data.index(b'"sha256sums"') + 20
        changed = bytearray(data)
        changed[at] ^= 1
        (root / path).write_bytes(changed)
        with pytest.raises(InvalidInput):
            Bundle(root).check()


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file_is_noticed(root, path):
    (root / path).unlink()
    with pytest.raises(InvalidInput) as caught:
        Bundle(root).check()
    assert caught.value.field == "bundle"


def test_a_foreign_file_in_it_is_noticed(root):
    (root / "archives/more.xml").write_text("<a/>")
    with pytest.raises(InvalidInput, match="does not belong"):
        Bundle(root).check()


def test_a_later_version_says_so(root):
    text = (root / "roost.json").read_text().replace('"version": 1', '"version": 2')
    (root / "roost.json").write_text(text)
    with pytest.raises(InvalidInput, match="later one"):
        Bundle(root)


def test_what_is_not_known_yet_in_the_manifest_is_no_matter(root):
    text = (root / "roost.json").read_text().replace('"version": 1', '"new": [1], "version": 1')
    (root / "roost.json").write_text(text)
    Bundle(root).check()


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"format": "urn:roost:portable"}'])
def test_a_manifest_that_is_none(root, junk):
    (root / "roost.json").write_bytes(junk)
    with pytest.raises(InvalidInput):
        Bundle(root)


class Cut(Exception):
    pass


@pytest.mark.parametrize("after", range(0, 30, 7))
def test_a_writing_that_ends_early_leaves_nothing_that_looks_whole(tmp_path, after):
    def messages():
        for n in range(after):
            yield result(n)
        raise Cut

    with pytest.raises(Cut), Writer(Directory(tmp_path / "b"), ABOUT, part_bytes=2000) as writer:  # noqa: PT012
        writer.add_user(user("anna"))
        writer.add_user(ALICE, messages())
    assert not list((tmp_path / "b").glob(".part-*"))
    assert not (tmp_path / "b/roost.json").exists()
    with pytest.raises(InvalidInput):
        Bundle(tmp_path / "b").items()
    stream = io.BytesIO()
    with pytest.raises(Cut), Writer(Tar(stream), ABOUT, part_bytes=2000) as writer:
        writer.add_user(ALICE, messages())
    with pytest.raises(InvalidInput, match="cut off"):
        unpack(io.BytesIO(stream.getvalue()), tmp_path / "c")


@pytest.mark.parametrize(
    "xml",
    ["", "text", "<user/>", user("x") * 2, user("x")[:-1], user(""), user("x", "<a>"), "<!DOCTYPE a>" + user("x"),
     "<user xmlns='urn:xmpp:pie:0' name='x'><include xmlns='http://www.w3.org/2001/XInclude' href='r.xml'/></user>",
     user("x", "\x01"), user("x", "\ud800")]
)  # fmt: skip
def test_what_could_not_be_read_again_is_not_written(tmp_path, xml):
    with pytest.raises(InvalidInput), Writer(Directory(tmp_path / "b"), ABOUT) as writer:
        writer.add_user(xml)


@pytest.mark.parametrize(
    "text",
    ["", "<result/>", result(1) + result(2), "</archive><archive xmlns='urn:xmpp:pie:0#mam'>", result(1)[:-3],
     "<!DOCTYPE a>" + result(1), "<x:result xmlns='urn:xmpp:mam:2' id='1'/>"]
)  # fmt: skip
def test_a_message_that_could_not_be_read_again_is_not_written(tmp_path, text):
    with pytest.raises(InvalidInput), Writer(Directory(tmp_path / "b"), ABOUT) as writer:
        writer.add_user(ALICE, [text])


def test_the_same_account_twice_is_no_bundle(tmp_path):
    with pytest.raises(FileExistsError), Writer(Directory(tmp_path / "b"), ABOUT) as writer:  # noqa: PT012
        writer.add_user(ALICE, [result(1)])
        writer.add_user(ALICE, [result(1)])


def test_two_at_once_and_old_leftovers_are_refused(tmp_path):
    (tmp_path / "left").write_text("x")
    with pytest.raises(FileExistsError):
        Directory(tmp_path)
    with pytest.raises(FileExistsError):
        unpack(io.BytesIO(b"<a/>"), tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(elements(), max_size=3), st.lists(elements(), max_size=4))
def test_any_content_survives(parts, contents):
    """Whatever an engine has in an account or a message, in whatever namespace, comes back as it was."""
    xml = user("zoë", "".join(to_text(part, outer="urn:xmpp:pie:0") for part in parts if "}" in part.tag))
    messages = [
        result(n).replace("<body>text</body>", to_text(content, outer="jabber:client"))
        for n, content in enumerate(contents)
    ]
    with tempfile.TemporaryDirectory() as name:
        with Writer(Directory(Path(name) / "b"), ABOUT) as writer:
            writer.add_user(xml, messages)
        Bundle(Path(name) / "b").check()
        read = list(Bundle(Path(name) / "b").items())
    (found,) = [item for item in read if isinstance(item, UserRead)]
    assert Counter(facts.of_user(found.xml)) == Counter(facts.of_user(xml))
    texts = [text for item in read if isinstance(item, ArchivePage) for text in item.items]
    assert [facts.of_message(text) for text in texts] == [facts.of_message(text) for text in messages]


def test_memory_is_flat(tmp_path):
    """Ten times the messages, the same memory, for writing, checking, reading and comparing."""

    def peak(count):
        root = tmp_path / str(count)
        tracemalloc.start()
        with Writer(Directory(root), ABOUT, part_bytes=30_000) as writer:
            writer.add_user(ALICE, (result(n, "x" * 1000) for n in range(count)))
        bundle = Bundle(root)
        bundle.check()
        with Tally(rolled=True) as tally:
            tally.add(facts_of(bundle.items()))
            assert tally.counts()["user message"] == count
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few, many = peak(300), peak(3_000)
    assert many < few + 500_000


def test_includes_go_nowhere_else(root):
    part = root / "accounts-000001.xml"
    whole = part.read_text()
    secret = root.parent / "secret.xml"
    secret.write_text("<archive xmlns='urn:xmpp:pie:0#mam'/>")
    os.symlink(secret, root / "link.xml")
    hrefs = ["../secret.xml", str(secret), f"file://{secret}", "link.xml", "a/../../secret.xml", "", "#x", "archives"]
    for href in [*hrefs, "http://127.0.0.1/x.xml", "accounts.xml", "archives/alice/000002.xml", "none.xml"]:
        part.write_text(whole.replace("archives/alice/000001.xml", href))
        with pytest.raises(InvalidInput):
            list(Bundle(root).items())


def test_includes_do_not_multiply(root):
    (root / "accounts.xml").write_text(
        "<server-data xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude'>"
        + "<xi:include href='accounts-000001.xml'/>" * 2 + "</server-data>"
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="more than once"):
        list(Bundle(root).items())
    for n in range(12):
        (root / f"d{n}.xml").write_text(
            "<rooms xmlns='urn:roost:portable:1' xmlns:xi='http://www.w3.org/2001/XInclude'>"
            f"<xi:include href='d{n + 1}.xml'/></rooms>"
        )
    (root / "accounts.xml").write_bytes((root / "d0.xml").read_bytes())
    with pytest.raises(InvalidInput, match="deep"):
        list(Bundle(root).items())


def test_an_account_larger_than_memory_should_hold_is_refused(root):
    with pytest.raises(InvalidInput, match="too large"):
        list(Bundle(root, limits=Limits(piece_bytes=500)).items())
    with pytest.raises(InvalidInput, match="too large"):
        list(Bundle(root, limits=Limits(piece_elements=3)).items())


def test_archive_members_are_plain(tmp_path):
    stream = io.BytesIO()
    with Writer(Tar(stream), ABOUT) as writer:
        fill(writer)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        members = archive.getmembers()
    assert all(member.isreg() and member.mode == 0o600 and member.uid == 0 for member in members)
    assert [member.name for member in members][-2:] == ["SHA256SUMS", "roost.json"]
