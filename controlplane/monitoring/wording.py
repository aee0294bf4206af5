"""What the public is told of an incident: how bad it is, which part of the service it concerns, in plain words.

Titles and messages of incidents are for those who run servers; they may name peers, addresses, machines. Nothing of
them is public: only these sentences are, chosen by the incident's cause.
"""

from __future__ import annotations

from dataclasses import dataclass

DOWN, PARTIAL = "down", "partial"

#: Parts of the service as people know them: name -> what the status page calls it.
PARTS = {
    "reach": "Reaching the server",
    "login": "Logging in",
    "rooms": "Group chats",
    "history": "Message history",
    "files": "Sharing files",
    "calls": "Calls",
    "web": "Web clients",
    "others": "Talking with other servers",
}


@dataclass(frozen=True, slots=True)
class Wording:
    """``level``: "down" (people cannot use the service) or "partial" (something of it fails)."""

    level: str
    part: str
    sentence: str


_SECURE = Wording(DOWN, "reach", "Secure connections fail")
_SILENT = Wording(DOWN, "reach", "The server does not answer")
_CALLS = Wording(PARTIAL, "calls", "Calls may not connect")
_WEB = Wording(PARTIAL, "web", "Web clients do not get in")
_UNKNOWN = Wording(PARTIAL, "reach", "The service is disturbed")
#: Beginnings of the causes in ``causes.CAUSES``, the more precise first. None: nothing that the public would notice.
_BY_CAUSE: tuple[tuple[str, Wording | None], ...] = (
    ("CertificateEndsSoon", None),
    ("ClockOff", None),
    ("ProberCutOff", None),
    ("Certificate", _SECURE),
    ("WrongCertificate", _SECURE),
    ("NoStarttls", _SECURE),
    ("Tls", _SECURE),
    ("Dns", Wording(DOWN, "reach", "The server's name is not found")),
    ("Port", _SILENT),
    ("Disk", Wording(PARTIAL, "history", "Messages and files cannot be stored")),
    ("Engine", _SILENT),
    ("StreamRefused", Wording(DOWN, "reach", "The server takes no connections")),
    ("Login", Wording(DOWN, "login", "Logging in fails")),
    ("Features", Wording(PARTIAL, "reach", "Some functions are not available")),
    ("Archive", Wording(PARTIAL, "history", "Message history is not available")),
    ("Upload", Wording(PARTIAL, "files", "Files cannot be shared")),
    ("Room", Wording(PARTIAL, "rooms", "Group chats are disturbed")),
    ("Turn", _CALLS),
    ("Relay", _CALLS),
    ("Web", _WEB),
    ("Peer", Wording(PARTIAL, "others", "Messages to other servers may be late")),
)
#: Checks that look at a part of the names or ports only: whatever their cause, most people get in.
_BY_CHECK = {
    "names": Wording(PARTIAL, "reach", "Some of the server's names are not found"),
    "certificates": Wording(PARTIAL, "reach", "Some secure connections fail"),
    "host-meta": _WEB,
    "web": _WEB,
}
_BY_KIND = {
    "node": Wording(DOWN, "reach", "The server is not reached"),
    "address": Wording(PARTIAL, "reach", "The server moved to another address"),
}
#: A broken link tells with whom somebody talks, a difference in rooms what is in them: neither is anybody else's.
PUBLIC_KINDS = ("check", "node", "address")


def wording(kind: str, cause: str, subject: str = "") -> Wording | None:
    """Of an incident; None: the public is not told of it."""
    if kind not in PUBLIC_KINDS:
        return None
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    found = next((said for start, said in _BY_CAUSE if cause.startswith(start)), _UNKNOWN)
    return found and _BY_CHECK.get(subject.rpartition(":")[2], found)
