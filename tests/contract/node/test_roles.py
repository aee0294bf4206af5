"""The roles on this machine, in the test's directories: check mode, a first run, a second without change."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.node.conftest import CONTROL_GROUP

pytestmark = pytest.mark.servers

ANSIBLE = Path(__file__).resolve().parents[3] / "ansible"


@pytest.fixture
def place(control_group: str) -> Iterator[Path]:
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        pytest.skip("the roles need root on Debian")
    if shutil.which("systemctl") and Path("/run/systemd/system").exists():
        pytest.skip("the roles would change this machine's own services")
    made = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def play(place: Path, *options: str) -> dict[str, int]:
    """Run node.yml; the recap's counts."""
    for name in ("tmpfiles", "sysctl"):
        (place / name).mkdir(exist_ok=True)
    values = {
        "node_base_control_group": CONTROL_GROUP,
        "node_base_root": f"{place}/srv/instances",
        "node_base_state_dir": f"{place}/state",
        "node_base_run_dir": f"{place}/run",
        "node_base_tmpfiles_dir": f"{place}/tmpfiles",
        "node_base_sysctl_dir": f"{place}/sysctl",
        "node_base_sysctl": {},
        "edge_control_group": CONTROL_GROUP,
        "edge_map_dir": f"{place}/maps",
        "edge_config_file": f"{place}/haproxy.cfg",
        "edge_arguments": [
            "--address=127.65.0.1",
            f"--socket={place}/edge.sock",
            f"--map-dir={place}/maps",
            f"--control-group={CONTROL_GROUP}",
        ],
        "coturn_control_group": CONTROL_GROUP,
        "coturn_database": f"{place}/turn/turn.sqlite",
        "coturn_config_file": f"{place}/turnserver.conf",
        "coturn_arguments": ["--listen=127.65.0.4", "--realm=turn.example", f"--database={place}/turn/turn.sqlite"],
    }
    (place / "values.json").write_text(json.dumps(values))
    hosts = {"hosts": {"n1": {}}}
    machine = {"ansible_connection": "local", "ansible_become": False}
    inventory = {"all": {"vars": machine}, "nodes": hosts, "edges": hosts, "turn": hosts}
    (place / "hosts.yml").write_text(json.dumps(inventory))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", str(place / "hosts.yml"), "-e", f"@{place}/values.json", "node.yml", *options],
        cwd=ANSIBLE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "ANSIBLE_HOME": str(place / "home"), "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    recap = done.stdout.rsplit("PLAY RECAP", 1)[1]
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", recap)}


@pytest.mark.timeout(400)
def test_check_mode_then_a_run_then_no_change(place: Path) -> None:
    assert play(place, "--check")["changed"] > 0
    assert not (place / "srv").exists()
    assert not (place / "haproxy.cfg").exists()

    assert play(place)["changed"] > 0
    assert stat.S_IMODE((place / "state").stat().st_mode) == 0o700
    assert "127.65.0.1" in (place / "haproxy.cfg").read_text()
    assert "use-auth-secret" in (place / "turnserver.conf").read_text()
    assert stat.S_IMODE((place / "turn/turn.sqlite").stat().st_mode) == 0o660
    (place / "maps/backends.map").write_text("acme.example 127.65.0.9/7000\n")

    assert play(place)["changed"] == 0
    assert (place / "maps/backends.map").read_text() == "acme.example 127.65.0.9/7000\n"


def test_an_argument_that_does_not_fit_is_refused(place: Path) -> None:
    with pytest.raises(AssertionError, match="value of node_base_runtime must be one of"):
        play(place, "-e", "node_base_runtime=upstart", "--tags", "node_base", "--check")
