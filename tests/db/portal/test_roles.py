"""Every route of the portal with every role: who may, who may not, and that a stranger finds nothing there."""

from __future__ import annotations

import datetime

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.drivers.engine.base import RoomSettings
from controlplane.monitoring import incidents
from controlplane.monitoring.models import Incident, S2sLink
from controlplane.portal import urls
from controlplane.portal.access import PortalView
from controlplane.values.names import Jid, Localpart
from controlplane.values.secret import Secret
from tenants.models import AuditEvent, Instance, Invitation, Membership
from tenants.principal import ROLE_SCOPES

pytestmark = [pytest.mark.db, pytest.mark.django_db]

#: Ways in, for who is not logged in.
DOORS = {"appearance", "join", "invitation", "come-in", "login-link"}
ROLES = tuple(ROLE_SCOPES)
#: (route, method) -> the roles that may. Written out, so that a changed scope fails here.
SEE = ("owner", "admin", "reader")
DO = ("owner", "admin")
EVERYBODY = ROLES
MAY = {
    ("home", "get"): EVERYBODY,
    ("organisation", "get"): EVERYBODY,
    ("incidents", "get"): SEE,
    ("incident", "get"): SEE,
    ("people", "get"): SEE,
    ("invite", "get"): ("owner",),
    ("invite", "post"): ("owner",),
    ("person", "get"): ("owner",),
    ("person", "post"): ("owner",),
    ("person-remove", "post"): ("owner",),
    ("invitation-renew", "post"): ("owner",),
    ("invitation-withdraw", "post"): ("owner",),
    ("instance", "get"): SEE,
    ("reverify", "post"): DO,
    ("members", "get"): SEE,
    ("password", "get"): ("owner", "admin", "helper"),
    ("password", "post"): ("owner", "admin", "helper"),
    ("member-new", "get"): DO,
    ("member-new", "post"): DO,
    ("member-import", "get"): DO,
    ("member-import", "post"): DO,
    ("member", "get"): SEE,
    ("member-enable", "post"): DO,
    ("member-disable", "post"): DO,
    ("member-delete", "get"): DO,
    ("member-delete", "post"): DO,
    ("member-password", "post"): DO,
    ("rooms", "get"): SEE,
    ("room-new", "get"): DO,
    ("room-new", "post"): DO,
    ("room", "get"): SEE,
    ("room", "post"): DO,
    ("room-delete", "get"): DO,
    ("room-delete", "post"): DO,
    ("room-people", "get"): SEE,
    ("room-people", "post"): DO,
    ("room-export", "get"): SEE,
    ("room-import", "get"): DO,
    ("room-import", "post"): DO,
    ("federation", "get"): SEE,
    ("link-retry", "post"): DO,
    ("reliability", "get"): SEE,
}


def routes():
    """(name, pattern, method) of every page for people who are logged in."""
    found = []
    for pattern in urls.urlpatterns:
        if pattern.name in DOORS:
            continue
        cls = pattern.callback.view_class
        assert issubclass(cls, PortalView), pattern.name
        found += [(pattern.name, pattern, m) for m in ("get", "post") if hasattr(cls, m)]
    return found


def address_of(pattern, instance: Instance) -> str:
    """The route filled in with this instance's things; a new kind of parameter fails here."""
    organisation = instance.organisation
    route = str(pattern.pattern)
    number = Membership.objects.filter(organisation=organisation).earliest("pk").pk
    if "invitations/" in route:
        number = Invitation.objects.get(organisation=organisation).pk
    values = {
        "slug": organisation.slug,
        "key": instance.key,
        "username": "alice",
        "name": "lobby",
        "remote": "far.example",
        "incident": Incident.objects.get(instance=instance).key,
        "number": str(number),
    }
    for name, converter in pattern.pattern.converters.items():
        kind = {"StringConverter": "str", "SlugConverter": "slug", "IntConverter": "int"}[type(converter).__name__]
        route = route.replace(f"<{kind}:{name}>", values[name])
    assert "<" not in route
    return f"/portal/{route}"


@pytest.fixture
def world(instance, theirs, control, person):
    control.create_account(Localpart("alice"), Secret("secret-secret"))
    control.create_room(Localpart("lobby"), RoomSettings(), Jid.parse("alice@acme.roost.example"))
    for row in (instance, theirs):
        person(f"somebody@{row.organisation.slug}.example", (row.organisation, "reader"))
        incidents.open_incident(
            kind="check", subject=row.key, cause="LoginFails", title=f"of {row.domain.name}", message="m", instance=row
        )
        S2sLink.objects.create(instance=row, remote="far.example")
        Invitation.objects.create(
            organisation=row.organisation,
            email="new@example.org",
            role="reader",
            digest=row.key,
            invited_by="x",
            expires_at=timezone.now() + datetime.timedelta(days=1),
        )
    return theirs


