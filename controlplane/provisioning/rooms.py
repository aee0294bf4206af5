"""Rooms of an instance and their member lists, over the engine's control channel, with quota and audit."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.drivers.engine.base import AFFILIATIONS, EngineControl, Room, RoomSettings
from controlplane.provisioning.engines import control_of
from controlplane.values.errors import InvalidInput, Rejected
from controlplane.values.names import DomainName, Jid, Localpart
from tenants import audit
from tenants.errors import Missing, QuotaExceeded, Taken
from tenants.models import Instance
from tenants.principal import Principal


def list_rooms(*, instance: Instance) -> Sequence[Room]:
    """Without affiliations, sorted by name."""
    return control_of(instance).list_rooms()


def get_room(*, instance: Instance, name: str) -> Room | None:
    """With affiliations; None if there is none of this name."""
    return control_of(instance).get_room(_parse(name))


def create_room(*, instance: Instance, name: str, settings: RoomSettings, owner: Jid, principal: Principal) -> Room:
    """``Taken`` if the name is taken."""
    local = _parse(name)
    control = control_of(instance)
    rooms = control.list_rooms()
    limit = instance.plan.max_rooms
    if len(rooms) >= limit:
        raise QuotaExceeded(
            "name",
            f"The plan {instance.plan.slug} allows {limit} rooms, and {len(rooms)} exist.",
            remedy="Delete rooms or change the plan.",
        )
    if not control.create_room(local, settings, owner):
        raise Taken("name", f"The room {local} exists already.", remedy="Take another name, or change that room.")
    _audit(instance, principal, "room.create", local)
    return _require(control, local)


def change_room(*, instance: Instance, name: str, settings: RoomSettings, principal: Principal) -> Room:
    """All settings at once; affiliations stay."""
    local = _parse(name)
    control = control_of(instance)
    _require(control, local)
    control.set_room_settings(local, settings)
    _audit(instance, principal, "room.change", local)
    return _require(control, local)


def set_affiliation(*, instance: Instance, name: str, jid: str, affiliation: str, principal: Principal) -> Room:
    """``affiliation``: owner, admin, member, none or outcast (XEP-0045 §5.2). The last owner stays owner."""
    local, who = _parse(name), affiliate(jid)
    if affiliation not in AFFILIATIONS:
        raise InvalidInput(
            "affiliation", f"{affiliation!r} is no affiliation.", remedy=f"Use one of {', '.join(AFFILIATIONS)}."
        )
    control = control_of(instance)
    room = _require(control, local)
    owners = [j for j, a in room.affiliations.items() if a == "owner"]
    if affiliation != "owner" and owners == [str(who)]:
        raise Rejected(f"{who} is the room's last owner.", remedy="Make somebody else owner first.")
    control.set_affiliation(local, who, affiliation)
    _audit(instance, principal, "room.set_affiliation", local, f"{who} is {affiliation}")
    return _require(control, local)


def delete_room(*, instance: Instance, name: str, principal: Principal) -> bool:
    """With its archive. False if there was none."""
    local = _parse(name)
    deleted = control_of(instance).delete_room(local)
    if deleted:
        _audit(instance, principal, "room.delete", local)
    return deleted


def affiliate(jid: str) -> Jid:
    """A bare JID whose affiliation is to be set."""
    return Jid.parse(jid, field="jid")


def _parse(name: str) -> Localpart:
    return Localpart.parse(name, field="name")


def _require(control: EngineControl, local: Localpart) -> Room:
    room = control.get_room(local)
    if room is None:
        raise Missing(f"There is no room {local}.", remedy="Create it first.")
    return room


def room_domain(instance: Instance) -> DomainName:
    """The MUC component's domain."""
    return DomainName(instance.domain.name).child("conference")


def _audit(instance: Instance, principal: Principal, action: str, local: Localpart, more: str = "") -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="Room",
        object_id=f"{instance.key}/{local}",
        organisation=instance.organisation.slug,
        summary=f"{action.partition('.')[2].replace('_', ' ')} {local}@{room_domain(instance)} {more}".strip(),
    )
