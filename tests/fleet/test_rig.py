"""The rig itself: its hosts are like machines, its faults are what they are called, and nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.rig.network import PUBLIC, inside
from launcher.rig.processes import RigError, lives, marked, run
from launcher.rig.rig import Rig, take_down

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]
HOME = Path(__file__).resolve().parents[2]
DIRECTORY, NET = Path("/var/lib/roost-test-rig"), 94

#: Says what attempts at connections came to, all made at once, with the time that they had.
CONNECT = """
import concurrent.futures, json, socket, sys
port, limit_s, *addresses = sys.argv[1:]
def attempt(address):
    try:
        socket.create_connection((address, int(port)), timeout=float(limit_s)).close()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return error.strerror
    return "connected"
with concurrent.futures.ThreadPoolExecutor(9) as pool:
    print(json.dumps(list(pool.map(attempt, addresses))))
"""
#: Longer than a kernel looks for a neighbour.
LIMIT_S = 5.0
#: Says when it has a connection with an SSH server, and what came of it.
LISTEN = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 22), 5)
connection.settimeout(3)
connection.recv(99)
print(flush=True)
try:
    print(connection.recv(99))
except TimeoutError:
    print("silence")
"""
#: Clock, reboot, modules, raw memory (linux/capability.h).
FORBIDDEN = (25, 22, 16, 17)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    take_down(DIRECTORY)
    made = Rig(DIRECTORY, NET)
    try:
        made.up()
        made.add("cp", 1, full=False)
        for number in (1, 2):
            made.add(f"n{number}", 10 + number, hidden=(str(HOME),))
        yield made
    finally:
        made.down()


@pytest.fixture(autouse=True)
def mended(rig: Rig) -> Iterator[None]:
    """A test that fails leaves no fault to the next."""
    yield
    for name in ("n1", "n2"):
        rig.plug(name)
        rig.heal(name)


def forget_neighbours(rig: Rig) -> None:
    """Nobody remembers who has which address, as after some minutes without a word."""
    for host in rig.hosts.values():
        run([*inside(host.pid), "ip", "neigh", "flush", "all"])


def attempts(rig: Rig, name: str, *addresses: str, port: int = 22, limit_s: float = LIMIT_S) -> list[str]:
    argv = [*inside(rig.hosts[name].pid), "/usr/bin/python3", "-c", CONNECT, str(port), str(limit_s), *addresses]
    found: list[str] = json.loads(run(argv))
    return found


def connect(rig: Rig, name: str, address: str, port: int = 22, *, limit_s: float = LIMIT_S) -> str:
    return attempts(rig, name, address, port=port, limit_s=limit_s)[0]


def until(question: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def key(rig: Rig) -> Path:
    path = rig.directory / "test-key"
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)])
    for name in ("n1", "n2"):
        rig.hosts[name].authorize(path.with_suffix(".pub").read_text().strip())
    return path


