"""What states, conditions, causes and roles are called on pages: words, an icon and a level, never colour alone.

Messages of conditions and incidents come from the reconcilers as they are (English); the words around them are here
and translated.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from controlplane.monitoring.models import S2sLink
from controlplane.reconcile.models import Condition
from tenants.models import Instance

Text = str | Promise


@dataclass(frozen=True, slots=True)
class State:
    """``level``: ok, info (something is under way), warn, bad, quiet."""

    level: str
    icon: str
    words: Text


WORKS = State("ok", "circle-check", _("Works"))
CHANGING = State("info", "loader-circle", _("Work in progress"))
STALLED = State("bad", "circle-alert", _("Needs somebody"))
SUSPENDED = State("quiet", "circle-pause", _("Suspended"))
TERMINATED = State("quiet", "trash-2", _("Terminated"))


def state_of(row: Instance, ready: Condition | None) -> State:
    """Of a server as a whole; ``ready``: its condition of that name, None before its first pass."""
    if row.deletion_requested_at is not None:
        return TERMINATED
    if row.suspended_at is not None:
        return SUSPENDED
    if ready is not None and ready.status == "True" and ready.observed_generation >= row.generation:
        return WORKS
    return STALLED if ready is not None and ready.stalled else CHANGING


@dataclass(frozen=True, slots=True)
class Step:
    """A condition for people: its name, and what it means that it holds."""

    name: Text
    means: Text


STEPS: dict[str, Step] = {
    "DomainProven": Step(_("The domain is yours"), _("Control of the domain was proven.")),
    "NodeAssigned": Step(_("A place is reserved"), _("A machine, an address and ports are set aside for it.")),
    "DnsPublished": Step(_("Its names are found"), _("Every record is at every name server, so that clients find it.")),
    "CertificateIssued": Step(_("Connections are secure"), _("A certificate for all of its names was issued.")),
    "TurnReady": Step(_("Calls are prepared"), _("The relay for audio and video calls knows this server.")),
    "ServerRunning": Step(_("The server runs"), _("It has read its settings and answers.")),
    "EdgeRouted": Step(_("It is reached"), _("The usual ports lead to it from the Internet.")),
    "Verified": Step(_("It was tried out"), _("A client from outside logged in, wrote, called and shared a file.")),
    "Ready": Step(_("Everything works"), _("All of the above holds.")),
}


def step_state(condition: dict[str, object], *, wanted: bool = True) -> State:
    """Of one condition, as ``provisioning.status`` tells it. ``wanted``: the server should run."""
    if condition["status"] == "True":
        return State("ok", "circle-check", _("done"))
    if not wanted:
        return State("quiet", "minus", _("not now"))
    if condition["stalled"]:
        return State("bad", "circle-alert", _("needs somebody"))
    if condition["reason"] == "Waiting":
        return State("quiet", "clock", _("waits for the steps before"))
    return State("info", "loader-circle", _("under way"))


LINKS: dict[str, State] = {
    S2sLink.UNKNOWN: State("quiet", "circle-help", _("Not looked at yet")),
    S2sLink.UP: State("ok", "circle-check", _("Connected")),
    S2sLink.IDLE: State("quiet", "circle-pause", _("Idle")),
    S2sLink.SUSPECT: State("info", "loader-circle", _("Being looked at")),
    S2sLink.DOWN: State("bad", "circle-x", _("Broken")),
    S2sLink.PEER_PENDING: State("warn", "clock", _("Waits for the other server")),
    S2sLink.BLOCKED: State("quiet", "ban", _("Blocked by you")),
}
LINK_MEANS: dict[str, Text] = {
    S2sLink.UNKNOWN: _("It was seen just now and is looked at next."),
    S2sLink.UP: _("The other server answers."),
    S2sLink.IDLE: _("Nobody writes at the moment; a connection is opened when somebody does."),
    S2sLink.SUSPECT: _("Something speaks against it, so it is tried out at this moment."),
    S2sLink.DOWN: _("The other server does not answer; it is dialled again by itself."),
    S2sLink.PEER_PENDING: _("This side is well. The other server still uses an old connection, which only it can end."),
    S2sLink.BLOCKED: _("Your settings say that this server is not talked with."),
}
_THEIRS: dict[str, Text] = {
    "PeerDown": _("Nothing answers at the addresses of the other server."),
    "PeerDnsMissing": _("The other server's names lead nowhere."),
    "PeerCertificateExpired": _("The certificate of the other server has expired."),
    "PeerCertificateNotValidYet": _("The certificate of the other server is not valid yet."),
    "PeerCertificateWrong": _("The certificate of the other server is for other names."),
    "PeerCertificateNotTrusted": _("The certificate of the other server is not by an authority that is trusted."),
    "PeerRefuses": _("The other server refuses the connection."),
    "PeerAway": _("The other server's machine is not reached."),
    "PeerHalfStale": _("The other server holds on to a connection that is dead."),
}
_OURS: dict[str, Text] = {
    "OwnDown": _("Nothing answers at the addresses of this server."),
    "OwnDnsMissing": _("This server's names lead nowhere."),
    "OwnCertificateExpired": _("The certificate of this server has expired."),
    "OwnCertificateNotValidYet": _("The certificate of this server is not valid yet."),
    "OwnCertificateWrong": _("The certificate of this server is for other names."),
    "OwnCertificateNotTrusted": _("The certificate of this server is not by an authority that is trusted."),
    "OwnRefuses": _("This server refuses the connection."),
    "OwnAway": _("This server's machine is not reached."),
    "OwnHalfStale": _("This server holds on to a connection that is dead."),
}
_BETWEEN: dict[str, Text] = {
    "LinkSilent": _("What was sent over it was not answered."),
    "LinkFails": _("A new connection does not come about."),
    "DnsSilent": _("The name servers give no answer."),
    "NoRoute": _("There is no way from here to the other server's addresses."),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a link is broken, in a sentence, and whose it is to mend."""

    why: Text
    whose: Text


