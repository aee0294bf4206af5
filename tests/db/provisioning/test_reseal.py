"""A new master key: everything that is sealed is sealed with it, and the old key can go."""

from __future__ import annotations

import pytest
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet
from django.apps import apps
from django.core.management import call_command

from controlplane import vault
from controlplane.api.management.commands.reseal import SEALED
from controlplane.portal.adapters import SecondFactors
from controlplane.provisioning.models import ProbeAccount
from controlplane.turn.models import TurnCredential
from controlplane.values.secret import Secret
from tenants import services
from tenants.principal import SYSTEM
from tenants.services import people

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def test_every_sealed_field_is_known() -> None:
    there = {(m, f.name) for m in apps.get_models() for f in m._meta.get_fields() if f.name.endswith("_sealed")}
    assert there == {(model, field) for model, field, _, _ in SEALED}


def test_the_old_key_can_be_removed(settings) -> None:
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    acme = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    instance = services.create_instance(
        organisation=acme, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )
    turn, probe = f"turn:{instance.key}", f"probe:{instance.key}"
    TurnCredential.objects.create(instance=instance, secret_sealed=vault.seal(turn, Secret("now")))
    ProbeAccount.objects.create(instance=instance, password_sealed=vault.seal(probe, Secret("knock")))
    person = people.create_person(email="anna@acme.example", password=Secret("a long walk in the rain"))
    adapter = SecondFactors()
    for kind, name in (("totp", "secret"), ("recovery_codes", "seed")):
        Authenticator.objects.create(user=person, type=kind, data={name: adapter.encrypt(kind), "used_mask": 3})
    Authenticator.objects.create(user=person, type="webauthn", data={"credential": {}})
    new = Fernet.generate_key().decode()
    settings.ROOST = {**settings.ROOST, "MASTER_KEYS": [new, *settings.ROOST["MASTER_KEYS"]]}
    call_command("reseal")
    settings.ROOST = {**settings.ROOST, "MASTER_KEYS": [new]}
    assert vault.unseal(turn, TurnCredential.objects.get().secret_sealed) == Secret("now")
    assert TurnCredential.objects.get().previous_sealed == ""
    for kind, name in (("totp", "secret"), ("recovery_codes", "seed")):
        data = Authenticator.objects.get(type=kind).data
        assert (adapter.decrypt(data[name]), data["used_mask"]) == (kind, 3)
    assert vault.unseal(probe, ProbeAccount.objects.get().password_sealed) == Secret("knock")
