"""The operator's pages: every list and form opens, secrets stay away, and actions go through the services."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.core.cache import cache
from django.db.models import CompositePrimaryKey
from django.urls import reverse

from controlplane.api import login
from controlplane.fleet.models import Node
from controlplane.reconcile.models import Condition
from tenants.models import AuditEvent, Plan
from tests.db.fleet.driven import make_node

pytestmark = [pytest.mark.db, pytest.mark.django_db]
OURS = ("tenants", "reconcile", "fleet", "zones", "certificates", "turn", "provisioning", "monitoring", "backups")


def models_of(label):
    """Without those with a key of several columns, which Django's admin cannot show (samples)."""
    found = apps.get_app_config(label).get_models()
    return [m for m in found if not isinstance(m._meta.pk, CompositePrimaryKey)]


@pytest.fixture
def page(admin_client):
    return admin_client


def test_every_model_of_ours_is_there():
    missing = [m.__name__ for label in OURS for m in models_of(label) if not admin.site.is_registered(m)]
    assert missing == []


def test_every_list_opens(page, instance):
    for label in OURS:
        for model in models_of(label):
            answer = page.get(reverse(f"admin:{label}_{model._meta.model_name}_changelist") + "?q=x")
            assert answer.status_code == 200, model


def test_no_form_shows_what_is_sealed():
    for model, page_of in admin.site._registry.items():
        sealed = {
            f.name for f in model._meta.get_fields() if f.name.endswith("_sealed") or f.name in {"digest", "body"}
        }
        if model._meta.app_label in OURS:
            hidden = set(page_of.exclude or ())
            shown = set(flatten_fieldsets(page_of.fieldsets)) if page_of.fieldsets else sealed - hidden
            assert not sealed & shown, model


def test_the_front_pages(page, instance):
    Condition.objects.create(
        kind="Instance",
        object_id=instance.key,
        type="DnsPublished",
        status="False",
        stalled=True,
        message="<b>Look</b>",
    )
    text = page.get("/").content.decode()
    assert "0 / 1" in text
    assert "&lt;b&gt;Look&lt;/b&gt;" in text
    assert "0 / 1" in page.get("/admin/").content.decode()


def test_a_stranger_sees_no_numbers(client, instance):
    text = client.get("/").content.decode()
    assert "curl" in text
    assert instance.key not in text


def test_suspend_resume_and_terminate(page, instance):
    where = reverse("admin:tenants_instance_changelist")
    for action, said in (("suspend", "instance.suspend"), ("resume", "instance.unsuspend")):
        page.post(where, {"action": action, "_selected_action": [instance.pk]})
        assert AuditEvent.objects.latest("id").action == said
    page.post(where, {"action": "terminate", "_selected_action": [instance.pk]})
    event = AuditEvent.objects.latest("id")
    assert (event.action, event.actor) == ("instance.terminate", "admin")
    assert page.get(reverse("admin:tenants_instance_change", args=[instance.pk])).status_code in (200, 403)


def test_rows_of_reconcilers_cannot_be_changed(page, instance):
    row = Condition.objects.create(kind="Instance", object_id=instance.key, type="Ready", status="False")
    page.post(reverse("admin:reconcile_condition_change", args=[row.pk]), {"status": "True"})
    row.refresh_from_db()
    assert row.status == "False"
    assert page.post(reverse("admin:reconcile_condition_add"), {}).status_code == 403


def test_a_plan_is_changed_by_its_service(page, plan):
    where = reverse("admin:tenants_plan_change", args=[plan.pk])
    fields = ("max_instances", "max_accounts", "max_rooms", "upload_max_mib", "upload_quota_mib")
    form = {name: getattr(plan, name) for name in (*fields, "upload_days", "archive_days")}
    page.post(where, {**form, "name": "Basic", "memory_mib": 300, "open": "on"})
    assert Plan.objects.get().memory_mib == 300
    assert AuditEvent.objects.latest("id").data == {"memory_mib": 300}
    page.post(where, {**form, "name": "Basic", "memory_mib": 1, "open": "on"})
    assert Plan.objects.get().memory_mib == 300


