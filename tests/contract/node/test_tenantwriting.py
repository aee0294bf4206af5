"""Files are written on a node with their tenant's rights: whole or not at all, and never through a link."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.node.lines import LocalLine
from controlplane.drivers.node.tenantfiles import TenantFiles
from controlplane.drivers.node.tenantwriting import TenantWriter
from controlplane.values.bundle import Bundle
from controlplane.values.errors import Rejected
from tests.contract.node.conftest import Node, processes_of

pytestmark = pytest.mark.servers


@pytest.fixture
def bundle(node: Node) -> Bundle:
    made = node.bundle()
    assert node.converge(made)[made.key].error == ""
    return made


@pytest.fixture
def writer(node: Node, bundle: Bundle) -> Iterator[TenantWriter]:
    with TenantWriter(LocalLine("n1"), node.target, user=bundle.user, root=bundle.root) as made:
        yield made


def test_what_is_written_is_the_tenants_and_can_be_read_again(node: Node, bundle: Bundle, writer: TenantWriter) -> None:
    content = os.urandom(700_000)
    writer.write("uploads/a/b/x.bin", iter([content[:300_000], content[300_000:]]), at=1_700_000_000)
    writer.write("uploads/empty", iter([]), at=1_700_000_001.5)
    file, entry = Path(bundle.root) / "uploads/a/b/x.bin", pwd.getpwnam(bundle.user)
    assert file.read_bytes() == content
    for path in (file, file.parent, file.parent.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (entry.pw_uid, entry.pw_gid)
    assert file.stat().st_mtime == 1_700_000_000
    assert (Path(bundle.root) / "uploads/empty").read_bytes() == b""
    with TenantFiles(LocalLine("n1"), node.target, user=bundle.user, root=bundle.root) as files:
        chunks = files.read("uploads/a/b/x.bin")
        assert chunks is not None
        assert b"".join(chunks) == content


def test_one_that_is_there_is_replaced(bundle: Bundle, writer: TenantWriter) -> None:
    for content in (b"first", b"second"):
        writer.write("uploads/x", iter([content]), at=1)
    assert (Path(bundle.root) / "uploads/x").read_bytes() == b"second"


@pytest.mark.parametrize("path", ["../x", "uploads/../../x", "/etc/x", "uploads//x", "uploads/", "config/x", "x"])
def test_nothing_is_written_elsewhere(bundle: Bundle, writer: TenantWriter, path: str) -> None:
    with pytest.raises(Rejected):
        writer.write(path, iter([b"x"]), at=1)
    writer.write("uploads/after", iter([b"it goes on"]), at=1)
    assert (Path(bundle.root) / "uploads/after").read_bytes() == b"it goes on"


def test_no_link_is_followed(node: Node, bundle: Bundle, writer: TenantWriter) -> None:
    outside = node.place / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "x").write_text("mine")
    root = Path(bundle.root)
    (root / "uploads/way").symlink_to(outside)
    (root / "uploads/x").symlink_to(outside / "x")
    with pytest.raises(Rejected):
        writer.write("uploads/way/x", iter([b"theirs"]), at=1)
    writer.write("uploads/x", iter([b"theirs"]), at=1)  # the link itself makes room
    assert (outside / "x").read_text() == "mine"
    assert not (root / "uploads/x").is_symlink()


def test_what_breaks_off_leaves_nothing(bundle: Bundle, writer: TenantWriter) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the store broke")

    with pytest.raises(ValueError, match="the store broke"):
        writer.write("uploads/x", broken(), at=1)
    assert list((Path(bundle.root) / "uploads").iterdir()) == []
    writer.write("uploads/x", iter([b"whole"]), at=1)
    assert [path.name for path in (Path(bundle.root) / "uploads").iterdir()] == ["x"]


def test_no_process_of_it_is_left(node: Node, bundle: Bundle) -> None:
    before = set(processes_of(bundle.user))
    with TenantWriter(LocalLine("n1"), node.target, user=bundle.user, root=bundle.root) as made:
        made.write("uploads/x", iter([b"x"]), at=1)
        assert set(processes_of(bundle.user)) > before
    assert set(processes_of(bundle.user)) == before


def test_a_user_that_there_is_not_is_refused(node: Node, bundle: Bundle) -> None:
    with (
        TenantWriter(LocalLine("n1"), node.target, user="r-nobody1", root=bundle.root) as made,
        pytest.raises(Rejected),
    ):
        made.write("uploads/x", iter([b"x"]), at=1)
