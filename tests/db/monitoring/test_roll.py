"""After a restart: what is missing opens one incident, names nobody in it, and ends when it is back or accepted."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from controlplane.drivers.engine.base import Roll as Seen
from controlplane.drivers.engine.base import RollMember, RollRoom, Room, RoomSettings
from controlplane.monitoring import incidents, roll
from controlplane.monitoring.models import Incident, Roll
from controlplane.reconcile import lease as leases
from controlplane.reconcile.models import Event, WorkItem
from controlplane.values.errors import Unavailable
from controlplane.values.names import Jid, Localpart
from tenants import audit, services
from tenants.models import AuditEvent, Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

LOUNGE = RollRoom(RoomSettings(title="Lounge"), "Tea", {"ann@acme.example": "owner", "bob@acme.example": "member"})
CELLAR = RollRoom(RoomSettings(access="members"), "", {"ann@acme.example": "owner"})


class Engine:
    """In memory what an engine would have on its disk: the contract's tests have the real ones."""

    def __init__(self) -> None:
        self.rooms = {"lounge": LOUNGE, "cellar": CELLAR}
        self.members = {"ann": RollMember(3, "p1:a", 2, "p1:b"), "bob": RollMember(1, "p1:c", 0, "p1:0")}
        self.started = timezone.now() - datetime.timedelta(hours=1)
        self.away = False

    def restart(self) -> None:
        self.started = timezone.now()

    def roll(self, known: str = "") -> Seen:
        if self.away:
            raise Unavailable("It does not answer.")
        digest = f"p1:{hash(repr((sorted(self.rooms.items()), sorted(self.members.items()))))}"
        uptime_s = (timezone.now() - self.started).total_seconds()
        if digest == known:
            return Seen(digest, uptime_s, None, None)
        return Seen(digest, uptime_s, dict(self.rooms), dict(self.members))

    def get_room(self, local: Localpart) -> Room | None:
        room = self.rooms.get(local.text)
        return None if room is None else Room(local, room.settings, affiliations=dict(room.affiliations))

    def create_room(self, local: Localpart, settings: RoomSettings, owner: Jid) -> bool:
        self.rooms[local.text] = RollRoom(settings, "", {str(owner): "owner"})
        return True

    def set_room_settings(self, local: Localpart, settings: RoomSettings) -> None:
        self.change(local.text, settings=settings)

    def set_affiliation(self, room: Localpart, jid: Jid, affiliation: str) -> None:
        self.change(room.text, affiliations={**self.rooms[room.text].affiliations, str(jid): affiliation})

    def change(self, name: str, **fields: object) -> None:
        self.rooms[name] = dataclasses.replace(self.rooms[name], **fields)  # type: ignore[arg-type]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(roll, "control_of", lambda instance: made)
    return made


