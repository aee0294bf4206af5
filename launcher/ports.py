"""Are the addresses and ports that a program needs free, and if not, who has them.

Asked by binding, as the program will; the holder's name comes from /proc.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import Problem

Port = tuple[str, str, int]


def taken(port: Port) -> bool:
    """True if somebody else has this (protocol, address, port)."""
    protocol, address, number = port
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended do not count
        try:
            probe.bind((address, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
    return False


def check(wanted: Iterable[tuple[str, Port]], net: int) -> None:
    """Raises one ``Problem`` for all (title, port) that are taken."""
    clashes = [(title, port) for title, port in wanted if taken(port)]
    if clashes:
        raise problem([(title, port, holder(port)) for title, port in clashes], net)


def problem(clashes: list[tuple[str, Port, str]], net: int) -> Problem:
    title, (protocol, address, number), who = clashes[0]
    by = f" by {who}" if who else ""
    more = f" (and {len(clashes) - 1} more)" if len(clashes) > 1 else ""
    detail = "\n".join(f"{a}:{n}/{p} for {t}{': ' + w if w else ''}" for t, (p, a, n), w in clashes)
    return Problem(
        f"Port {number}/{protocol} on {address} is already taken{by}{more}, and {title} needs it: end that program, "
        f"or choose other addresses with ROOST_NET={net + 2 if net < 250 else 81} ./roost up.",
        detail if len(clashes) > 1 else "",
    )


def holder(port: Port, proc: Path = Path("/proc")) -> str:
    """``name (process 123)`` of who listens there, or on all addresses; empty if it cannot be seen."""
    inodes = _inodes(port, proc)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in proc.iterdir():
        if entry.name.isdigit() and wanted & _files_of(entry):
            try:
                return f"{(entry / 'comm').read_text().strip()} (process {entry.name})"
            except OSError:
                continue
    return ""


def _files_of(process: Path) -> set[str]:
    found = set()
    try:
        for fd in os.listdir(process / "fd"):
            try:
                found.add(os.readlink(process / "fd" / fd))
            except OSError:  # closed meanwhile
                continue
    except OSError:  # ended meanwhile, or not ours to see
        pass
    return found


def _inodes(port: Port, proc: Path) -> set[str]:
    protocol, address, number = port
    mine = {_hex(address), _hex("0.0.0.0"), "0" * 32}
    found = set()
    for name in (protocol, f"{protocol}6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            at, _, hex_port = words[1].partition(":")
            listening = words[3] == "0A" or protocol == "udp"
            if listening and int(hex_port, 16) == number and at in mine:
                found.add(words[9])
    return found


def _hex(address: str) -> str:
    return socket.inet_aton(address)[::-1].hex().upper()
