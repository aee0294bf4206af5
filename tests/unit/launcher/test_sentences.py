"""Each trouble that a person can mend is one sentence that says how."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from launcher import cli, machine, packages, ports, processes, venv
from launcher.errors import Problem, from_os_error

HOST = "127.69.0.1"


def test_a_full_disk_is_named_wherever_it_shows() -> None:
    assert "disk is full" in str(from_os_error(OSError(errno.ENOSPC, "No space left on device", "/x")))
    assert "disk is full" in str(processes.failure(["initdb"], 1, "initdb: error: No space left on device"))
    assert "disk is full" in str(packages.explain("E: You don't have enough free space in /var/", ["x"], Problem("p")))
    assert from_os_error(OSError(errno.EPERM, "no")) is None


def test_a_disk_with_too_little_left_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    machine.check_disk(tmp_path / "not" / "there", 0)
    with pytest.raises(Problem, match=r"MiB left and 9+ MiB are needed\. Free some space"):
        machine.check_disk(tmp_path / "not" / "there", 999_999_999)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("E: Failed to fetch http://m/x  Temporary failure resolving 'm'", "No package mirror can be reached"),
        ("Err:1 http://m bookworm InRelease\n  Could not connect to m:80", "No package mirror can be reached"),
        ("E: Unable to locate package pebble", "does not know pebble"),
        ("E: Package 'coturn' has no installation candidate", "does not know coturn"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend", "Another package installation"),
    ],
)
def test_apt_get_is_understood(said: str, sentence: str) -> None:
    assert sentence in str(packages.explain(said, ["pebble"], Problem("apt-get failed")))


def test_what_is_not_understood_stays_as_the_tool_said_it() -> None:
    found = packages.explain(
        "E: Sub-process returned an error code", ["x"], Problem("apt-get failed (exit status 100).")
    )
    assert str(found) == "apt-get failed (exit status 100)."
    assert "Sub-process" in found.detail


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Failed to establish a new connection: NewConnectionError", "No Python package mirror"),
        ("ERROR: No matching distribution found for acme==5.9.0", "No Python package mirror"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "differs from the one in the lock file"),
    ],
)
def test_pip_is_understood(said: str, sentence: str) -> None:
    assert sentence in str(venv.explain(Problem("pip failed", said)))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', True),
        ('ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n', False),
        ('ID=ubuntu\nVERSION_ID="12"\nPRETTY_NAME="Ubuntu"\n', False),
        ("", False),
    ],
)
def test_another_system_is_named(tmp_path: Path, text: str, fits: bool) -> None:
    release = tmp_path / "os-release"
    release.write_text(text)
    if fits:
        machine.check_system(release)
    else:
        with pytest.raises(Problem, match="needs Debian 12"):
            machine.check_system(release)


def test_a_taken_port_is_named_with_who_has_it() -> None:
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        port = ("tcp", HOST, server.getsockname()[1])
        assert ports.taken(port)
        with pytest.raises(Problem) as caught:
            ports.check([("HAProxy (edge)", port)], net=77)
        assert f"Port {port[2]}/tcp on {HOST} is already taken by" in str(caught.value)
        assert "ROOST_NET=" in str(caught.value)
        assert f"(process {os.getpid()})" in ports.holder(port)
    assert not ports.taken(port)
    ports.check([("HAProxy (edge)", port)], net=77)


def test_a_port_taken_on_all_addresses_is_found_too() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        port = ("udp", HOST, server.getsockname()[1])
        assert ports.taken(port)
        assert "(process " in ports.holder(port)


def test_all_taken_ports_are_listed() -> None:
    clashes = [("PowerDNS", ("udp", HOST, 53), "named (process 7)"), ("web", ("tcp", HOST, 8000), "")]
    found = ports.problem(clashes, 77)
    assert "taken by named (process 7) (and 1 more)" in str(found)
    assert f"{HOST}:8000/tcp for web" in found.detail


def test_a_command_that_does_not_exist_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["upp"]) == 2
    assert "./roost help" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said for name in cli._COMMANDS)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "is_root", lambda: False)
    assert cli.main(["up"]) == 1
    assert "sudo or as root" in capsys.readouterr().err