@pytest.fixture
def acme(db: None) -> Instance:
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    organisation = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    return services.create_instance(
        organisation=organisation, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


def look(instance: Instance) -> None:
    """One pass over the work item, as a worker makes it."""
    roll.watch.touch(roll.KIND, instance.key)
    (lease,) = leases.claim(["probe"], holder="test")
    assert lease.kind == roll.KIND
    outcome = roll.reconcile(lease)
    assert outcome is not None
    leases.release(lease, after_s=outcome.after_s, attempts=0)


def grown_old(instance: Instance) -> None:
    """The engine's start was long before this restart."""
    Roll.objects.filter(instance=instance).update(engine_started_at=timezone.now() - datetime.timedelta(hours=2))


@pytest.fixture
def known(acme: Instance, engine: Engine) -> Instance:
    """Acme with a roll that has been taken a while ago."""
    look(acme)
    grown_old(acme)
    return acme


def opened(instance: Instance) -> Incident | None:
    return incidents.open_for(f"instance:{instance.key}:data")


def test_the_first_roll_is_only_kept(acme, engine):
    look(acme)
    row = Roll.objects.get()
    assert row.content["rooms"]["lounge"]["affiliations"] == LOUNGE.affiliations
    assert row.content["members"]["ann"] == {"roster": [3, "p1:a"], "bookmarks": [2, "p1:b"]}
    assert (row.missing, Incident.objects.count()) == ({}, 0)
    first = row.taken_at
    look(acme)
    row.refresh_from_db()
    assert row.taken_at > first


def test_a_restart_that_took_nothing_is_history_and_no_incident(known, engine):
    engine.restart()
    look(known)
    assert Incident.objects.count() == 0
    event = Event.objects.get(type="DataProven")
    assert (event.object_id, event.scope) == (known.key, "acme")
    assert "2 rooms" in event.message
    look(known)
    assert Event.objects.filter(type="DataProven").count() == 1


def test_what_goes_without_a_restart_was_taken_by_people(known, engine):
    Roll.objects.update(engine_started_at=engine.started)
    del engine.rooms["lounge"], engine.members["bob"]
    look(known)
    assert Incident.objects.count() == 0
    assert set(Roll.objects.get().content["rooms"]) == {"cellar"}
    engine.restart()
    look(known)
    assert Incident.objects.count() == 0


def test_a_loss_is_one_incident_without_names_that_ends_when_all_is_back(known, engine):
    lost_rooms, lost_members = engine.rooms, engine.members
    engine.rooms = {"cellar": dataclasses.replace(CELLAR, affiliations={})}
    engine.members = {"ann": RollMember(2, "p1:x", 2, "p1:b")}
    engine.restart()
    look(known)
    incident = opened(known)
    assert incident is not None
    assert (incident.kind, incident.cause, incident.scope) == ("data", "RoomsLost", "acme")
    counts = {"RoomsLost": 1, "MembersLost": 1, "AffiliationsLost": 1, "RostersLost": 1}
    assert incident.details["missing"] == counts
    said = " ".join(entry.message for entry in incident.entries.all()) + incident.title
    for name in ("lounge", "cellar", "ann", "bob"):
        assert name not in said.replace("acme", "")
    look(known)
    assert [entry.type for entry in incident.entries.all()] == ["Noticed"]

    engine.rooms = dict(lost_rooms)
    look(known)
    incident.refresh_from_db()
    assert incident.is_open
    assert incident.details["missing"] == {"MembersLost": 1, "RostersLost": 1}
    engine.members = dict(lost_members)
    look(known)
    incident.refresh_from_db()
    assert not incident.is_open
    assert [entry.type for entry in incident.entries.all()] == ["Noticed", "Noticed", "Ended"]
    assert Roll.objects.get().missing == {}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"settings": RoomSettings(title="")}, "RoomsDiffer"),
        ({"subject": ""}, "RoomsDiffer"),
        ({"affiliations": {**LOUNGE.affiliations, "bob@acme.example": "outcast"}}, "AffiliationsLost"),
    ],
)
def test_a_room_that_differs(known, engine, change, cause):
    engine.change("lounge", **change)
    engine.restart()
    look(known)
    incident = opened(known)
    assert incident is not None
    assert incident.cause == cause


@pytest.mark.parametrize(
    ("ann", "cause"),
    [
        (RollMember(3, "p1:other", 2, "p1:b"), "RostersLost"),  # as many, but not the same
        (RollMember(4, "p1:other", 3, "p1:other"), ""),  # grown
        (RollMember(3, "p1:a", 1, "p1:other"), "BookmarksLost"),
        (RollMember(3, "p2:a", 2, "p2:b"), ""),  # made in another way by a newer module
        (RollMember(2, "p2:a", 2, "p2:b"), "RostersLost"),
    ],
)
def test_a_member_who_differs(known, engine, ann, cause):
    engine.members["ann"] = ann
    engine.restart()
    look(known)
    incident = opened(known)
    assert (incident.cause if incident else "") == cause


def test_what_is_new_is_no_difference(known, engine):
    engine.rooms["attic"] = CELLAR
    engine.members["eve"] = RollMember(0, "p1:0", 0, "p1:0")
    engine.set_affiliation(Localpart("cellar"), Jid.parse("eve@acme.example"), "admin")
    engine.restart()
    look(known)
    assert Incident.objects.count() == 0


def test_what_the_api_did_meanwhile_is_no_loss(known, engine):
    for kind, action, name in (("Room", "room.delete", "lounge"), ("Account", "account.delete", "bob")):
        audit.record(principal=SYSTEM, action=action, kind=kind, object_id=f"{known.key}/{name}", organisation="acme")
    del engine.rooms["lounge"], engine.members["bob"], engine.rooms["cellar"]
    engine.restart()
    look(known)
    assert list(Roll.objects.get().missing["rooms"]) == ["cellar"]
    assert "members" not in Roll.objects.get().missing


def test_a_second_crash_adds_to_what_is_missing(known, engine):
    del engine.rooms["lounge"]
    engine.restart()
    look(known)
    grown_old(known)
    engine.rooms["attic"] = CELLAR
    look(known)
    grown_old(known)
    del engine.rooms["attic"]
    engine.restart()
    look(known)
    assert set(Roll.objects.get().missing["rooms"]) == {"lounge", "attic"}
    assert Incident.objects.count() == 1
    engine.rooms |= {"attic": CELLAR, "lounge": LOUNGE}
    look(known)
    assert opened(known) is None