def test_the_table_names_every_route():
    assert {(name, method) for name, _, method in routes()} == set(MAY)


@pytest.mark.parametrize("role", ROLES)
def test_each_route_is_open_to_those_roles_and_no_others(role, as_role, instance, world):
    client = as_role(role)
    for name, pattern, method in routes():
        address = address_of(pattern, instance)
        before = AuditEvent.objects.count()
        # An empty form: who may is told what is missing, or it is done; who may not never gets that far.
        answer = getattr(client, method)(address)
        if role in MAY[name, method]:
            assert answer.status_code in (200, 302, 422), (role, name, method, answer.status_code)
        else:
            assert answer.status_code == 403, (role, name, method, answer.status_code)
            assert AuditEvent.objects.count() == before, (role, name)
        if name in {"person-remove", "invitation-withdraw", "member-disable"} and role in MAY[name, method]:
            assert AuditEvent.objects.count() > before, (role, name)


@pytest.mark.parametrize("role", ROLES)
def test_another_organisation_s_things_are_not_there(role, as_role, world):
    client = as_role(role)
    before = AuditEvent.objects.count()
    for name, pattern, method in routes():
        if name == "home":
            continue
        address = address_of(pattern, world)
        answer = getattr(client, method)(address)
        assert answer.status_code == 404, (role, name, method, answer.status_code)
        # The form that changes the language leads back to the address that was asked for; nothing else knows of it.
        assert "globex" not in answer.content.decode().lower().replace(address.lower(), ""), name
    assert AuditEvent.objects.count() == before


def test_nobody_is_asked_to_log_in(instance, world):
    client = Client()
    for name, pattern, method in routes():
        answer = getattr(client, method)(address_of(pattern, instance))
        assert answer.status_code == 302, name
        assert answer["Location"].startswith("/accounts/login/?next=/portal/"), name


def test_numbers_of_another_organisation_are_no_way_in(owner, acme, world):
    """Rows below one's own organisation's address: another's number there is nobody's."""
    other = Membership.objects.get(organisation__slug="globex")
    invitation = Invitation.objects.get(organisation__slug="globex")
    incident = Incident.objects.get(instance=world)
    assert owner.get(f"/portal/o/acme/people/{other.pk}/").status_code == 404
    assert owner.post(f"/portal/o/acme/people/{other.pk}/remove/").status_code == 404
    assert owner.post(f"/portal/o/acme/invitations/{invitation.pk}/renew/").status_code == 404
    assert owner.post(f"/portal/o/acme/invitations/{invitation.pk}/withdraw/").status_code == 404
    assert owner.get(f"/portal/o/acme/incidents/{incident.key}/").status_code == 404


def test_a_helper_sees_no_member_and_resets_a_password(as_role, instance, world, control):
    helper = as_role("helper")
    assert b"alice" not in helper.get("/portal/o/acme/").content
    assert b"alice" not in helper.get(f"/portal/s/{instance.key}/password/").content
    answer = helper.post(f"/portal/s/{instance.key}/password/", {"username": "alice"})
    assert answer.status_code == 200
    assert control.passwords["alice"] != "secret-secret"
    assert control.passwords["alice"] in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert helper.post(f"/portal/s/{instance.key}/password/", {"username": "nobody"}).status_code == 422


def test_who_is_removed_is_out_at_once(owner, as_role, acme, instance):
    reader = as_role("reader")
    assert reader.get(f"/portal/s/{instance.key}/").status_code == 200
    number = Membership.objects.get(user__username="reader@acme.example").pk
    assert owner.post(f"/portal/o/acme/people/{number}/remove/").status_code == 302
    assert reader.get(f"/portal/s/{instance.key}/").status_code == 404


def test_the_last_owner_stays(owner, acme):
    number = Membership.objects.get(user__username="owner@acme.example").pk
    assert owner.post(f"/portal/o/acme/people/{number}/", {"role": "reader"}).status_code == 422
    owner.post(f"/portal/o/acme/people/{number}/remove/")
    assert Membership.objects.get(pk=number).role == "owner"
