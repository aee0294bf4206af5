"""Organisations, plans, claims, tokens and the audit's trigger."""

from __future__ import annotations

import datetime

import pytest
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret
from tenants import quotas, services, tokens
from tenants.errors import QuotaExceeded, Taken, WrongState
from tenants.models import ApiToken, AuditEvent, Domain, Membership, Organisation, Plan
from tenants.principal import Principal

pytestmark = [pytest.mark.db, pytest.mark.django_db]


def test_a_short_name_is_had_once(acme, operator):
    with pytest.raises(Taken) as caught:
        services.create_organisation(slug="acme", name="Other", principal=operator)
    assert caught.value.field == "slug"
    assert Organisation.objects.get().name == "Acme"


@pytest.mark.parametrize("slug", ["", "Acme", "a b", "-a", "a-", "a" * 64, "ä", "a\n"])
def test_short_names_that_do_not_fit(db, operator, slug):
    with pytest.raises(InvalidInput):
        services.create_organisation(slug=slug, name="x", principal=operator)


def test_change_says_what_changed(acme, operator):
    services.change_organisation(organisation=acme, external_id="K-17", name="Acme", principal=operator)
    acme.refresh_from_db()
    assert acme.external_id == "K-17"
    assert AuditEvent.objects.order_by("-id")[0].data == {"external_id": "K-17"}


def test_an_organisation_goes_only_without_instances(acme, make, operator):
    instance = make(acme, "acme.roost.example")
    with pytest.raises(WrongState):
        services.delete_organisation(organisation=acme, principal=operator)
    services.terminate_instance(instance=instance, grace_s=0, principal=operator)
    services.finish_deletion(instance=instance)
    services.claim_domain(organisation=acme, domain="spare.roost.example", principal=operator)
    services.delete_organisation(organisation=acme, principal=operator)
    assert not Organisation.objects.exists()
    assert not Domain.objects.exists()


def test_an_organisation_cannot_hoard_names(acme, make, operator):
    for number in range(quotas.MAX_SPARE_CLAIMS):
        services.claim_domain(organisation=acme, domain=f"n{number}.roost.example", principal=operator)
    with pytest.raises(QuotaExceeded):
        services.claim_domain(organisation=acme, domain="more.roost.example", principal=operator)
    assert not Domain.objects.filter(name="more.roost.example").exists()
    make(acme, "more.roost.example")  # one with an instance does not count


def test_claim_and_release(acme, make, operator):
    claim = services.claim_domain(organisation=acme, domain="bücher.example", principal=operator)
    assert claim.name == "xn--bcher-kva.example"
    same = services.claim_domain(organisation=acme, domain="BÜCHER.example", principal=operator)
    assert same.pk == claim.pk
    instance = make(acme, "bücher.example")
    assert instance.domain.pk == claim.pk
    assert instance.display_name == "bücher.example"
    with pytest.raises(WrongState):
        services.release_domain(domain=claim, principal=operator)


def test_a_claim_without_instance_is_released(acme, operator):
    claim = services.claim_domain(organisation=acme, domain="chat.corp.example", principal=operator)
    services.release_domain(domain=claim, principal=operator)
    assert not Domain.objects.exists()


def test_plans_are_checked(plan, operator):
    with pytest.raises(Taken):
        services.create_plan(slug="basic", name="x", principal=operator)
    with pytest.raises(InvalidInput, match="no such limit"):
        services.create_plan(slug="b", name="x", principal=operator, wheels=4)
    with pytest.raises(InvalidInput) as caught:
        services.update_plan(plan=plan, memory_mib=1, principal=operator)
    assert caught.value.field == "memory_mib"
    with pytest.raises(InvalidInput, match="larger than"):
        services.update_plan(plan=plan, upload_max_mib=3000, principal=operator)


def test_a_plan_in_use_stays(plan, make, acme, operator):
    make(acme, "acme.roost.example")
    with pytest.raises(WrongState):
        services.delete_plan(plan=plan, principal=operator)
    assert Plan.objects.count() == 1


