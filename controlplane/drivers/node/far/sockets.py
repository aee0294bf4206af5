"""What a machine's kernel knows before anybody else: connections into which is written and nothing comes back.

Runs until its standard input ends. It reads the TCP sockets of some users by netlink (sock_diag(7)) about once a
second, and the machine's addresses when they change (rtnetlink(7)); it says a line of JSON when there is news, and
nothing otherwise. It judges nothing: whoever listens asks the engine before anything is closed.
"""

from __future__ import annotations

import ipaddress
import json
import os
import pwd
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
ESTABLISHED, CLOSE_WAIT, LISTEN = 1, 8, 10
#: idiag_timer (linux/inet_diag.h): which of a socket's timers runs. What idiag_retrans counts depends on it.
RETRANSMIT, KEEPALIVE, PROBE = 1, 2, 4
RTM_NEWADDR, RTM_GETADDR, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 20, 22, 0x10, 0x100
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
#: Temporary (IPv6 only), failed or unfinished duplicate detection, deprecated: nobody is to be led to such a one.
NOT_STEADY_6, NOT_STEADY = 0x01, 0x08 | 0x20 | 0x40
IFF_UP = 0x1

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48s")
#: struct inet_diag_msg: family, state, timer, retrans, sockid, expires, rqueue, wqueue, uid, inode.
_SOCKET = struct.Struct("=BBBB48sIIIII")
_ADDRESS = struct.Struct("=BBBBi")
_ATTRIBUTE = struct.Struct("=HH")
#: Once so long after the first sign, while it lasts: whoever listens may have missed a line.
REPEAT_S = 10.0
#: While a socket is on its way to be a suspect one, twice as often.
CLOSER = 0.5
#: Addresses that change come in several messages.
SETTLE_S = 0.05


def main(argument: dict[str, Any]) -> None:
    """``{"prefix", "every_s", "stuck_s", "retransmits", "probes", "silence_s"}``.

    ``prefix``: of the users' names. A socket is suspect after ``retransmits`` of the same data, ``stuck_s`` after the
    first of them was seen, or after ``probes`` without an answer (a keep-alive's, or into a closed window). Ends when
    standard input does, or after ``silence_s`` without a byte there: then nobody listens any more.
    """
    Watch(argument).run()


class Watch:
    def __init__(self, argument: dict[str, Any]) -> None:
        self.prefix: str = argument["prefix"]
        self.every_s, self.stuck_s = float(argument["every_s"]), float(argument["stuck_s"])
        self.retransmits, self.probes = int(argument["retransmits"]), int(argument["probes"])
        self.silence_s = float(argument["silence_s"])
        self.users: dict[int, str] = {}
        #: sockid (with its cookie, so no two are alike) -> when the first sign was seen
        self.signs: dict[bytes, float] = {}
        #: sockid -> what was said of it, and when last
        self.said: dict[bytes, tuple[dict[str, Any], float]] = {}
        self.addresses: dict[str, list[str]] | None = None
        self.diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self.diag.settimeout(5.0)
        self.news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.news.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        self.news.setblocking(False)

    def run(self) -> None:
        found = selectors.DefaultSelector()
        found.register(0, selectors.EVENT_READ)
        found.register(self.news, selectors.EVENT_READ)
        self.look_at_addresses()
        heard = now = time.monotonic()
        due = now
        while True:
            if now >= due:
                self.look_at_sockets(now)
                due = now + self.every_s * (CLOSER if self.signs else 1.0)
            for key, _ in found.select(max(0.0, due - time.monotonic())):
                if key.fd != 0:
                    time.sleep(SETTLE_S)
                    _drain(self.news)
                    self.look_at_addresses()
                elif os.read(0, 4096):
                    heard = time.monotonic()
                else:
                    return
            now = time.monotonic()
            if now - heard > self.silence_s:
                return

    def look_at_sockets(self, now: float) -> None:
        """One look: says which sockets turned suspect, and which are well again or gone."""
        signs: dict[bytes, float] = {}
        suspects: dict[bytes, tuple[int, int, int, int, int]] = {}
        undecided: set[bytes] = set()
        for family, timer, count, sockid, queued, uid in sockets(self.diag, 1 << ESTABLISHED | 1 << CLOSE_WAIT):
            if not count:
                # Something was written since a keep-alive failed, and there is no telling yet.
                if timer == RETRANSMIT and queued and sockid in self.said:
                    undecided.add(sockid)
                    signs[sockid] = self.signs.get(sockid, now)
                continue
            if not self.user(uid):
                continue
            first = signs[sockid] = self.signs.get(sockid, now)
            if timer == RETRANSMIT:
                wrong = count >= self.retransmits or now - first >= self.stuck_s
            else:
                wrong = timer in (KEEPALIVE, PROBE) and count >= self.probes
            if wrong or sockid in self.said:
                suspects[sockid] = (family, timer, count, queued, uid)
        self.signs = signs
        fresh = [sockid for sockid in suspects if sockid not in self.said]
        served = self.served() if fresh else set()
        for sockid, seen in suspects.items():
            if sockid not in self.said:
                self.suspect(sockid, seen, served, now)
            elif now - self.said[sockid][1] >= REPEAT_S:
                self.repeat(sockid, seen, now)
        self.forget(suspects.keys() | undecided)

    def suspect(
        self, sockid: bytes, seen: tuple[int, int, int, int, int], served: set[tuple[int, int]], now: float
    ) -> None:
        local, remote = ends(seen[0], sockid)
        told = {"type": "suspect", "user": self.user(seen[4]), "local": list(local), "remote": list(remote)}
        # A connection that somebody made to a port that is served is no link of the engine's own making.
        if (seen[4], local[1]) in served:
            told["type"] = ""
        self.said[sockid] = (told, now)
        self.repeat(sockid, seen, now)

    def repeat(self, sockid: bytes, seen: tuple[int, int, int, int, int], now: float) -> None:
        told = self.said[sockid][0]
        self.said[sockid] = (told, now)
        if told["type"]:
            by = {RETRANSMIT: "retransmit", KEEPALIVE: "keepalive", PROBE: "probe"}.get(seen[1], str(seen[1]))
            say({**told, "timer": by, "count": seen[2], "queued": seen[3], "for_s": round(now - self.signs[sockid], 2)})

    def forget(self, suspects: set[bytes]) -> None:
        """Those that were suspect and are not any more: they move again, or were closed."""
        over = [sockid for sockid in self.said if sockid not in suspects]
        there = {one[3] for one in sockets(self.diag, 1 << ESTABLISHED | 1 << CLOSE_WAIT)} if over else set()
        for sockid in over:
            told = self.said.pop(sockid)[0]
            if told["type"]:
                say({**told, "type": "well" if sockid in there else "gone"})

    def served(self) -> set[tuple[int, int]]:
        """User and port of all that listens."""
        return {(uid, int.from_bytes(sockid[:2], "big")) for _, _, _, sockid, _, uid in sockets(self.diag, 1 << LISTEN)}

    def user(self, uid: int) -> str:
        """The user's name if it is one of those that are watched. Numbers are never given to another soon."""
        if uid not in self.users:
            if uid < 100:
                return ""
            try:
                name = pwd.getpwuid(uid).pw_name
            except KeyError:
                return ""
            self.users[uid] = name if name.startswith(self.prefix) else ""
        return self.users[uid]

    def look_at_addresses(self) -> None:
        found = addresses()
        if found != self.addresses:
            self.addresses = found
            say({"type": "addresses", "4": found["4"], "6": found["6"]})


