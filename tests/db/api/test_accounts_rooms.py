"""What the API makes of accounts and rooms: shapes, statuses, audit. The servers themselves have contract tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from controlplane.drivers.engine.base import Account, Room, RoomSettings
from controlplane.provisioning import accounts, rooms
from controlplane.values.names import Localpart
from tenants.models import AuditEvent, IdempotencyKey, Plan

pytestmark = [pytest.mark.db, pytest.mark.django_db]


@dataclass
class Control:
    """An engine's control channel in memory, with the contract's return values."""

    accounts: dict[Localpart, Account] = field(default_factory=dict)
    passwords: dict[Localpart, str] = field(default_factory=dict)
    rooms: dict[Localpart, Room] = field(default_factory=dict)

    def create_account(self, local, password):
        if local in self.accounts:
            return False
        self.accounts[local] = Account(local, True)
        self.passwords[local] = password.reveal()
        return True

    def set_password(self, local, password):
        self.passwords[local] = password.reveal()

    def set_account_enabled(self, local, enabled):
        self.accounts[local] = Account(local, enabled)

    def delete_account(self, local):
        return self.accounts.pop(local, None) is not None

    def list_accounts(self):
        return list(self.accounts.values())

    def list_rooms(self):
        return [replace(room, affiliations={}) for room in self.rooms.values()]

    def get_room(self, local):
        return self.rooms.get(local)

    def create_room(self, local, settings, owner):
        if local in self.rooms:
            return False
        self.rooms[local] = Room(local, settings, affiliations={str(owner): "owner"})
        return True

    def set_room_settings(self, local, settings):
        self.rooms[local] = replace(self.rooms[local], settings=settings)

    def set_affiliation(self, room, jid, affiliation):
        found = dict(self.rooms[room].affiliations)
        found.pop(str(jid), None)
        if affiliation != "none":
            found[str(jid)] = affiliation
        self.rooms[room] = replace(self.rooms[room], affiliations=found)

    def delete_room(self, local):
        return self.rooms.pop(local, None) is not None


@pytest.fixture
def control(monkeypatch):
    control = Control()
    for module in (accounts, rooms):
        monkeypatch.setattr(module, "control_of", lambda instance: control)
    return control


@pytest.fixture
def base(instance):
    return f"/api/v1/instances/{instance.key}"


def test_an_account_from_birth_to_end(ours, base, control):
    made = ours.post(f"{base}/accounts/", {"username": "Alice", "password": " long enough "})
    assert made.status_code == 201
    assert made.json()["password"] is None
    assert made.json()["jid"] == "alice@acme.roost.example"
    assert made["Location"].endswith(f"{base}/accounts/alice/")
    assert control.passwords[Localpart("alice")] == " long enough "
    assert ours.get(f"{base}/accounts/").json()["results"][0]["username"] == "alice"
    assert ours.patch(f"{base}/accounts/alice/", {"enabled": False}).json()["enabled"] is False
    assert len(ours.post(f"{base}/accounts/alice/password/").json()["password"]) >= 16
    assert ours.post(f"{base}/accounts/", {"username": "alice"}).status_code == 409
    assert ours.delete(f"{base}/accounts/alice/").status_code == 204
    assert ours.delete(f"{base}/accounts/alice/").status_code == 404
    assert ours.get(f"{base}/accounts/alice/").status_code == 404
    assert ours.post(f"{base}/accounts/alice/password/").json()["code"] == "not-found"
    said = list(AuditEvent.objects.filter(kind="Account").order_by("id").values_list("action", flat=True))
    assert said == ["account.create", "account.disable", "account.set_password", "account.delete"]
    assert "long enough" not in str(list(AuditEvent.objects.values()))


def test_a_made_up_password_is_given_again_to_the_same_request(ours, base, control):
    headers = {"HTTP_IDEMPOTENCY_KEY": "k1"}
    first = ours.post(f"{base}/accounts/", {"username": "bob"}, **headers).json()
    again = ours.post(f"{base}/accounts/", {"username": "bob"}, **headers).json()
    assert first == again
    assert first["password"] == control.passwords[Localpart("bob")]
    assert first["password"] not in str(IdempotencyKey.objects.values().get())


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"username": "a b"}, 422, "username"),
        ({"username": "a\ud800"}, 400, "username"),
        ({"username": "a/b"}, 422, "username"),
        ({"username": "roost-probe"}, 422, "username"),
        ({"username": "x", "password": "short"}, 422, "password"),
        ({"username": "x", "password": "with\u0007bell"}, 422, "password"),
        ({"username": "x" * 256}, 400, "username"),
        ({}, 400, "username"),
    ],
)
def test_names_and_passwords_that_do_not_fit(ours, base, control, body, status, field):
    text = json.dumps(body)  # in ASCII: half characters too
    answer = ours.post(f"{base}/accounts/", text, content_type="application/json", HTTP_IDEMPOTENCY_KEY="k")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    assert not control.accounts


def test_the_plan_limits_accounts_and_rooms(ours, base, control):
    Plan.objects.update(max_accounts=1, max_rooms=1)
    assert ours.post(f"{base}/accounts/", {"username": "a"}).status_code == 201
    assert ours.post(f"{base}/accounts/", {"username": "b"}).json()["code"] == "quota-exceeded"
    room = {"name": "r1", "owner": "a@acme.roost.example"}
    assert ours.post(f"{base}/rooms/", room).status_code == 201
    assert ours.post(f"{base}/rooms/", {**room, "name": "r2"}).json()["code"] == "quota-exceeded"


def test_a_room_with_its_settings_and_people(ours, base, control):
    wish = {"name": "Lobby", "owner": "alice@acme.roost.example", "title": "The lobby", "access": "members"}
    made = ours.post(f"{base}/rooms/", wish)
    assert made.status_code == 201
    body = made.json()
    assert (body["jid"], body["language"]) == ("lobby@conference.acme.roost.example", "en")
    assert body["affiliations"] == {"alice@acme.roost.example": "owner"}
    changed = ours.patch(f"{base}/rooms/lobby/", {"moderated": True, "listed": True, "language": "de-at"}).json()
    assert (changed["moderated"], changed["listed"], changed["access"]) == (True, True, "members")
    assert changed["language"] == "de-AT"
    assert control.rooms[Localpart("lobby")].settings == RoomSettings(
        title="The lobby", access="members", moderated=True, listed=True, language="de-AT"
    )
    banned = ours.put(f"{base}/rooms/lobby/affiliations/eve@evil.example/", {"affiliation": "outcast"}).json()
    assert banned["affiliations"]["eve@evil.example"] == "outcast"
    assert ours.get(f"{base}/rooms/lobby/affiliations/?affiliation=outcast").json() == {"eve@evil.example": "outcast"}
    freed = ours.delete(f"{base}/rooms/lobby/affiliations/eve@evil.example/").json()
    assert "eve@evil.example" not in freed["affiliations"]
    last = ours.put(f"{base}/rooms/lobby/affiliations/alice@acme.roost.example/", {"affiliation": "none"})
    assert (last.status_code, last.json()["code"]) == (422, "rejected")
    assert ours.get(f"{base}/rooms/").json()["results"][0]["title"] == "The lobby"
    assert ours.delete(f"{base}/rooms/lobby/").status_code == 204
    assert ours.get(f"{base}/rooms/lobby/").status_code == 404
    assert AuditEvent.objects.filter(kind="Room").count() == 5


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"title": "a\nb"}, 422, "title"),
        ({"language": "not a tag"}, 422, "language"),
        ({"access": "secret"}, 400, "access"),
        ({"owner": "alice"}, 422, "owner"),
        ({"name": "a@b"}, 422, "name"),
    ],
)
def test_room_wishes_that_do_not_fit(ours, base, control, change, status, field):
    wish = {"name": "lobby", "owner": "alice@acme.roost.example", **change}
    answer = ours.post(f"{base}/rooms/", wish)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)
    assert not control.rooms


def test_half_characters_anywhere(ours, base, control):
    for body in ('{"\\ud800": 1}', '{"username": 1, "\\ud800\\ud800": {"a": ["\\udfff"]}}'):
        answer = ours.post(f"{base}/accounts/", body, content_type="application/json", HTTP_IDEMPOTENCY_KEY="k")
        assert answer.status_code == 400
        assert answer.json()["code"] == "invalid-request"


def test_nul_in_addresses_and_questions(ours, base):
    assert ours.get("/api/v1/instances/%00/").status_code == 404
    answer = ours.get("/api/v1/audit/?actor=%00")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "actor")