def fault_of(cause: str) -> Fault | None:
    """None without a cause."""
    if not cause:
        return None
    if cause in _THEIRS:
        return Fault(_THEIRS[cause], _("The other server's operator has to mend it; Roost goes on trying."))
    if cause in _OURS:
        return Fault(_OURS[cause], _("It is this side's, and being mended."))
    why = _BETWEEN.get(cause, _BETWEEN["LinkFails"])
    return Fault(why, _("Not known yet; it may be either side or the way between them."))


#: Parts of the service (``monitoring.wording.PARTS``).
PARTS: dict[str, Text] = {
    "reach": _("Reaching the server"),
    "login": _("Logging in"),
    "rooms": _("Group chats"),
    "history": _("Message history"),
    "files": _("Sharing files"),
    "calls": _("Calls"),
    "web": _("Web clients"),
    "others": _("Talking with other servers"),
}
LEVELS: dict[str, State] = {
    "ok": State("ok", "circle-check", _("works")),
    "partial": State("warn", "triangle-alert", _("disturbed")),
    "down": State("bad", "circle-x", _("fails")),
    "none": State("quiet", "circle-help", _("not known")),
    "maintenance": State("info", "wrench", _("planned work")),
    "paused": State("quiet", "circle-pause", _("paused")),
}
HEADLINES: dict[str, Text] = {
    "ok": _("Everything works"),
    "partial": _("Something is disturbed"),
    "down": _("The service is down"),
    "maintenance": _("Planned work is under way"),
    "paused": _("The service is paused"),
    "none": _("Not measured at the moment"),
}
INCIDENTS: dict[str, Text] = {
    "check": _("a check fails"),
    "address": _("an address changed"),
    "link": _("federation is broken"),
    "node": _("a machine is not reached"),
    "data": _("members or rooms differ"),
    "backup": _("backups are not as they should be"),
    "prober": _("a prober is cut off"),
}
ENTRIES: dict[str, Text] = {
    "Noticed": _("Noticed"),
    "Acted": _("Acted"),
    "CauseChanged": _("The cause changed"),
    "Ended": _("Over"),
    "LinkProven": _("A connection works again"),
    "LinkPending": _("A connection waits for the other server"),
}


@dataclass(frozen=True, slots=True)
class Role:
    name: Text
    means: Text


ROLES: dict[str, Role] = {
    "owner": Role(_("Owner"), _("Does everything, and decides who else belongs here.")),
    "admin": Role(_("Administrator"), _("Manages servers, members and rooms.")),
    "helper": Role(_("Helper"), _("Resets forgotten passwords of members, and sees nothing else.")),
    "reader": Role(_("Read-only"), _("Sees everything, changes nothing.")),
}
