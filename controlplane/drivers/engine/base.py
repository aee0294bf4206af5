"""What Roost needs of an XMPP engine. ``docs/contracts/engine.md`` says it for people.

Rendering is pure. Commands go over the engine's control socket (``Paths.control_socket``), each with a
time-out, each safe to run twice. Errors: ``Unavailable`` when the engine does not answer, ``Rejected``
when it refuses, ``InvalidInput`` for what could never fit.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """One s2s stream. ``direction``: "in" or "out". ``auth``: "certificate", "dialback" or "unknown"."""

    direction: str
    local: str
    remote: str
    encrypted: bool
    auth: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts for billing. ``None`` where the engine cannot tell."""

    accounts: int
    online: int
    rooms: int
    archive_messages: int | None = None
    upload_bytes: int | None = None


class EngineControl(Protocol):
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

    # federation
    def s2s_connections(self) -> Sequence[S2sConnection]: ...

    def close_s2s(self, local: DomainName, remote: DomainName) -> int:
        """Close the streams between these two, in both directions; how many were closed."""

    def ping(self, remote: DomainName, timeout_s: float = 5.0) -> float:
        """XEP-0199 ping from the instance's domain to ``remote``; round trip in seconds or ``Unavailable``."""

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

    def control(self, spec: InstanceSpec) -> EngineControl: ...
