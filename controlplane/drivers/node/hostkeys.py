"""Host keys of SSH: what a line of one is, how a person compares it, and which ones a machine shows.

What it shows is what the network lets through, so nothing here makes a key trusted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import subprocess

from controlplane.drivers.node.lines import ENVIRONMENT
from controlplane.values.errors import InvalidInput, Unavailable

_LINE = re.compile(r"(?P<type>[a-z0-9@.-]{1,64}) (?P<blob>[A-Za-z0-9+/]{16,8192}={0,2})")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
#: Kinds that are believed: no DSA, and none whose certificate would have to be checked.
TYPES = frozenset(
    {
        *("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
        *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
    }
)
SCAN_S = 5


def parse(text: str, *, field: str = "host_key") -> str:
    """A key as ``ssh-keyscan``, ``known_hosts`` or a ``.pub`` file have it -> ``"<type> <base64>"``.

    ``InvalidInput`` if there is none in it, or if the two parts do not say the same type (RFC 4253 §6.6).
    """
    words = text.split()
    for number, word in enumerate(words[:-1]):
        found = _LINE.fullmatch(f"{word} {words[number + 1]}")
        if word in TYPES and found:
            if _inner_type(found["blob"]) != word:
                break
            return found[0]
    raise InvalidInput(
        field,
        "That is no public host key.",
        remedy="Give a line such as «ssh-ed25519 AAAA…» from /etc/ssh/ssh_host_ed25519_key.pub of that machine.",
    )


def is_fingerprint(text: str) -> bool:
    """``SHA256:…``, as ``ssh-keygen -lf`` prints it."""
    return _FINGERPRINT.fullmatch(text) is not None


def fingerprint(line: str) -> str:
    """``SHA256:…`` of a key's line."""
    blob = base64.b64decode(line.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def scan(address: str, port: int, *, timeout_s: float = 4.0 * SCAN_S) -> tuple[str, ...]:
    """The keys that whoever answers there shows, sorted. ``Unavailable`` if nobody does."""
    argv = ["ssh-keyscan", "-T", str(SCAN_S), "-p", str(port), "--", address]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=ENVIRONMENT, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Unavailable(
            f"{address} port {port} could not be asked for its host keys: {type(error).__name__}."
        ) from None
    found = set()
    for line in done.stdout.splitlines():
        if line.startswith("#") or " " not in line:
            continue
        try:
            found.add(parse(line.split(" ", 1)[1]))
        except InvalidInput:
            continue
    if not found:
        raise Unavailable(f"{address} port {port} showed no host key: nothing speaks SSH there, or it is not reached.")
    return tuple(sorted(found))


def _inner_type(blob: str) -> str:
    try:
        data = base64.b64decode(blob, validate=True)
    except binascii.Error:
        return ""
    length = int.from_bytes(data[:4], "big")
    return data[4 : 4 + length].decode("ascii", "replace")
