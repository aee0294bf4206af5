"""What Roost needs of an XMPP engine. ``docs/contracts/engine.md`` says it for people.

Rendering is pure. Commands go over the engine's control socket (``Paths.control_socket``), each with a
time-out, each safe to run twice. Errors: ``Unavailable`` when the engine does not answer, ``Rejected``
when it refuses, ``InvalidInput`` for what could never fit.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controlplane.values.bundle import ManagedFile, Program
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import InstanceSpec

AFFILIATIONS = ("owner", "admin", "member", "none", "outcast")


@dataclass(frozen=True, slots=True)
class Health:
    """``version`` as the engine names itself, ``uptime_s`` seconds since its start, sessions now."""

    version: str
    uptime_s: float
    sessions: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the instance's domain, without its password."""

    local: Localpart
    enabled: bool
    online: bool = False
    last_active: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class RoomSettings:
    """The settings that Roost offers, with the same meaning on every engine (XEP-0045 §10.2).

    ``access``: "open" or "members" (members-only). ``anonymity``: "semi" (only moderators see JIDs) or
    "none" (everyone does). ``listed``: shown in service discovery. ``language``: BCP 47 or "".
    Bans are affiliations "outcast".
    """

    title: str = ""
    description: str = ""
    access: str = "open"
    moderated: bool = False
    anonymity: str = "semi"
    listed: bool = False
    persistent: bool = True
    language: str = ""
    archived: bool = True


@dataclass(frozen=True, slots=True)
class Room:
    """A room of the instance's MUC component, with its current settings, and how many are in it."""

    local: Localpart
    settings: RoomSettings
    occupants: int = 0
    subject: str = ""
    affiliations: dict[str, str] = field(default_factory=dict)  # bare JID -> affiliation, "none" left out


