"""The roles on a machine of its own: what check mode foretells, what a run changes, and that a second changes nothing.

It has no systemd and is prepared whole, by the driver over SSH; of systemd's part it shows what can be seen without it.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.drivers.edge.config import EdgeConfig, render_haproxy_cfg
from tests.contract.roles.machine import Machine, machine

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

HOME = Path(__file__).resolve().parents[3]
EVERYTHING = ("nodes", "edges", "turn")
INSTANCE, EDGE, STRANGER = "10.65.3.9", "10.64.0.7", "10.64.0.8"

#: Runs inside the machine, where its SSH server is within reach: what the control plane does.
PREPARE = """
import dataclasses, json, sys
from pathlib import Path
from controlplane.drivers.node.ansible import AnsibleNode
from controlplane.drivers.node.base import NodeTarget
from controlplane.values.errors import RoostError
from controlplane.values.secret import Secret
wish = json.load(sys.stdin)
target = NodeTarget(
    "n1", "ssh", "supervisor", "127.0.0.1", "/var/lib/roost-node", "", ssh_port=2222,
    host_keys=(" ".join(Path("/tmp/ssh/host.pub").read_text().split()[:2]),),
    private_key=Secret(Path("/tmp/ssh/user").read_text()),
)
try:
    done = AnsibleNode(Path("/tmp/ansible"), Path("/tmp/lines")).prepare(target, timeout_s=300, **wish)
    print(json.dumps(dataclasses.asdict(done)))
except RoostError as error:
    print(json.dumps({"error": str(error)}))
