from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from django.test import Client

from controlplane.drivers.engine.base import Account, Room
from controlplane.provisioning import accounts, rooms
from controlplane.values.names import Localpart
from controlplane.values.secret import Secret
from tenants import services
from tenants.principal import SYSTEM
from tenants.services import people

PASSWORD = "a long walk in the rain"


@dataclass
class Control:
    """An engine's control channel in memory, with the contract's return values; the real ones are in tests/e2e."""

    accounts: dict[Localpart, Account] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    rooms: dict[Localpart, Room] = field(default_factory=dict)

    def create_account(self, local, password):
        if local in self.accounts:
            return False
        self.accounts[local] = Account(local, True)
        self.passwords[local.text] = password.reveal()
        return True

    def set_password(self, local, password):
        self.passwords[local.text] = password.reveal()

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
def plan(db):
    return services.create_plan(
        slug="basic", name="Basic", max_instances=100, max_accounts=10_000, max_rooms=10_000, principal=SYSTEM
    )


@pytest.fixture
def acme(db):
    return services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)


@pytest.fixture
def globex(db):
    return services.create_organisation(slug="globex", name="Globex", principal=SYSTEM)


@pytest.fixture
def instance(acme, plan):
    return services.create_instance(
        organisation=acme, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def theirs(globex, plan):
    return services.create_instance(
        organisation=globex, domain="globex.roost.example", engine="ejabberd", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def person(db):
    """Makes a person who belongs to organisations: ``person("anna@acme.example", (acme, "owner"))``."""

    def make(email, *places):
        user = people.create_person(email=email, password=Secret(PASSWORD))
        for organisation, role in places:
            people.add_person(organisation=organisation, user=user, role=role, principal=SYSTEM)
        return user

    return make


@pytest.fixture
def as_role(person, acme):
    """A browser in which somebody with this role in Acme is logged in."""

    def make(role):
        client = Client(raise_request_exception=True)
        client.force_login(person(f"{role}@acme.example", (acme, role)), "django.contrib.auth.backends.ModelBackend")
        return client

    return make


@pytest.fixture
def owner(as_role):
    return as_role("owner")