def test_cordon(page):
    node = Node.objects.create(name="n1", address="127.0.0.1", instance_network="127.1.0.0/24", root="/srv")
    page.post(reverse("admin:fleet_node_changelist"), {"action": "cordon", "_selected_action": [node.pk]})
    node.refresh_from_db()
    assert node.standing == Node.CORDONED


def test_a_node_page_shows_its_conditions_and_no_secrets(page):
    node = make_node("n1", 1, variables={"word": "s3same"}, key_sealed="sealed-key", labels={"region": "eu"})
    Condition.objects.create(kind="Node", object_id="n1", type="Reachable", status="False", message="<i>cut")
    shown = page.get(reverse("admin:fleet_node_change", args=[node.pk])).content.decode()
    assert "&lt;i&gt;cut" in shown
    assert "s3same" not in shown
    assert "sealed-key" not in shown
    listed = page.get(reverse("admin:fleet_node_changelist")).content.decode()
    assert "region" in listed
    assert "0 of 4096" in listed


def test_an_instance_page_shows_its_conditions(page, instance):
    Condition.objects.create(kind="Instance", object_id=instance.key, type="TurnReady", status="False", message="<i>x")
    answer = page.get(reverse("admin:tenants_instance_change", args=[instance.pk]))
    assert answer.status_code == 200
    assert "&lt;i&gt;x" in answer.content.decode()


def test_acme_answers(client, monkeypatch):
    from controlplane.certificates import services

    monkeypatch.setattr(services, "http01_answer", lambda token: "tok.thumb" if token == "tok" else None)
    answer = client.get("/.well-known/acme-challenge/tok")
    assert (answer.content, answer["Content-Type"]) == (b"tok.thumb", "application/octet-stream")
    assert client.get("/.well-known/acme-challenge/other").status_code == 404


def test_ready(client):
    assert client.get("/readyz").json() == {"status": "ok", "database": "ok"}


def guess(client, **more):
    return client.post(reverse("admin:login"), {"username": "olga", "password": "wrong"}, **more).content.decode()


def test_guesses_are_limited_by_address(client):
    cache.clear()
    for _ in range(login.MAX_FAILURES):
        assert "Too many" not in guess(client, REMOTE_ADDR="192.0.2.7")
    assert "Too many failed logins" in guess(client, REMOTE_ADDR="192.0.2.7")
    assert "Too many" not in guess(client, REMOTE_ADDR="192.0.2.8")


def test_an_ipv6_network_is_one_address(client):
    cache.clear()
    for number in range(login.MAX_FAILURES):
        guess(client, REMOTE_ADDR=f"2001:db8::{number}")
    assert "Too many failed logins" in guess(client, REMOTE_ADDR="2001:db8::ffff")


@pytest.mark.parametrize(
    ("hops", "told", "address"),
    [
        (0, "192.0.2.1", "127.0.0.1"),
        (1, "made-up, 192.0.2.1", "192.0.2.1"),
        (2, "6.6.6.6, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
        (2, "192.0.2.1", "127.0.0.1"),
        (1, "nonsense", "127.0.0.1"),
    ],
)
def test_the_client_behind_a_proxy(operator, settings, hops, told, address):
    settings.ROOST = {**settings.ROOST, "PROXY_HOPS": hops}
    operator.post("/api/v1/organisations/", {"slug": "acme", "name": "Acme"}, headers={"X-Forwarded-For": told})
    assert AuditEvent.objects.get(action="organisation.create").address == address


def test_pages_say_what_browsers_may_load(client):
    policy = client.get(reverse("admin:login"))["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self';" in policy
    assert "script-src 'self' 'unsafe-inline';" in client.get("/api/v1/docs/")["Content-Security-Policy"]


def test_the_entry_counts_nodes_that_are_in_use_and_those_that_are_ready(page):
    for number, standing in ((1, "active"), (2, "cordoned"), (3, "retired")):
        make_node(f"n{number}", number, standing=standing)
    Condition.objects.create(kind="Node", object_id="n2", type="Ready", status="True")
    Condition.objects.create(kind="Instance", object_id="x", type="Ready", status="True")
    shown = page.get("/").content.decode()
    assert '<span class="number">1 / 2</span><p>nodes ready</p>' in shown
