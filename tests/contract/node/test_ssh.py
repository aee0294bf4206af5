"""Convergence of another machine: the same node as elsewhere, reached through a real sshd."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drivers.node.ansible import AnsibleNode
from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused, NodeTarget
from controlplane.drivers.node.ssh import SshLine
from controlplane.values.bundle import ABSENT
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.secret import Secret
from tests.contract.node.conftest import Node, with_file
from tests.contract.node.test_converge import accepts, assert_nothing_left, starts
from tests.contract.node.test_faults import modules_running, wait_for, worker
from tests.servers.processes import kill
from tests.servers.sshd import SSHD, Sshd, make_key

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not SSHD.exists() or os.geteuid() != 0, reason="needs openssh-server and root"),
]


@dataclasses.dataclass
class Remote(Node):
    """A ``Node`` behind ``sshd``; ``key``: ours."""

    sshd: Sshd | None = None
    key: Secret = dataclasses.field(default_factory=lambda: Secret(""))

    @property
    def target(self) -> NodeTarget:
        assert self.sshd is not None
        reach = {"address": self.sshd.address, "ssh_port": self.sshd.port, "host_keys": self.sshd.host_keys}
        plain = super().target
        return dataclasses.replace(plain, connection="ssh", private_key=self.key, **reach)

    @property
    def driver(self) -> AnsibleNode:
        return AnsibleNode(self.place / "ansible", self.place / "lines")


@pytest.fixture
def remote(node: Node) -> Iterator[Remote]:
    with Sshd("127.65.200.3") as sshd:
        sshd.allow(make_key(node.place / "key"))
        made = Remote(node.place, node.made, sshd=sshd, key=Secret((node.place / "key").read_text()))
        (node.place / "key").unlink()
        yield made
        SshLine(made.target, made.place / "lines").close()


def test_bundles_are_applied_over_the_open_connection(remote: Remote) -> None:
    assert remote.sshd is not None
    bundles = [remote.bundle() for _ in range(3)]
    applied = remote.converge(*bundles)
    assert [(one.error, one.running) for one in applied.values()] == [("", True)] * 3
    assert all(accepts(bundle) for bundle in bundles)
    assert not any(one.changed for one in remote.converge(*bundles).values())
    assert remote.sshd.logins() == 1, "runs open no connection of their own"
    left = [path for path in remote.place.rglob("*") if path.is_file() and "tenants" not in path.parts]
    for path in left:
        assert remote.key.reveal().splitlines()[1].encode() not in path.read_bytes()
    assert not list((remote.place / "ansible" / "runs").iterdir())
    remote.converge(*[dataclasses.replace(bundle, state=ABSENT) for bundle in bundles])
    for bundle in bundles:
        assert_nothing_left(remote, bundle)


def test_a_lower_fence_is_refused_there_too(remote: Remote) -> None:
    bundle = remote.bundle()
    remote.converge(bundle, fence=7)
    with pytest.raises(Rejected, match="fence"):
        remote.converge(dataclasses.replace(bundle, state=ABSENT), fence=6)
    assert accepts(bundle)


def test_errors_of_the_way_there_are_told_apart(remote: Remote) -> None:
    sshd = remote.sshd
    assert sshd is not None
    bundle = remote.bundle()
    with pytest.raises(HostKeyUnknown) as caught:
        remote.driver.converge(dataclasses.replace(remote.target, host_keys=()), [bundle], fence=1, timeout_s=30)
    assert caught.value.seen == sshd.host_keys
    allowed = sshd.authorized.read_text()
    sshd.authorized.write_text("")
    with pytest.raises(KeyRefused):
        remote.converge(bundle)
    sshd.authorized.write_text(allowed)
    remote.converge(bundle)
    pinned = remote.target
    sshd.stop()
    wait_for(lambda: _lost(pinned, remote))
    with pytest.raises(Unavailable, match="not reached"):
        remote.converge(bundle)
    sshd.new_host_keys()
    sshd.start()
    with pytest.raises(HostKeyUnknown):
        AnsibleNode(remote.place / "ansible", remote.place / "lines").converge(
            pinned, [dataclasses.replace(bundle, state=ABSENT)], fence=9, timeout_s=30
        )
    assert accepts(bundle), "nothing was done there"
    assert remote.converge(bundle)[bundle.key].error == "", "the new key was accepted"


def _lost(target: NodeTarget, remote: Remote) -> bool:
    try:
        SshLine(target, remote.place / "lines").run(["true"])
    except Unavailable:
        return True
    return False


def test_a_machine_that_goes_during_a_run_is_unavailable_and_the_run_is_made_up_for(remote: Remote) -> None:
    bundle = remote.bundle(mode="stubborn")
    remote.converge(bundle)
    changed = with_file(bundle, "config/engine.cfg", b"new\n")
    process = worker(remote, changed)
    wait_for(lambda: (Path(bundle.root) / "config/engine.cfg").read_bytes() == b"new\n")
    assert remote.sshd is not None
    remote.sshd.stop()
    assert process.wait(timeout=60) != 0
    remote.sshd.start()
    applied = remote.converge(changed)[bundle.key]
    assert (applied.error, applied.running) == ("", True)
    assert len(starts(bundle)) == 2
    assert not remote.converge(changed)[bundle.key].changed


@pytest.mark.parametrize("also_the_module", [False, True])
def test_a_killed_worker_leaves_nothing_half_written(remote: Remote, also_the_module: bool) -> None:
    """What a run was in the middle of is finished by it or by the next; no file is ever seen in parts."""
    bundles = [remote.bundle() for _ in range(6)]
    process = worker(remote, *bundles)
    wait_for((Path(bundles[2].root) / "config").exists)
    if also_the_module:
        for pid in modules_running(remote):
            kill(pid)
    process.kill()
    process.wait()
    for bundle in bundles:
        for file in bundle.files:
            path = Path(bundle.root) / file.path
            assert not path.exists() or path.read_bytes() == file.content
    newer = [with_file(bundle, "config/motd", b"newer\n") for bundle in bundles]
    applied = remote.converge(*newer, fence=2)
    assert [(one.error, one.running) for one in applied.values()] == [("", True)] * 6
    assert all((Path(bundle.root) / "config/motd").read_bytes() == b"newer\n" for bundle in bundles)
    wait_for(lambda: not modules_running(remote))
    assert all((Path(bundle.root) / "config/motd").read_bytes() == b"newer\n" for bundle in bundles)
    assert not any(one.changed for one in remote.converge(*newer, fence=2).values())


def test_only_the_options_of_the_line_are_used(remote: Remote) -> None:
    """What another user of this machine configured for ssh does not reach a run."""
    shown = subprocess.run(
        ["ssh", "-G", *SshLine(remote.target, remote.place / "lines").session_options(), "n1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "controlmaster false" in shown
    assert "proxycommand false" in shown
    assert "batchmode yes" in shown
