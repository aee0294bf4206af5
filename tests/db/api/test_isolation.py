"""Every route of the API, with nobody's, a stranger's and a reader's token: nothing leaks, nothing changes."""

from __future__ import annotations

import datetime

import pytest
from django.db.models import Model
from django.urls import get_resolver
from django.utils import timezone
from rest_framework.test import APIClient

from controlplane.api.v1 import urls
from controlplane.api.v1.base import View
from controlplane.backups import repositories
from controlplane.backups.models import Backup, Drill, Place, Repository, Restore
from controlplane.fleet.models import Node
from controlplane.monitoring import incidents
from controlplane.monitoring.models import Incident, Maintenance, S2sLink, Subscription
from tenants import services
from tenants.models import AuditEvent, Domain, Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

OPEN = {"schema", "docs"}
WRITES = ("post", "put", "patch", "delete")
#: Routes that show each principal its own part; a stranger gets them, without the others' rows.
OWN_PART = {"root", "organisations", "domains", "instances", "events", "audit", "plans", "plan"}
OWN_PART |= {"links", "incidents", "subscriptions", "maintenances"}
OWN_PART |= {"restores", "drills", "backups", "backup-repositories"}


def views():
    return [(p.name, p) for p in urls.urlpatterns if p.name not in OPEN]


def methods_of(pattern) -> list[str]:
    cls = pattern.callback.view_class if hasattr(pattern.callback, "view_class") else pattern.callback.cls
    assert issubclass(cls, View), pattern.name
    return [m for m in ("get", *WRITES) if m in cls.http_method_names and hasattr(cls, m)]


def address_of(pattern, instance) -> str:
    """The route filled in with another organisation's things; a new kind of parameter fails here."""
    values = {
        "key": instance.key,
        "username": "alice",
        "jid": "bob@globex.roost.example",
        "prefix": "zzzzzzzzzz",
        "number": "1",
        "remote": "acme.roost.example",
        "incident": Incident.objects.get().key,
    }
    route = str(pattern.pattern)
    for prefix, model in (("subscriptions/", Subscription), ("maintenance/", Maintenance)):
        if route.startswith(prefix):
            values["number"] = str(model.objects.get().pk)
    kept: tuple[tuple[str, type[Model]], ...] = (("restores/", Restore), ("drills/", Drill))
    kept += (("backups/", Backup), ("backup-repositories/", Repository))
    for prefix, model in kept:
        if route.startswith(prefix) and "key" in pattern.pattern.converters:
            values["key"] = model.objects.get().key
    values["slug"] = "basic" if route.startswith("plans/") else "globex"
    values["name"] = {"nodes": "n1", "organisations": instance.domain.name}.get(route.split("/")[0], "lobby")
    for name in pattern.pattern.converters:
        route = route.replace(f"<str:{name}>", values[name])
    assert "<" not in route
    return f"/api/v1/{route}"


@pytest.fixture
def world(instance, theirs):
    Node.objects.create(name="n1", address="127.0.0.1", instance_network="127.1.0.0/24", root="/srv", state_dir="/srv")
    incidents.open_incident(
        kind="check", subject="x", cause="LoginFails", title="globex", message="globex", instance=theirs
    )
    Subscription.objects.create(organisation=theirs.organisation, kind="webhook", target="https://globex.example/")
    for one, other in ((instance, theirs), (theirs, instance)):
        S2sLink.objects.create(instance=one, remote=other.domain.name, peer=other)
    Place.objects.create(name="here", url="/srv/backups", is_default=True)
    repository = repositories.ensure(theirs)
    Restore.objects.create(repository=repository, instance=theirs, instance_key=theirs.key, mode="part")
    Drill.objects.create(repository=repository)
    Backup.objects.create(repository=repository, kind="full", trigger="manual", state="done")
    now = timezone.now()
    Maintenance.objects.create(instance=theirs, starts_at=now, ends_at=now + datetime.timedelta(hours=1), message="m")
    return theirs


def test_each_view_names_a_scope_for_each_method():
    for name, pattern in views():
        cls = pattern.callback.view_class if hasattr(pattern.callback, "view_class") else pattern.callback.cls
        for method in methods_of(pattern):
            assert cls.scopes.get(method.upper()), f"{name} {method}"


def test_nobody_gets_nothing(world):
    for name, pattern in views():
        for method in methods_of(pattern):
            answer = getattr(APIClient(), method)(address_of(pattern, world), {})
            assert answer.status_code == 401, f"{name} {method}"
            assert answer.json()["code"] == "not-authenticated"
            assert "WWW-Authenticate" in answer