"""


def variables(**more: Any) -> dict[str, Any]:
    edge = EdgeConfig(
        addresses=("10.64.0.1",),
        socket="/run/roost/edge.sock",
        map_dir="/var/lib/roost-edge",
        proxy65_ports=(20000, 20009),
    )
    return {
        "node_base_runtime": "supervisor",
        "node_base_control_users": ["ops"],
        "node_base_instance_network": "10.65.0.0/16",
        "node_firewall_instance_network": "10.65.0.0/16",
        "node_firewall_edges": [EDGE],
        "edge_haproxy_cfg": render_haproxy_cfg(edge),
        "coturn_arguments": [
            "--listen=10.64.0.1",
            "--realm=turn.example",
            "--database=/var/lib/roost-turn/turndb.sqlite",
            "--pidfile=/var/lib/roost-turn/turnserver.pid",
        ],
        **more,
    }


def prepare(host: Machine, *, groups: tuple[str, ...] = EVERYTHING, fence: int = 2, **options: Any) -> dict[str, Any]:
    """The driver's answer as a dictionary."""
    more = options.pop("variables", {})
    wish = {"groups": groups, "variables": variables(**more), "fence": fence, **options}
    done = subprocess.run(
        [*host.within, "env", "HOME=/tmp", f"PYTHONPATH={HOME}", sys.executable, "-c", PREPARE],
        input=json.dumps(wish),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def play(host: Machine, *options: str, groups: tuple[str, ...] = EVERYTHING, **more: Any) -> str:
    """Run node.yml by hand, as an operator would; what it prints."""
    hosts = {"all": {"hosts": {"n1": {}}}, **{group: {"hosts": {"n1": {}}} for group in groups}}
    local = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    values = {**variables(**more), **local}
    (host.root / "tmp/values.json").write_text(json.dumps(values))
    (host.root / "tmp/hosts.yml").write_text(json.dumps(hosts))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    script = f'cd {HOME}/ansible && HOME=/tmp exec {program} -i /tmp/hosts.yml -e @/tmp/values.json node.yml "$@"'
    return host.run("sh", "-c", script, "sh", *options, timeout_s=300)


def changed(printed: str) -> int:
    return int(re.findall(r"changed=(\d+)", printed)[-1])


def names(answer: dict[str, Any]) -> set[tuple[str, str]]:
    assert "error" not in answer, answer
    return {(task["role"], task["name"]) for task in answer["tasks"]}


@pytest.fixture(scope="module")
def host() -> Iterator[Machine]:
    """A machine that lacks some packages; the tests prepare it, in the order in which they stand here."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        pytest.skip("the roles need root on Debian")
    with machine() as made:
        made.without("haproxy", "restic", "supervisor")
        made.run("useradd", "ops")
        made.run("ip", "address", "add", "10.64.0.1/24", "dev", "lo")
        serve_ssh(made)
        yield made


def serve_ssh(made: Machine) -> None:
    """An SSH server that knows one key."""
    # What this machine's root has its shell do would be done for each command.
    made.run("rm", "-f", "/root/.bashrc", "/root/.profile")
    made.run("mkdir", "-m", "700", "/tmp/ssh", "/tmp/lines", "/run/sshd")
    for name in ("host", "user"):
        made.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/tmp/ssh/{name}")
    options = ("HostKey=/tmp/ssh/host", "AuthorizedKeysFile=/tmp/ssh/user.pub", "StrictModes=no", "UsePAM=no")
    more = [word for option in options for word in ("-o", option)]
    made.run("/usr/sbin/sshd", "-f", "/dev/null", "-o", "Port=2222", "-o", "ListenAddress=127.0.0.1", *more)


def test_check_mode_foretells_what_a_run_changes(host: Machine) -> None:
    foretold = prepare(host, check=True)
    assert len(names(foretold)) > 20
    assert "haproxy" not in foretold["versions"]
    for path in ("srv/roost", "var/lib/roost-edge", "etc/nftables.d/roost.nft", "usr/sbin/haproxy", "run/roost"):
        assert not (host.root / path).exists(), path

    done = prepare(host)
    assert names(done) == names(foretold)
    assert "haproxy" not in done["before"]
    assert {"prosody", "ejabberd", "haproxy", "coturn"} <= set(done["versions"])

    assert names(prepare(host)) == set()


def test_all_is_where_the_control_plane_looks_for_it(host: Machine) -> None:
    status = host.run("supervisorctl", "status", check=False)
    assert re.search(r"haproxy +RUNNING", status), status
    assert re.search(r"coturn +RUNNING", status), status
    # By a user who is nothing but a member of the control group, as the one is whom the control plane logs in as.
    ask = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/roost/edge.sock'); "
    ask += "s.sendall(b'show info\\n'); print(s.recv(4096).decode())"
    as_ops = ("setpriv", "--reuid=ops", "--regid=ops", "--init-groups")
    assert "Name: HAProxy" in host.run(*as_ops, "/usr/bin/python3", "-c", ask)
    host.run(*as_ops, "sh", "-c", "echo 'acme.example 10.65.0.9/7000' > /var/lib/roost-edge/backends.map")
    assert stat.S_IMODE((host.root / "var/lib/roost-node").stat().st_mode) == 0o700
    assert stat.S_IMODE((host.root / "var/lib/roost-backup").stat().st_mode) == 0o700
    assert "local 10.65.0.0/16" in host.run("ip", "route", "show", "table", "local")
    assert host.run("sysctl", "-n", "net.ipv4.tcp_retries2").strip() == "5"


def test_a_fence_that_was_overtaken_is_refused(host: Machine) -> None:
    assert "fence 2" in prepare(host, fence=1)["error"]


@pytest.mark.parametrize("role", ["coturn", "backup"])
def test_a_role_can_be_run_alone(host: Machine, role: str) -> None:
    printed = play(host, "--tags", role)
    assert changed(printed) == 0
    ran = set(re.findall(r"TASK \[(\w+) : (?!Validating|Look who)", printed))
    assert ran == {role}


def test_an_argument_that_does_not_fit_is_refused(host: Machine) -> None:
    answer = prepare(host, check=True, variables={"node_base_runtime": "upstart"})
    assert "value of node_base_runtime must be one of" in answer["error"]
    with pytest.raises(AssertionError, match="SSH server's port 7002"):
        play(host, "--tags", "node_firewall", groups=("nodes",), node_firewall_ssh_port=7002)


def test_a_changed_configuration_is_taken_up_without_a_restart(host: Machine) -> None:
    pid = host.run("supervisorctl", "pid", "haproxy")
    assert changed(play(host, "--tags", "edge", edge_haproxy_cfg=variables()["edge_haproxy_cfg"] + "\n# more\n")) == 2
    assert host.run("supervisorctl", "pid", "haproxy") == pid
    assert (host.root / "var/lib/roost-edge/backends.map").read_text() == "acme.example 10.65.0.9/7000\n"


def test_a_boot_brings_back_what_does_not_outlive_one(host: Machine) -> None:
    host.run("supervisorctl", "shutdown")
    until(lambda: not (host.root / "run/supervisor.sock").exists())
    host.run("nft", "flush", "ruleset")
    host.run("ip", "route", "delete", "local", "10.65.0.0/16", "dev", "lo")
    host.run("rm", "-r", "/run/roost")
    host.run("supervisord", "-c", "/etc/supervisor/supervisord.conf")
    until(lambda: "roost_node" in host.run("nft", "list", "tables"))
    until(lambda: "10.65.0.0/16" in host.run("ip", "route", "show", "table", "local"))
    until(lambda: (host.root / "run/roost/edge.sock").exists())
    assert changed(play(host, "--tags", "node_base,node_firewall", groups=("nodes",))) == 0


#: Puts two packages of the version given into the only repository that the machine has from then on.
PUBLISH = r"""
set -e
mkdir -p /tmp/repo && cd /tmp/repo && rm -f Packages
for name in toy-engine toy-other; do
  file="${name}_$1.deb"
  mkdir -p "$name/DEBIAN"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody\nDescription: toy\n' "$name" "$1" \
    > "$name/DEBIAN/control"
  dpkg-deb --build "$name" "$file" > /dev/null
  { cat "$name/DEBIAN/control"; printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' \
    "$file" "$(stat -c %s "$file")" "$(sha256sum "$file" | cut -d' ' -f1)"; } >> Packages
done
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
echo 'deb [trusted=yes] file:/tmp/repo ./' > /etc/apt/sources.list
touch -d '2 hours ago' /var/lib/apt/lists/partial
"""


def publish(host: Machine, version: str) -> None:
    host.run("sh", "-c", PUBLISH, "sh", version)


def test_an_upgrade_brings_the_named_packages_and_no_others(host: Machine) -> None:
    def installed() -> list[str]:
        return host.run("dpkg-query", "--show", "--showformat=${Version} ", "toy-engine", "toy-other").split()

    policy, kept = host.root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"
    policy.write_text(kept)
    tags, wish = ("--tags", "prosody"), {"groups": ("nodes",), "prosody_packages": ["toy-engine"]}
    publish(host, "1.0")
    host.run("apt-get", "update")
    host.run("apt-get", "install", "-y", "toy-other")
    assert changed(play(host, *tags, **wish)) == 1
    publish(host, "1.1")
    assert changed(play(host, *tags, **wish)) == 0
    assert installed() == ["1.0", "1.0"]
    assert changed(play(host, *tags, **wish, node_base_upgrade=True)) == 1
    assert installed() == ["1.1", "1.0"]
    assert policy.read_text() == kept, "the machine's own policy for services is back"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


#: Prints for each address and port whether a connection is accepted; as the user whose number comes first.
CONNECT = """
import os, socket, sys
os.setresuid(-1, int(sys.argv[1]), -1)
for word in sys.argv[2:]:
    address, port = word.rsplit("-", 1)
    with socket.socket() as s:
        s.settimeout(3)
        print(s.connect_ex((address, int(port))), end=" ")
"""
LISTEN = """
import socket, sys, time
made = []
for word in sys.argv[1:]:
    address, port = word.rsplit("-", 1)
    made.append(socket.create_server((address, int(port))))
print("up", flush=True)
time.sleep(300)
"""


@dataclasses.dataclass
class Outside:
    """Two more machines on the same network, an edge and somebody else, and what listens on the host."""

    host: Machine
    holders: list[subprocess.Popen[str]]

    def connect(self, who: str, *targets: str, uid: int = 0) -> list[int]:
        namespace = {"edge": self.holders[0].pid, "stranger": self.holders[1].pid, "host": self.host.pid}[who]
        argv = ["nsenter", f"--net=/proc/{namespace}/ns/net", sys.executable, "-c", CONNECT, str(uid), *targets]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        return [int(word) for word in done.stdout.split()]


@pytest.fixture(scope="module")
def outside(host: Machine) -> Iterator[Outside]:
    holders: list[subprocess.Popen[str]] = []
    host.run("ip", "link", "add", "br0", "type", "bridge")
    host.run("ip", "address", "delete", "10.64.0.1/24", "dev", "lo")
    host.run("ip", "address", "add", "10.64.0.1/24", "dev", "br0")
    host.run("ip", "link", "set", "br0", "up")
    try:
        for number, address in enumerate((EDGE, STRANGER)):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "600"], text=True)
            holders.append(holder)
            until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))  # noqa: B023
            out = ["nsenter", f"--target={host.pid}", "--net", "ip"]
            subprocess.run(
                [*out, "link", "add", f"o{number}", "type", "veth", "peer", "name", "i", "netns", str(holder.pid)],
                check=True,
            )
            host.run("ip", "link", "set", f"o{number}", "master", "br0", "up")
            inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "ip"]
            for words in (f"address add {address}/24 dev i", "link set i up", "route add 10.65.0.0/16 via 10.64.0.1"):
                subprocess.run([*inside, *words.split()], check=True)
        listen = [f"{INSTANCE}-{port}" for port in (7002, 7005, 20001)] + ["10.64.0.1-22", "10.64.0.1-7002"]
        argv = [*host.within, sys.executable, "-c", LISTEN, *listen]
        listener = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        holders.append(listener)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        yield Outside(host, holders)
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


ACCEPTED, REFUSED = 0, errno.ECONNREFUSED


def test_only_edges_connect_to_instances(host: Machine, outside: Outside) -> None:
    instance = [f"{INSTANCE}-{port}" for port in (7002, 7005, 20001)]
    assert outside.connect("edge", *instance) == [ACCEPTED] * 3
    assert outside.connect("stranger", *instance) == [REFUSED, ACCEPTED, REFUSED]
    assert outside.connect("host", *instance) == [ACCEPTED] * 3, "root, as HAProxy's user"
    assert outside.connect("host", *instance, uid=65534) == [REFUSED, ACCEPTED, ACCEPTED]
    others = ["10.64.0.1-22", "10.64.0.1-7002"]
    for who in ("edge", "stranger"):
        assert outside.connect(who, *others) == [ACCEPTED] * 2, "SSH, and what is no instance's, is open to all"


def test_the_firewall_comes_back_and_can_be_taken_away(host: Machine, outside: Outside) -> None:
    host.run("nft", "add table inet theirs")
    host.run("nft", "delete table inet roost_node")
    assert changed(play(host, "--tags", "node_firewall", groups=("nodes",))) == 1, "somebody took it away: it is loaded"
    assert changed(play(host, "--tags", "node_firewall", groups=("nodes",), node_firewall_enabled=False)) > 0
    assert outside.connect("stranger", f"{INSTANCE}-7002") == [ACCEPTED]
    assert host.run("nft", "list", "tables").split() == ["table", "inet", "theirs"]
    assert not (host.root / "etc/nftables.d/roost.nft").exists()


def test_where_systemd_is_to_run_its_files_are_written(host: Machine) -> None:
    """Nobody asks a systemd that does not run; units do at boot what programs of supervisord do elsewhere.

    With a network of IPv6, which takes another setting to be listened on, and other rules.
    """
    network = {"node_base_instance_network": "fd00:65::/64", "node_firewall_instance_network": "fd00:65::/64"}
    wish: dict[str, Any] = {"node_base_runtime": "systemd", "node_firewall_edges": [EDGE, "fd00::7"], **network}
    tags = ("--tags", "node_base,prosody,node_firewall")
    assert changed(play(host, *tags, groups=("nodes",), **wish)) > 0
    assert changed(play(host, *tags, groups=("nodes",), **wish)) == 0
    units = host.root / "etc/systemd/system"
    assert "ExecStart=/usr/local/lib/roost/boot" in (units / "roost-node.service").read_text()
    assert "--file /etc/nftables.d/roost.nft" in (units / "roost-firewall.service").read_text()
    bind = "import socket; socket.create_server(('fd00:65::9', 7000), family=socket.AF_INET6)"
    host.run("/usr/bin/python3", "-c", bind)
    assert "ip6 saddr != fd00::7" in host.run("nft", "list", "table", "inet", "roost_node")