def sockets(diag: socket.socket, states: int) -> Iterator[tuple[int, int, int, bytes, int, int]]:
    """All TCP sockets in these states: family, timer, count, sockid, bytes in the send queue, user's number."""
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, b"\0" * 48)
        for kind, data, start in _dump(diag, SOCK_DIAG_BY_FAMILY, request):
            if kind == SOCK_DIAG_BY_FAMILY:
                _, _, timer, count, sockid, _, _, queued, uid, _ = _SOCKET.unpack_from(data, start)
                yield family, timer, count, sockid, queued, uid


def ends(family: int, sockid: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """Local and remote address and port of an inet_diag_sockid."""
    here, there = struct.unpack_from("=2s2s", sockid)
    length = 4 if family == socket.AF_INET else 16
    return (
        (_text(sockid[4 : 4 + length]), int.from_bytes(here, "big")),
        (_text(sockid[20 : 20 + length]), int.from_bytes(there, "big")),
    )


def _text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def addresses() -> dict[str, list[str]]:
    """The machine's addresses of global scope by family, of interfaces that are up, the steady ones only."""
    found: dict[str, list[str]] = {"4": [], "6": []}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(5.0)
        for kind, data, start in _dump(asked, RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            if kind != RTM_NEWADDR:
                continue
            family, _, flags, scope, index = _ADDRESS.unpack_from(data, start)
            if family not in (socket.AF_INET, socket.AF_INET6) or scope != 0 or not _is_up(index):
                continue
            attributes = _attributes(data, start + _ADDRESS.size)
            if IFA_FLAGS in attributes:
                flags = int.from_bytes(attributes[IFA_FLAGS], sys.byteorder)
            if flags & (NOT_STEADY | (NOT_STEADY_6 if family == socket.AF_INET6 else 0)):
                continue
            packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
            if packed:
                found["4" if family == socket.AF_INET else "6"].append(_text(packed))
    return {family: list(dict.fromkeys(texts))[:64] for family, texts in found.items()}


def _is_up(index: int) -> bool:
    try:
        with open(f"/sys/class/net/{socket.if_indextoname(index)}/flags") as file:
            return bool(int(file.read(), 16) & IFF_UP)
    except (OSError, ValueError):
        return True  # /sys may be another machine's in a container; then it is not known


def _attributes(data: bytes, at: int) -> dict[int, bytes]:
    found = {}
    end = len(data)
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _dump(asked: socket.socket, kind: int, request: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Ask for all of something: kind of each message, the bytes it is in, where its content starts."""
    number = int(time.monotonic() * 1000) & 0xFFFFFFFF
    asked.send(_HEADER.pack(_HEADER.size + len(request), kind, NLM_F_REQUEST | NLM_F_DUMP, number, 0) + request)
    while True:
        data = asked.recv(1 << 18)
        at, end = 0, len(data)
        while at + _HEADER.size <= end:
            length, got, _, answers, _ = _HEADER.unpack_from(data, at)
            if answers == number:
                if got == NLMSG_DONE:
                    return
                if got == NLMSG_ERROR:
                    code = -int.from_bytes(data[at + 16 : at + 20], sys.byteorder, signed=True)
                    raise OSError(code, os.strerror(code))
                yield got, data if length == end else data[: at + length], at + _HEADER.size
            at += length + 3 & ~3


def _drain(news: socket.socket) -> None:
    while True:
        try:
            news.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            return  # more than fitted (ENOBUFS): all is read anew anyway


def say(news: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()