def test_a_stranger_gets_nothing_of_others(world, ours):
    before = AuditEvent.objects.count()
    seen = 0
    for name, pattern in views():
        for method in methods_of(pattern):
            answer = getattr(ours, method)(address_of(pattern, world), {})
            if method == "get" and name in OWN_PART:
                assert answer.status_code == 200, f"{name} {method}"
                assert b"globex" not in answer.content.lower(), name
                assert world.key.encode() not in answer.content, name
            elif name in ("instances", "subscriptions"):  # a POST with an empty body is no use of anybody's
                assert answer.status_code == 400
            else:
                assert answer.status_code in (403, 404), f"{name} {method}: {answer.status_code}"
                assert answer["Content-Type"] == "application/problem+json"
            seen += 1
    assert seen >= 50
    assert AuditEvent.objects.count() == before
    assert Instance.objects.count() == Domain.objects.count() == 2


def test_what_others_have_looks_like_what_nobody_has(world, ours):
    real = ours.get(f"/api/v1/instances/{world.key}/")
    made_up = ours.get("/api/v1/instances/zzzzzzzz/")
    assert real.status_code == made_up.status_code == 404
    assert real.json() == made_up.json()


def test_creating_for_another_organisation_is_refused(world, ours):
    wish = {"organisation": "globex", "domain": "new.roost.example", "engine": "prosody", "plan": "basic"}
    answer = ours.post("/api/v1/instances/", wish)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "organisation"
    assert Instance.objects.count() == 2


def test_a_reader_changes_nothing(world, token, globex):
    reader = token(globex, "read")
    before = AuditEvent.objects.count()
    for name, pattern in views():
        for method in methods_of(pattern):
            if method != "get":
                answer = getattr(reader, method)(address_of(pattern, world), {})
                assert answer.status_code in (403, 404), f"{name} {method}: {answer.status_code}"
    assert AuditEvent.objects.count() == before


def test_a_scope_opens_only_its_own(world, token, globex):
    accounts = token(globex, "accounts")
    assert accounts.get(f"/api/v1/instances/{world.key}/").status_code == 403
    assert accounts.post(f"/api/v1/instances/{world.key}/suspend/").status_code == 403
    # Allowed, and only the server is missing.
    assert accounts.get(f"/api/v1/instances/{world.key}/accounts/").status_code == 503


def test_operators_things_are_the_operators(world, ours, operator):
    for path in ("nodes/", "nodes/n1/", "nodes/n1/blast-radius/", "rollouts/", "tokens/"):
        assert ours.get(f"/api/v1/{path}").status_code == 403
        assert operator.get(f"/api/v1/{path}").status_code == 200
    assert ours.post("/api/v1/nodes/n1/cordon/").status_code == 403
    assert operator.post("/api/v1/nodes/n1/cordon/").json()["accepting"] is False
    assert Node.objects.get().standing == Node.CORDONED
    assert operator.post("/api/v1/nodes/n1/uncordon/").json()["accepting"] is True
    assert list(AuditEvent.objects.order_by("-id").values_list("action", flat=True)[:2]) == [
        "node.uncordon",
        "node.cordon",
    ]


def test_a_person_acts_by_session_and_role(world, globex, django_user_model):
    from tenants.models import Membership

    rita = django_user_model.objects.create_user("rita", password="x")
    Membership.objects.create(user=rita, organisation=globex, role="reader")
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(rita)
    assert client.get(f"/api/v1/instances/{world.key}/").status_code == 200
    assert client.post(f"/api/v1/instances/{world.key}/suspend/").status_code == 403
    stranger = django_user_model.objects.create_user("sam", password="x")
    client.force_login(stranger)
    assert client.get("/api/v1/instances/").status_code == 403


def test_closed_plans_are_the_operators(plan, ours, operator):
    services.update_plan(plan=plan, open=False, principal=SYSTEM)
    assert ours.get("/api/v1/plans/").json()["results"] == []
    assert len(operator.get("/api/v1/plans/").json()["results"]) == 1


def test_no_other_routes_lead_into_the_api():
    prefixes = {str(p.pattern) for p in get_resolver().url_patterns}
    assert prefixes == {
        "",
        "healthz",
        "readyz",
        "portal/",  # its tests walk its routes
        "accounts/",  # allauth's
        "address",  # where the asker comes from
        ".well-known/acme-challenge/<str:token>",
        "status/",
        "api/v1/",
        "admin/",
    }
