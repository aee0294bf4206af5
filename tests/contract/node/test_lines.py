"""Both kinds of line do the same: one suite over this machine's and over a real sshd's; then what only SSH can do."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.drivers.node import hostkeys
from controlplane.drivers.node.base import HostKeyUnknown, KeyRefused, Line, NodeTarget
from controlplane.drivers.node.lines import LocalLine
from controlplane.drivers.node.ssh import SshLine
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.secret import Secret
from launcher import leftovers
from tests.servers.sshd import SSHD, Sshd, make_key

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not SSHD.exists() or os.geteuid() != 0, reason="needs openssh-server and root"),
]

ADDRESS = "127.65.200.1"
DOUBLE = (
    '"""Doubles."""\nfrom __future__ import annotations\n\ndef main(argument):\n    return {"twice": argument * 2}\n'
)
SLOWLY = "import time\ndef main(argument):\n    time.sleep(1)\n    return argument\n"


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rl", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd(ADDRESS) as server:
        yield server


@pytest.fixture
def target(sshd: Sshd, place: Path) -> NodeTarget:
    if sshd.process is None:
        sshd.start()
    sshd.authorized.write_text(make_key(place / "key") + " roost:n1\n")
    return NodeTarget(
        name="n1",
        connection="ssh",
        runtime="systemd",
        address=sshd.address,
        ssh_port=sshd.port,
        state_dir="/nonexistent",
        runtime_dir="/nonexistent",
        host_keys=sshd.host_keys,
        private_key=Secret((place / "key").read_text()),
    )


@pytest.fixture
def over_ssh(target: NodeTarget, place: Path) -> Iterator[SshLine]:
    line = SshLine(target, place / "lines")
    yield line
    line.close()


@pytest.fixture(params=["local", "ssh"])
def line(request: pytest.FixtureRequest) -> Line:
    if request.param == "local":
        return LocalLine("here")
    made: SshLine = request.getfixturevalue("over_ssh")
    return made


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for said in self.rfile:
            self.wfile.write(b"echo " + said)


@pytest.fixture
def echo(place: Path) -> Iterator[Path]:
    path = place / "far.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def say(path: Path, text: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
        stream.connect(str(path))
        stream.sendall(text)
        return stream.makefile("rb").readline()


def test_words_arrive_as_they_are(line: Line) -> None:
    words = ["a b", "", "$HOME", "'q'", '"d"', "x;y", "*", "ü", "-n", "\\", "new\nline"]
    said = line.run(["printf", "%s|", *words])
    assert (said.code, said.out) == (0, "|".join(words) + "|")


def test_status_output_and_input_come_through(line: Line) -> None:
    said = line.run(["sh", "-c", "cat; echo oh >&2; exit 7"], stdin=b"in\n")
    assert (said.code, said.out, said.err) == (7, "in\n", "oh\n")
    assert line.run(["/nonexistent/command"]).code == 127


def test_a_status_of_255_is_the_commands_own(line: Line) -> None:
    assert line.run(["sh", "-c", "exit 255"]).code == 255


def test_python_is_asked_and_answers_json(line: Line) -> None:
    assert line.ask(DOUBLE, 21) == {"twice": 42}
    assert line.ask(DOUBLE, "'\"\\ü\n\x1e") == {"twice": "'\"\\ü\n\x1e" * 2}
    big = "x" * 300_000
    assert line.ask(DOUBLE, big) == {"twice": big * 2}


def test_what_a_program_prints_is_not_its_answer(line: Line) -> None:
    assert line.ask("def main(argument):\n    print('[1, 2]')\n    return argument\n", None) is None


def test_a_program_that_fails_is_rejected_with_its_last_words(line: Line) -> None:
    with pytest.raises(Rejected, match="ValueError: no such thing"):
        line.ask("def main(argument):\n    raise ValueError('no such thing')\n", 1)


def test_whoever_does_not_answer_in_time_is_unavailable(line: Line) -> None:
    with pytest.raises(Unavailable):
        line.run(["sleep", "30"], timeout_s=0.5)
    with pytest.raises(Unavailable):
        line.ask("import time\ndef main(argument):\n    time.sleep(30)\n", 1, timeout_s=0.5)
    assert line.ask(DOUBLE, 1) == {"twice": 2}


def test_a_socket_leads_to_the_nodes_socket(line: Line, echo: Path) -> None:
    near = line.socket(str(echo))
    assert [say(near, b"one\n"), say(line.socket(str(echo)), b"two\n")] == [b"echo one\n", b"echo two\n"]


def test_a_socket_that_nobody_serves_ends_at_once(line: Line, place: Path) -> None:
    near = line.socket(str(place / "nobody.sock"))
    try:
        assert say(near, b"one\n") == b""
    except OSError:
        pass  # this machine's own says so when connecting
    else:
        assert isinstance(line, SshLine)


def test_a_closed_line_opens_again(line: Line, echo: Path) -> None:
    line.socket(str(echo))
    line.close()
    line.close()
    assert line.run(["true"]).code == 0
    assert say(line.socket(str(echo)), b"x\n") == b"echo x\n"


# From here on: what only a line to another machine can have.


def processes_of(line: SshLine) -> list[int]:
    """The masters of this line."""
    found = subprocess.run(["pgrep", "-f", f"ControlPath={line.control}"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_one_connection_carries_all_and_no_key_stays(over_ssh: SshLine, sshd: Sshd, echo: Path, place: Path) -> None:
    before = sshd.logins()
    other = SshLine(over_ssh.target, place / "lines")
    for number in range(5):
        assert over_ssh.ask(DOUBLE, number) == {"twice": 2 * number}
        assert say(other.socket(str(echo)), b"x\n") == b"echo x\n"
    assert sshd.logins() == before + 1
    key = over_ssh.target.private_key
    assert key is not None
    files = [path for path in (place / "lines").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["lock"], "only the lock stays"
    (master,) = processes_of(over_ssh)
    shown = Path(f"/proc/{master}/cmdline").read_bytes() + Path(f"/proc/{master}/environ").read_bytes()
    assert key.reveal().splitlines()[1].encode() not in shown
    assert b"ROOST" not in Path(f"/proc/{master}/environ").read_bytes()
    for directory in (place / "lines" / "0", over_ssh.control.parent):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_the_launcher_finds_connections_that_outlive_their_makers(over_ssh: SshLine, place: Path) -> None:
    over_ssh.run(["true"])
    assert leftovers.of_lines(place / "lines") == processes_of(over_ssh)
    assert leftovers.of_lines(place / "line") == []
    leftovers.end(leftovers.of_lines(place / "lines"))
    assert processes_of(over_ssh) == []


def test_many_at_once_open_one_connection(target: NodeTarget, sshd: Sshd, echo: Path, place: Path) -> None:
    """In processes of their own, as workers are: more than sshd has sessions for, too."""
    before = sshd.logins()
    program = (
        "import pickle, sys\nfrom pathlib import Path\nfrom controlplane.drivers.node.ssh import SshLine\n"
        "from tests.contract.node.test_lines import SLOWLY, say\n"
        "target, place, echo = pickle.load(open(sys.argv[1], 'rb'))\nline = SshLine(target, place)\n"
        "assert line.ask(SLOWLY, 4) == 4\n"
        "assert say(line.socket(str(echo)), b'x\\n') == b'echo x\\n'\n"
    )
    job = place / "job"
    job.write_bytes(pickle.dumps((target, place / "lines", echo)))
    workers = [subprocess.Popen([sys.executable, "-c", program, str(job)]) for _ in range(4)]
    line = SshLine(target, place / "lines")
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(line.run(["sleep", "1"]).code), daemon=True) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [worker.wait(30) for worker in workers] == [0] * 4
    assert answers == [0] * 12
    assert sshd.logins() == before + 1
    line.close()
    eventually(lambda: not processes_of(line))


def test_a_killed_master_is_replaced_with_its_sockets(over_ssh: SshLine, echo: Path) -> None:
    assert say(over_ssh.socket(str(echo)), b"x\n") == b"echo x\n"
    for pid in processes_of(over_ssh):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_of(over_ssh))
    assert say(over_ssh.socket(str(echo)), b"y\n") == b"echo y\n"
    assert over_ssh.run(["true"]).code == 0


def test_a_master_that_hangs_is_left_behind(over_ssh: SshLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.drivers.node.ssh.TELL_S", 0.5)
    over_ssh.run(["true"])
    (master,) = processes_of(over_ssh)
    os.kill(master, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            over_ssh.run(["true"], timeout_s=1)
        assert over_ssh.run(["true"]).code == 0
    finally:
        os.kill(master, signal.SIGKILL)


def test_a_machine_that_goes_is_unavailable_and_comes_back(over_ssh: SshLine, sshd: Sshd, echo: Path) -> None:
    over_ssh.socket(str(echo))
    sshd.stop()
    with pytest.raises(Unavailable):
        over_ssh.run(["true"])
    eventually(lambda: not processes_of(over_ssh))
    with pytest.raises(Unavailable, match=r"n1 \(127\.65\.200\.1 port 22022\) is not reached: .*[Cc]onnection refused"):
        over_ssh.run(["true"])
    sshd.start()
    eventually(lambda: _works(over_ssh, echo))


def _works(line: SshLine, echo: Path) -> bool:
    try:
        return say(line.socket(str(echo)), b"x\n") == b"echo x\n" and line.run(["true"]).code == 0
    except Unavailable:
        return False


def test_a_machine_that_swallows_everything_is_given_up_in_time(target: NodeTarget, place: Path) -> None:
    """Its port takes connections and never says a word."""
    with socket.socket() as silent:
        silent.bind(("127.65.200.2", 0))
        silent.listen(50)
        lost = dataclasses.replace(target, address="127.65.200.2", ssh_port=silent.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(Unavailable):
            SshLine(lost, place / "lines").run(["true"], timeout_s=10)
        assert time.monotonic() - began < 15, "below any lease"


def test_a_changed_host_key_is_refused_and_shown(over_ssh: SshLine, sshd: Sshd, place: Path) -> None:
    over_ssh.run(["true"])
    over_ssh.close()
    before = sshd.logins()
    sshd.stop()
    sshd.new_host_keys()
    sshd.start()
    with pytest.raises(HostKeyUnknown, match=hostkeys.fingerprint(sshd.host_keys[0]).replace("+", r"\+")) as caught:
        over_ssh.run(["true"])
    assert caught.value.seen == sshd.host_keys
    assert sshd.logins() == before
    accepted = SshLine(dataclasses.replace(over_ssh.target, host_keys=sshd.host_keys), place / "lines")
    assert accepted.run(["true"]).code == 0
    accepted.close()


def test_nobody_is_believed_without_a_pinned_key(target: NodeTarget, sshd: Sshd, place: Path) -> None:
    before = sshd.logins()
    with pytest.raises(HostKeyUnknown) as caught:
        SshLine(dataclasses.replace(target, host_keys=()), place / "lines").ask(DOUBLE, 1)
    assert caught.value.seen == sshd.host_keys
    assert sshd.logins() == before


def test_a_key_that_is_not_accepted_is_said(over_ssh: SshLine, sshd: Sshd) -> None:
    sshd.authorized.write_text("")
    with pytest.raises(KeyRefused, match="does not accept our key for root") as caught:
        over_ssh.run(["true"])
    assert "authorized_keys" in caught.value.remedy
    assert not list(over_ssh.control.parent.glob("k*")), "our key is not left there"


def test_keys_that_a_killed_opener_left_are_removed(over_ssh: SshLine) -> None:
    left = over_ssh.control.parent / "kleft"
    left.mkdir(parents=True)
    over_ssh.control.parent.parent.chmod(0o700)
    (left / "key").write_text("secret")
    assert over_ssh.run(["true"]).code == 0
    assert not left.exists()


def test_a_directory_of_others_is_not_used(target: NodeTarget, place: Path) -> None:
    (place / "lines" / "0").mkdir(parents=True)
    (place / "lines" / "0").chmod(0o755)
    with pytest.raises(Rejected, match="not ours alone"):
        SshLine(target, place / "lines").run(["true"])


@pytest.mark.parametrize("path", ["relative", "/a:b", "/a b", "/%h", "/${HOME}", "/a\nb", ""])
def test_paths_that_ssh_would_read_otherwise_are_refused(over_ssh: SshLine, path: str) -> None:
    with pytest.raises(Rejected):
        over_ssh.socket(path)


def test_other_addresses_and_kinds_of_keys(place: Path) -> None:
    with Sshd("::1", port=22923, kinds=("rsa", "ecdsa")) as server:
        server.allow(make_key(place / "key"))
        assert hostkeys.scan("::1", 22923) == tuple(sorted(server.host_keys))
        key = Secret((place / "key").read_text())
        reach = {"address": "::1", "ssh_port": 22923, "private_key": key, "host_keys": server.host_keys[1:]}
        target = NodeTarget("n6", "ssh", "systemd", state_dir="/x", runtime_dir="/x", **reach)
        line = SshLine(target, place / "lines")
        assert line.run(["echo", "six"]).out == "six\n"
        line.close()


def test_fingerprints_are_those_of_ssh_keygen(sshd: Sshd) -> None:
    said = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.place / "host_ed25519.pub")], capture_output=True, text=True, check=True
    )
    assert hostkeys.fingerprint(sshd.host_keys[0]) == said.stdout.split()[1]
    assert hostkeys.is_fingerprint(said.stdout.split()[1])
    noisy = f"[127.65.200.1]:22022 {sshd.host_keys[0]} root@n1"
    assert hostkeys.parse(noisy) == sshd.host_keys[0]


@pytest.mark.parametrize(
    "text",
    ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ", "ssh-dss AAAAB3NzaC1kc3MAAACBAA=="],
)
def test_what_is_no_host_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        hostkeys.parse(text)