def test_a_second_crash_does_not_hide_what_the_first_took(known, engine):
    engine.change("lounge", settings=RoomSettings(title="Spoilt"), affiliations={"ann@acme.example": "owner"})
    engine.members["ann"] = RollMember(1, "p1:less", 2, "p1:b")
    for _ in range(2):
        engine.restart()
        look(known)
        grown_old(known)
        assert Roll.objects.get().missing == {
            "rooms": {"lounge": {"settings": {"title": "Lounge"}, "affiliations": {"bob@acme.example": "member"}}},
            "members": {"ann": {"roster": [3, "p1:a"]}},
        }
    assert opened(known) is not None


def test_an_engine_that_is_away_changes_nothing(known, engine):
    before = Roll.objects.get().taken_at
    engine.away = True
    look(known)
    assert Roll.objects.get().taken_at == before
    assert Incident.objects.count() == 0


def test_whoever_does_not_run_is_not_asked(known, engine):
    services.suspend_instance(instance=known, reason="unpaid", principal=SYSTEM)
    before = Roll.objects.get().taken_at
    look(known)
    assert Roll.objects.get().taken_at == before


def test_an_instance_that_is_gone_has_no_work(acme, engine):
    look(acme)
    subject = "instance:gonegone:data"
    incidents.open_incident(kind="data", subject=subject, cause="RoomsLost", title="Lost", message="Lost.")
    roll.watch.touch(roll.KIND, "gonegone")
    (lease,) = leases.claim(["probe"], holder="test")
    assert roll.reconcile(lease) is None
    assert incidents.open_for(subject) is None
    assert not WorkItem.objects.filter(kind=roll.KIND, object_id="gonegone").exists()


def test_conditions_of_the_instance_wake_it(acme):
    roll.watch.changed("Instance", acme.key)
    assert WorkItem.objects.filter(kind=roll.KIND, object_id=acme.key).exists()


class TestApi:
    """Reading, accepting, restoring."""

    @pytest.fixture
    def client(self, acme: Instance) -> APIClient:
        _, text = services.create_token(
            name="t", scopes=("read", "instances", "rooms"), organisation=acme.organisation, principal=SYSTEM
        )
        client = APIClient(raise_request_exception=False)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {text.reveal()}")
        return client

    def test_nothing_is_known_yet(self, acme, client):
        assert client.get(f"/api/v1/instances/{acme.key}/roll/").status_code == 404

    def test_reading_and_accepting(self, known, engine, client):
        del engine.rooms["lounge"]
        engine.restart()
        look(known)
        incident = opened(known)
        assert incident is not None
        told = client.get(f"/api/v1/instances/{known.key}/roll/").json()
        assert (told["rooms"], told["members"], told["complete"]) == (1, 2, False)
        assert told["missing"]["rooms"]["lounge"]["affiliations"] == LOUNGE.affiliations
        assert told["incident"] == incident.key
        for _ in range(2):
            answer = client.post(f"/api/v1/instances/{known.key}/roll/accept/")
            assert answer.status_code == 200
            assert answer.json()["complete"] is True
        incident.refresh_from_db()
        assert not incident.is_open
        assert AuditEvent.objects.filter(action="roll.accept", organisation="acme").count() == 1
        look(known)
        assert opened(known) is None

    def test_rooms_are_restored_from_what_was_known(self, known, engine, client):
        Roll.objects.update(engine_started_at=engine.started)
        bare = dataclasses.replace(LOUNGE, subject="")
        engine.rooms["lounge"] = bare
        look(known)
        grown_old(known)
        del engine.rooms["lounge"]
        engine.change("cellar", affiliations={}, settings=RoomSettings())
        engine.restart()
        look(known)
        answer = client.post(f"/api/v1/instances/{known.key}/roll/restore/")
        assert answer.status_code == 200
        assert sorted(answer.json()["restored"]) == ["cellar", "lounge"]
        assert engine.rooms == {"lounge": bare, "cellar": CELLAR}
        look(known)
        assert opened(known) is None
        assert AuditEvent.objects.filter(action="roll.restore").count() == 1

    def test_what_cannot_be_restored_is_said(self, known, engine, client):
        del engine.rooms["lounge"]
        engine.restart()
        look(known)
        answer = client.post(f"/api/v1/instances/{known.key}/roll/restore/").json()
        assert (answer["restored"], answer["left"]) == ([], ["lounge"])  # its subject
        look(known)
        incident = opened(known)
        assert incident is not None
        assert incident.details["missing"] == {"RoomsDiffer": 1}