@dataclass(frozen=True, slots=True)
class S2sConnection:
    """One s2s stream. ``direction``: "in" or "out". ``auth``: "certificate", "dialback" or "unknown".

    ``age_s``: seconds since it was authenticated. ``idle_s``: since the last stanza that was no query between two
    servers themselves (those are our pings); both None if the engine does not know. ``error``: why the stream before
    it, of the same pair and direction, failed; "" if it did not.
    """

    direction: str
    local: str
    remote: str
    encrypted: bool
    auth: str
    address: str = ""
    age_s: float | None = None
    idle_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts for billing. ``None`` where the engine cannot tell."""

    accounts: int
    online: int
    rooms: int
    archive_messages: int | None = None
    upload_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RollRoom:
    """A room as it has to be after a restart. ``affiliations``: bare JID -> affiliation, "none" left out."""

    settings: RoomSettings
    subject: str
    affiliations: dict[str, str]


@dataclass(frozen=True, slots=True)
class RollMember:
    """How many contacts and bookmarks a member has, and digests of them.

    Two digests are comparable if what is before their first colon is the same: it changes with how they are made.
    """

    roster_items: int
    roster_digest: str
    bookmarks: int
    bookmarks_digest: str


@dataclass(frozen=True, slots=True)
class Roll:
    """All members and all rooms that are kept, without Roost's own account and its rooms for checks.

    ``rooms`` and ``members`` are None if they are the same as those of the digest that the caller knows.
    """

    digest: str
    uptime_s: float
    rooms: dict[str, RollRoom] | None
    members: dict[str, RollMember] | None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, counted in pieces (a contact, a setting, a message, …). What was there alike counts nowhere.

    ``made``: was not there. ``changed``: was there otherwise and is as wanted now. ``skipped``: was there otherwise
    and was left so (without ``replace``). ``refused``: (what, why), what this engine cannot hold.
    """

    made: int = 0
    changed: int = 0
    skipped: int = 0
    refused: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: ImportReport) -> ImportReport:
        return ImportReport(
            self.made + other.made,
            self.changed + other.changed,
            self.skipped + other.skipped,
            self.refused + other.refused,
        )


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file. ``path``: below the instance's root. ``id``: what its address has that nobody can guess.

    ``name`` as its uploader called it, ``size`` in bytes as it is on disk, ``user`` its uploader's bare JID or "",
    ``at`` when the place for it was asked for.
    """

    id: str
    path: str
    name: str
    size: int
    type: str
    user: str
    at: datetime.datetime


class PortableControl(Protocol):
    """Everything of an instance as portable elements, XML text (``docs/contracts/portable.md``), while it runs.

    All is paged, so memory stays flat here and there. Imports add; with ``replace`` they also overwrite. Each may be
    repeated. Errors as those of ``EngineControl``; an element that is not well-formed is ``InvalidInput``.
    """

    def export_accounts(self, after: str = "", limit: int = 500) -> list[str]:
        """Up to ``limit`` names of accounts that sort after ``after``, sorted by code points."""

    def export_user(self, local: Localpart) -> str:
        """One ``<user xmlns='urn:xmpp:pie:0'>`` (XEP-0227) with everything but the archive and the files."""

    def export_archive(
        self, *, owner: Localpart | None = None, room: Localpart | None = None, cursor: str = "", limit: int = 500
    ) -> tuple[list[str], str]:
        """``<result xmlns='urn:xmpp:mam:2'>`` elements, oldest first, and the next page's cursor ("": no more).

        A page may be shorter than ``limit``, and empty with a cursor.
        """

    def export_rooms(self, after: str = "", limit: int = 500) -> list[str]:
        """Names of the rooms that are kept, as ``export_accounts``."""

    def export_room(self, local: Localpart) -> str:
        """One ``<room xmlns='urn:roost:portable:1'>`` with everything but the archive."""

    def export_uploads(self, after: str = "", limit: int = 500) -> list[Upload]:
        """Files whose ``id`` sorts after ``after``, sorted by it."""

    def import_user(self, xml: str, *, replace: bool = False) -> ImportReport: ...

    def import_archive(
        self, items: Sequence[str], *, owner: Localpart | None = None, room: Localpart | None = None
    ) -> ImportReport:
        """Messages keep their id; one whose id is there already is left out. Owner or room has to exist."""

    def import_room(self, xml: str, *, replace: bool = False) -> ImportReport: ...

    def import_uploads(self, uploads: Sequence[Upload]) -> tuple[ImportReport, dict[str, str]]:
        """Make room for files under their old addresses: where below the root each id's bytes belong. Whoever holds a
        line to the node writes them there. One whose address this engine could not have is refused.
        """


class EngineControl(PortableControl, Protocol):
    """The control channel of one running instance."""

    def health(self) -> Health: ...

    def reload(self) -> None:
        """Read configuration and certificates again; sessions stay."""

    # accounts of the instance's own domain
    def create_account(self, local: Localpart, password: Secret) -> bool:
        """True if made now, False if it was there (its password is then left alone)."""

    def set_password(self, local: Localpart, password: Secret) -> None: ...

    def set_account_enabled(self, local: Localpart, enabled: bool) -> None:
        """A disabled account keeps its data, its sessions are closed and logins refused."""

    def delete_account(self, local: Localpart) -> bool:
        """Account, roster, archive and the rest of it. False if there was none."""

    def list_accounts(self) -> Sequence[Account]: ...

    # rooms of the instance's MUC component
    def list_rooms(self) -> Sequence[Room]:
        """Without affiliations, sorted by name. Rooms that nobody has in memory are in it too."""

    def get_room(self, local: Localpart) -> Room | None:
        """With affiliations."""

    def create_room(self, local: Localpart, settings: RoomSettings, owner: Jid) -> bool:
        """True if made now; False if it was there (settings then untouched)."""

    def set_room_settings(self, local: Localpart, settings: RoomSettings) -> None: ...

    def set_affiliation(self, room: Localpart, jid: Jid, affiliation: str) -> None: ...

    def delete_room(self, local: Localpart) -> bool: ...

    def roll(self, known: str = "") -> Roll:
        """Who and what is there. Cheap if little has changed since it was asked last; ``known``: that digest."""

    # federation
    def s2s_connections(self) -> Sequence[S2sConnection]: ...

    def close_s2s(self, local: DomainName, remote: DomainName) -> int:
        """Close the streams between these two, in both directions; how many were closed."""

    def ping(self, remote: DomainName, timeout_s: float = 5.0, *, local: DomainName | None = None) -> float:
        """XEP-0199 ping to ``remote``; round trip in seconds or ``Unavailable``.

        ``local``: which of the instance's names asks (its domain, or a component's); by default its domain.
        """

    def purge_dns_cache(self) -> None: ...

    def usage(self) -> Usage: ...


class EngineDriver(Protocol):
    """One engine. Drivers hold no state; ``control`` opens a channel to a running instance."""

    name: str
    #: True: ``spec.trust_system`` is enough to trust the node's roots. False: they have to be in the trust file.
    reads_system_trust: bool

    def files(self, spec: InstanceSpec) -> tuple[ManagedFile, ...]:
        """Configuration files and modules (paths below the root, all under ``config/``); pure.

        Certificates are not among them: they are carried beside, under ``certs/``.
        """

    def program(self, spec: InstanceSpec) -> Program: ...

    def control(self, spec: InstanceSpec, socket: Path | None = None) -> EngineControl:
        """``socket``: where its control socket is found here, if its node is another machine (see ``Line.socket``)."""
