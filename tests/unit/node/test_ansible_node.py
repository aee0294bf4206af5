"""What the node's driver hands to ansible and makes of the answer, without a run."""

from __future__ import annotations

import base64
import json
import stat
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.drivers.node import ansible as driver
from controlplane.drivers.node.base import NodeTarget
from controlplane.values.bundle import Bundle, ManagedFile, Program
from controlplane.values.errors import Rejected, Unavailable

TARGET = NodeTarget("n1", "ssh", "systemd", "192.0.2.1", "/s", "/etc/systemd/system", ssh_user="admin", ssh_port=2222)
BUNDLE = Bundle("k1", "r-k1", "/srv/k1", "roost", Program(("/bin/x",)), (ManagedFile("config/a", b"\xff{{ x }}"),))


def judge(result: dict[str, object] | None = None, *, unreachable: str = "", status: str = "failed"):
    events = driver._Events()
    events.result, events.unreachable = result, unreachable
    return driver._judge(TARGET, [BUNDLE], events, status, "last line")


def test_bundles_are_one_opaque_string() -> None:
    packed = driver.pack([BUNDLE])
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == [BUNDLE.as_json()]
    assert "{" not in packed


def test_a_node_by_ssh_is_addressed_and_root_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.SshLine, "open", lambda self: None)
    values = {**driver._values(TARGET, [BUNDLE], 5, 90.0), **driver.AnsibleNode(tmp_path, tmp_path)._reach(TARGET)}
    assert (values["ansible_host"], values["ansible_port"], values["ansible_user"]) == ("192.0.2.1", 2222, "admin")
    assert values["ansible_become"] is True
    assert (values["roost_fence"], values["roost_lock_timeout_s"]) == (5, 45)


def test_the_environment_of_a_run_has_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SECRET_KEY", "x")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "x")
    kept = driver._environment({"ROOST_SECRET_KEY": "x", "AWX_ISOLATED_DATA_DIR": "/d", "ANSIBLE_CONFIG": "/c"})
    assert {"AWX_ISOLATED_DATA_DIR", "ANSIBLE_CONFIG", "PATH"} <= set(kept)
    assert not any(name.startswith(("ROOST_", "DJANGO_")) for name in kept)


def test_answers_become_results_and_errors() -> None:
    entry = {"changed": True, "restarted": False, "reload_needed": True, "running": True, "error": "", "diff": ["x"]}
    applied = judge({"instances": {"k1": entry}})
    assert (applied["k1"].changed, applied["k1"].reload_needed, applied["k1"].diff) == (True, True, ("x",))
    assert judge({"instances": {"other": entry}})["k1"].error
    with pytest.raises(Unavailable, match="not reached"):
        judge(unreachable="no route to host")
    with pytest.raises(Unavailable, match="held"):
        judge({"msg": "m", "refusal": "locked", "instances": {}})
    with pytest.raises(Rejected, match="fence"):
        judge({"msg": "m", "refusal": "fence", "instances": {}})
    with pytest.raises(Unavailable):
        judge(status="canceled")
    with pytest.raises(Unavailable):
        judge(status="timeout")
    with pytest.raises(Rejected, match="last line"):
        judge()


def test_no_bundle_is_no_run(tmp_path: Path) -> None:
    assert driver.AnsibleNode(tmp_path / "a").converge(TARGET, [], fence=1, timeout_s=1) == {}
    assert not (tmp_path / "a").exists()


def test_run_directories_are_private_and_go_away(tmp_path: Path) -> None:
    node = driver.AnsibleNode(tmp_path / "a")
    with node._run_directory() as place:
        assert stat.S_IMODE(place.stat().st_mode) == stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
        driver._write_private(place / "variables.json", "secret")
        assert stat.S_IMODE((place / "variables.json").stat().st_mode) == 0o600
        with node._run_directory():  # another worker's run leaves a living one alone
            assert (place / "variables.json").exists()
    assert list((tmp_path / "a" / "runs").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    node = driver.AnsibleNode(tmp_path / "file" / "a")
    with pytest.raises(Unavailable, match="cannot be written"):
        node.converge(replace(TARGET, connection="local"), [BUNDLE], fence=1, timeout_s=1)