def ssh(rig: Rig, key: Path, name: str, address: str, host_key: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Log in from the control plane, believing one host key only."""
    known = rig.directory / "known"
    known.write_text(f"{name} {host_key}\n")
    options = [f"UserKnownHostsFile={known}", f"HostKeyAlias={name}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    options += ["GlobalKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "ConnectTimeout=5"]
    argv = [*inside(rig.hosts["cp"].pid), "ssh", "-F", "/dev/null", "-i", str(key)]
    argv += [word for option in options for word in ("-o", option)]
    return subprocess.run([*argv, f"root@{address}", *command], capture_output=True, text=True, timeout=30, check=False)


# machines


def test_hosts_reach_each_other_by_all_their_addresses(rig: Rig) -> None:
    other = rig.hosts["n2"]
    own = (other.public, other.private, rig.plan.public6(other.number))
    assert attempts(rig, "n1", *own) == ["connected"] * 3
    assert attempts(rig, "cp", *own) == ["connected"] * 3


def test_a_host_is_a_machine_of_its_own(rig: Rig) -> None:
    host = rig.hosts["n1"]
    assert host.run("hostname").strip() == "n1"
    assert host.run("cat", "/proc/1/comm").strip() == "supervisord"
    assert "RUNNING" in host.program("status", "sshd")
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "openssh-server") == "installed"
    host.run("useradd", "--system", "only-here")
    host.run("sh", "-c", "echo mine > /etc/only-here")
    assert "only-here" not in Path("/etc/passwd").read_text()
    assert not Path("/etc/only-here").exists()
    assert rig.hosts["n2"].run("sh", "-c", "id only-here; ls /etc/only-here", check=False) == ""


def test_a_host_sees_nothing_that_is_this_machines_alone(rig: Rig) -> None:
    host = rig.hosts["n1"]
    assert host.run("ls", "-A", str(HOME)) == ""
    assert host.run("ls", "-A", "/root/.ssh").split() == ["authorized_keys"]
    assert host.run("ls", "-A", "/etc/supervisor/conf.d").split() == ["sshd.conf"]
    assert len(host.run("sh", "-c", "ls /etc/ssh/ssh_host_*").split()) == 2
    names = [line.partition(":")[0] for line in host.run("cat", "/etc/passwd").splitlines()]
    assert "root" in names
    assert not [name for name in names if name.startswith("r-") or name == "roost"]
    processes = host.run("ps", "-e", "-o", "comm=").split()
    assert "ps" in processes
    assert len(processes) < 12


@pytest.mark.parametrize("where", ["run", "ssh"])
def test_nobody_on_a_host_can_set_this_machines_clock_or_kernel(rig: Rig, key: Path, where: str) -> None:
    host = rig.hosts["n1"]
    script = "grep CapEff /proc/self/status; findmnt -no OPTIONS /proc/sys; sysctl -w net.core.somaxconn=4097"
    if where == "run":
        said = host.run("sh", "-c", script)
    else:
        said = ssh(rig, key, "n1", host.public, host.host_key, script).stdout
    capabilities, options, written = said.splitlines()
    assert not [bit for bit in FORBIDDEN if int(capabilities.split()[1], 16) >> bit & 1]
    assert "ro" in options.split(",")
    assert written == "net.core.somaxconn = 4097"  # the network's settings are its own
    assert Path("/proc/sys/net/core/somaxconn").read_text().strip() != "4097"


def test_one_logs_in_with_a_key_and_believes_the_pinned_host_only(rig: Rig, key: Path) -> None:
    host, other = rig.hosts["n1"], rig.hosts["n2"]
    done = ssh(rig, key, "n1", host.public, host.host_key, "hostname")
    assert done.stdout.strip() == "n1", done.stderr
    assert ssh(rig, key, "n1", rig.plan.public6(host.number), host.host_key, "hostname").stdout.strip() == "n1"
    refused = ssh(rig, key, "n1", host.public, other.host_key, "hostname")
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_a_new_host_key_is_another(rig: Rig, key: Path) -> None:
    host = rig.hosts["n2"]
    old = host.host_key
    host.new_host_key()
    until(lambda: connect(rig, "cp", host.public) == "connected")
    assert host.host_key != old
    assert "Host key verification failed" in ssh(rig, key, "n2", host.public, old, "true").stderr
    assert ssh(rig, key, "n2", host.public, host.host_key, "hostname").stdout.strip() == "n2"


def test_everybody_asks_the_rigs_resolver(rig: Rig) -> None:
    for name in ("n1", "cp"):
        assert f"nameserver {rig.plan.public(53)}\n" in rig.hosts[name].run("cat", "/etc/resolv.conf")
    assert rig.plan.public(53) not in Path("/etc/resolv.conf").read_text()


# faults


def test_a_cut_host_is_noticed_by_its_neighbours(rig: Rig) -> None:
    rig.cut("n1")
    forget_neighbours(rig)
    assert connect(rig, "cp", rig.hosts["n1"].public, limit_s=15) == "No route to host"
    assert "NO-CARRIER" in rig.hosts["n1"].run("ip", "link", "show", "dev", "eth0")
    rig.plug("n1")
    until(lambda: connect(rig, "cp", rig.hosts["n1"].public) == "connected")


def test_a_swallowed_host_is_silent_and_nobody_is_told(rig: Rig) -> None:
    """As with a firewall that drops: no refusal, and no failed neighbour look-up after three seconds either."""
    host = rig.hosts["n1"]
    forget_neighbours(rig)
    rig.swallow("n1")
    own = (host.public, rig.plan.public6(host.number), host.private)
    assert attempts(rig, "cp", *own, rig.hosts["n2"].public) == [*["silence"] * 3, "connected"]
    assert connect(rig, "n1", rig.hosts["n2"].private) == "silence"
    rig.heal("n1")
    assert connect(rig, "cp", host.public) == "connected"


def test_some_packets_are_lost(rig: Rig) -> None:
    host = rig.hosts["n1"]
    rig.swallow("n1", loss_percent=50)
    ping = ["ping", "-q", "-i", "0.01", "-W", "1", "-c", "100"]
    said = run([*inside(rig.hosts["cp"].pid), *ping, host.public], check=False)
    rig.heal("n1")
    assert 0 < int(said.partition("transmitted, ")[2].split()[0]) < 100
    assert " 0% packet loss" in run([*inside(rig.hosts["cp"].pid), *ping, host.public])


def test_a_slow_link_is_late_both_ways(rig: Rig) -> None:
    host, cp = rig.hosts["n1"], inside(rig.hosts["cp"].pid)
    rig.delay("n1", 60)
    slow = _fastest_ms(run([*cp, "ping", "-q", "-c", "3", "-i", "0.2", host.public]))
    rig.heal("n1")
    assert slow >= 120
    assert _fastest_ms(run([*cp, "ping", "-q", "-c", "3", "-i", "0.2", host.public])) < slow / 2
    assert "slow-n1" not in run([*inside(rig.hub), "ip", "-br", "link"])


def _fastest_ms(said: str) -> float:
    return float(said.rpartition(" = ")[2].partition("/")[0])


def test_a_slow_link_carries_a_stream_whole(rig: Rig, key: Path) -> None:
    host = rig.hosts["n1"]
    rig.delay("n1", 5)
    done = ssh(rig, key, "n1", host.public, host.host_key, "head -c 3000000 /dev/zero | tr '\\0' x")
    rig.heal("n1")
    assert done.stdout == "x" * 3_000_000


def test_a_changed_address_leaves_a_black_hole(rig: Rig) -> None:
    host, old4, old6 = rig.hosts["n2"], rig.hosts["n2"].public, rig.plan.public6(rig.hosts["n2"].number)
    rig.change_address("n2", 120)
    assert host.public == rig.plan.public(120)
    new = (host.public, rig.plan.public6(120), host.private)
    forget_neighbours(rig)
    assert attempts(rig, "cp", *new, old4, old6) == [*["connected"] * 3, *["silence"] * 2]
    with pytest.raises(RigError, match="belongs to n1"):
        rig.change_address("n2", 11)
    rig.change_address("n2", host.number)
    assert attempts(rig, "cp", old4, old6, *new[:2]) == ["connected", "connected", "silence", "silence"]


def test_a_host_behind_nat_goes_out_and_lets_in_what_is_led_on(rig: Rig, key: Path) -> None:
    host = rig.hosts["n1"]
    public, inner = host.public, rig.inner_address("n1")
    rig.put_behind_nat("n1", (22,))
    held = host.run("ip", "-br", "-4", "address", "show", "dev", "eth0")
    assert inner in held
    assert public not in held
    assert ssh(rig, key, "n1", public, host.host_key, "hostname").stdout.strip() == "n1"
    assert connect(rig, "n1", rig.hosts["n2"].public) == "connected"
    assert connect(rig, "cp", inner, limit_s=1) != "connected"
    assert connect(rig, "cp", public, 23) == "Connection refused"  # by the router
    rig.swallow("n1")
    assert connect(rig, "cp", public, limit_s=2) == "silence"
    rig.heal("n1")
    rig.off("n1")
    rig.on("n1")
    assert inner in host.run("ip", "-br", "-4", "address", "show", "dev", "eth0")
    until(lambda: connect(rig, "cp", public) == "connected")
    rig.remove_nat("n1")
    until(lambda: connect(rig, "cp", public) == "connected")
    assert public in host.run("ip", "-br", "-4", "address", "show", "dev", "eth0")
    assert connect(rig, "cp", rig.plan.public6(host.number)) == "connected"


# power


def test_a_host_without_power_says_nothing_and_keeps_its_disk(rig: Rig) -> None:
    host = rig.hosts["n2"]
    key = host.host_key
    host.run("sh", "-c", "echo kept > /var/lib/kept; echo gone > /run/gone; echo gone > /tmp/gone")
    before = host.pid
    peer = subprocess.Popen(
        [*inside(rig.hosts["cp"].pid), "/usr/bin/python3", "-c", LISTEN, host.public], stdout=subprocess.PIPE, text=True
    )
    assert peer.stdout is not None
    assert peer.stdout.readline() == "\n"  # it has a connection
    rig.off("n2")
    assert not host.is_on
    assert not lives(before)
    assert peer.communicate(timeout=20)[0].strip() == "silence"
    with pytest.raises(RigError, match="is off"):
        host.run("true")
    rig.on("n2")
    assert host.pid != before
    assert host.host_key == key
    assert host.run("cat", "/var/lib/kept") == "kept\n"
    assert host.run("sh", "-c", "ls /run/gone /tmp/gone", check=False) == ""
    until(lambda: connect(rig, "cp", host.public) == "connected")


def test_only_its_ssh_server_can_be_stopped(rig: Rig) -> None:
    host = rig.hosts["n1"]
    host.program("stop", "sshd")
    assert connect(rig, "cp", host.public) == "Connection refused"
    assert host.is_on
    host.program("start", "sshd")
    until(lambda: connect(rig, "cp", host.public) == "connected")


def test_another_process_finds_the_rig_as_it_is(rig: Rig) -> None:
    again = Rig.load(rig.directory)
    assert {name: host.pid for name, host in again.hosts.items()} == {n: h.pid for n, h in rig.hosts.items()}
    assert again.hosts["n1"].addresses[PUBLIC] == rig.hosts["n1"].addresses[PUBLIC]


# the end


def seen() -> dict[str, set[str]]:
    """What a rig could leave on this machine."""
    return {
        "networks": {entry.name for entry in os.scandir("/run/netns")} if Path("/run/netns").is_dir() else set(),
        "links": {line.split()[0] for line in run(["ip", "-br", "link"]).splitlines()},
        "mounts": {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()},
        "files": {str(path) for path in Path("/run").glob("go")},
    }


UP = """
import sys, time
from pathlib import Path
from launcher.rig.rig import Rig, take_down
rig = Rig(Path(sys.argv[1]), int(sys.argv[2]))
rig.up()
rig.add("cp", 1, full=False)
rig.add("n1", 11)
print("up", flush=True)
rig.add("n2", 12)
time.sleep(60)
"""


def test_nothing_stays_when_its_maker_was_killed(rig: Rig) -> None:
    before = seen()
    place = DIRECTORY.with_name(f"{DIRECTORY.name}-2")
    take_down(place)
    maker = subprocess.Popen(
        [sys.executable, "-c", UP, str(place), str(NET + 1)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    assert maker.stdout is not None
    assert maker.stdout.readline() == "up\n"
    made = Rig.load(place)
    # A program of a service that lost its supervisor: it bears no mark, but it is in the rig's network.
    stray = subprocess.Popen([*inside(made.hosts["cp"].pid), "env", "-i", "/bin/sleep", "100"])
    until(lambda: Path(f"/proc/{stray.pid}/comm").read_text() == "sleep\n")
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert marked(place)
    first = made.hosts["n1"].pid
    made.down()
    # Whoever ended it may have reaped it, too; it would have slept for 100 s.
    assert stray.wait(timeout=5) in (0, -signal.SIGKILL)
    assert not Path(f"/proc/{stray.pid}").exists()
    assert not marked(place)
    assert not lives(first)
    assert not place.exists()
    # Other tests on this machine come and go meanwhile: what is new must not be the rig's.
    new = {kind: things - before[kind] for kind, things in seen().items()}
    assert not [mount for mount in new["mounts"] if str(place) in mount]
    assert not [link for link in new["links"] if link.startswith(("pub", "pri"))]
    assert not new["files"]
    made.down()  # nothing to do, and no harm
    assert rig.hosts["n1"].is_on  # another rig is not touched
