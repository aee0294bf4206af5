"""The roles on this machine, in the test's directories: check mode, a first run, a second without change."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
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


def play(place: Path, *options: str, within: tuple[str, ...] = (), edge: bool = True) -> dict[str, int]:
    """Run node.yml, by a command before it if one is given; the recap's counts."""
    for name in ("tmpfiles", "sysctl", "units"):
        (place / name).mkdir(exist_ok=True)
    values = {
        "node_base_control_group": CONTROL_GROUP,
        "node_base_root": f"{place}/srv/instances",
        "node_base_state_dir": f"{place}/state",
        "node_base_run_dir": f"{place}/run",
        "node_base_tmpfiles_dir": f"{place}/tmpfiles",
        "node_base_sysctl_dir": f"{place}/sysctl",
        "node_base_sysctl": {},
        "node_firewall_enabled": False,  # it would be this machine's own
        "node_firewall_instance_network": "127.65.128.0/17",
        "node_firewall_file": f"{place}/nftables.d/roost.nft",
        "node_firewall_unit_dir": f"{place}/units",
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
    inventory = {"all": {"vars": machine}, "nodes": hosts, **({"edges": hosts, "turn": hosts} if edge else {})}
    (place / "hosts.yml").write_text(json.dumps(inventory))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [*within, program, "-i", str(place / "hosts.yml"), "-e", f"@{place}/values.json", "node.yml", *options],
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


#: Prints whether a connection to an instance's port is accepted, for root and then for somebody else.
CONNECT = """
import os, socket
instance, other = "127.65.128.9", "127.65.0.9"
listeners = [socket.create_server(where) for where in ((instance, 7002), (instance, 7005), (other, 7002))]
for uid in (0, 65534):
    os.setresuid(-1, uid, -1)
    for listener in listeners:
        with socket.socket() as s:
            print(s.connect_ex(listener.getsockname()), end=" ")
"""


@pytest.mark.timeout(400)
def test_only_the_edges_users_connect_to_instances(place: Path) -> None:
    """In a network of its own, beside a table of somebody else that has to stay."""
    if shutil.which("nft") is None or shutil.which("ip") is None:
        pytest.skip("needs nft and ip")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "300"])
    try:
        within = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

        def inside(*argv: str) -> str:
            done = subprocess.run([*within, *argv], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def run(*options: str, enabled: bool = True) -> int:
            wish = json.dumps({"node_firewall_enabled": enabled})
            return play(place, "-e", wish, "--tags", "node_firewall", *options, within=within, edge=False)["changed"]

        inside("ip", "link", "set", "lo", "up")
        inside("nft", "add table inet theirs")
        refused, accepted = str(errno.ECONNREFUSED), "0"
        assert inside(sys.executable, "-c", CONNECT).split() == [accepted] * 6

        assert run("--check") > 0
        assert not (place / "nftables.d").exists()
        assert "roost_node" not in inside("nft", "list", "tables")
        assert run() > 0
        assert run() == 0
        assert inside(sys.executable, "-c", CONNECT).split() == [accepted] * 3 + [refused, accepted, accepted]
        assert "theirs" in inside("nft", "list", "tables")
        assert "--file " + str(place / "nftables.d/roost.nft") in (place / "units/roost-firewall.service").read_text()

        inside("nft", "flush", "ruleset")
        assert run() == 1, "a table that somebody flushed is loaded again"
        assert run(enabled=False) > 0
        assert run(enabled=False) == 0
        assert inside(sys.executable, "-c", CONNECT).split() == [accepted] * 6
        assert not (place / "nftables.d/roost.nft").exists()
    finally:
        holder.kill()
        holder.wait()