def test_a_token_opens_until_it_is_revoked(acme, operator):
    row, text = services.create_token(name="billing", scopes=["read"], organisation=acme, principal=operator)
    assert text.reveal().startswith(f"rst_{row.prefix}_")
    assert text.reveal() not in str(ApiToken.objects.values().get())
    assert tokens.find(text) == row
    principal = tokens.principal_of_token(row)
    assert principal.may("read", "acme")
    assert not principal.may("read", "globex")
    assert not principal.may("instances", "acme")
    services.revoke_token(token=row, principal=operator)
    assert tokens.find(text) is None


def test_wrong_tokens_open_nothing(acme, operator):
    _, text = services.create_token(name="t", scopes=["read"], organisation=acme, principal=operator)
    for wrong in ("", "rst__", text.reveal()[:-1] + "?", text.reveal() + "x", "rst_\0_", "x" * 5000):
        assert tokens.find(Secret(wrong)) is None


def test_an_expired_token_opens_nothing(acme, operator):
    soon = timezone.now() + datetime.timedelta(hours=1)
    row, text = services.create_token(name="t", scopes=["read"], organisation=acme, principal=operator, expires_at=soon)
    assert tokens.find(text) == row
    ApiToken.objects.update(expires_at=timezone.now())
    assert tokens.find(text) is None
    with pytest.raises(InvalidInput):
        services.create_token(name="t", scopes=["read"], principal=operator, expires_at=timezone.now())


def test_an_operators_token_dies_with_the_operators_rights(db, operator):
    user = get_user_model().objects.create_superuser("olga", password="x")
    row, text = services.create_token(name="t", scopes=["read", "admin"], user=user, principal=operator)
    assert tokens.principal_of_token(row).is_operator
    user.is_superuser = False
    user.save()
    assert tokens.find(text) is None


def test_a_members_token_dies_with_the_membership(acme, operator):
    user = get_user_model().objects.create_user("rita", password="x")
    member = Membership.objects.create(user=user, organisation=acme, role="admin")
    row, text = services.create_token(name="t", scopes=["read"], organisation=acme, user=user, principal=operator)
    assert tokens.find(text) == row
    member.delete()
    assert tokens.find(text) is None


@pytest.mark.parametrize("scopes", [[], ["fly"], ["admin"], ["read", "organisations"]])
def test_scopes_that_an_organisation_cannot_have(acme, operator, scopes):
    with pytest.raises(InvalidInput) as caught:
        services.create_token(name="t", scopes=scopes, organisation=acme, principal=operator)
    assert caught.value.field == "scopes"


def test_people_act_by_their_role(acme, globex):
    user = get_user_model().objects.create_user("rita", password="x")
    Membership.objects.create(user=user, organisation=acme, role="reader")
    principal = tokens.principal_of_user(user)
    assert principal.may("read", "acme")
    assert not principal.may("instances", "acme")
    assert not principal.may("read", "globex")


@pytest.mark.parametrize("sql", ["UPDATE tenants_auditevent SET actor = 'x'", "DELETE FROM tenants_auditevent"])
def test_the_audit_only_grows(acme, sql):
    assert AuditEvent.objects.exists()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert AuditEvent.objects.get().actor == "olga"


def test_a_token_may_do_no_more_than_its_maker(db, acme, operator):
    clerk = Principal(name="clerk", is_operator=True, scopes=frozenset({"read", "admin"}))
    member = Principal(name="ada", organisations={"acme": frozenset({"read", "accounts"})})
    for maker, organisation, scopes in (
        (clerk, None, ["read", "organisations"]),
        (clerk, acme, ["accounts"]),
        (member, acme, ["read", "rooms"]),
        (member, None, ["read"]),
    ):
        with pytest.raises(InvalidInput) as error:
            services.create_token(name="t", scopes=scopes, organisation=organisation, principal=maker)
        assert error.value.field == "scopes"
    row, _ = services.create_token(name="t", scopes=["admin", "read"], principal=clerk)
    assert row.scopes == ["admin", "read"]
    row, _ = services.create_token(name="t", scopes=["accounts"], organisation=acme, principal=member)
    assert row.scopes == ["accounts"]
