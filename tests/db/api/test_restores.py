"""Restores and drills by the API: who may ask for what, what the answers say, and what strangers see of it."""

from __future__ import annotations

import pytest
from django.utils import timezone

from controlplane.backups import repositories
from controlplane.backups.models import Backup, Drill, Place, Restore
from tenants.models import AuditEvent

pytestmark = [pytest.mark.db, pytest.mark.django_db]

API = "/api/v1"


def backup_of(instance, **more):
    if not Place.objects.exists():
        Place.objects.create(name="here", url="/srv/backups", is_default=True)
    return Backup.objects.create(
        repository=repositories.ensure(instance),
        kind="full",
        trigger="manual",
        **{"state": "done", "snapshot": "0" * 64, "moment": timezone.now(), **more},
    )


@pytest.fixture
def keeper(token, acme):
    return token(acme, "read", "backups")


@pytest.fixture
def backup(instance):
    return backup_of(instance)


@pytest.fixture
def restore(keeper, instance, backup):
    body = {"backup": backup.key, "mode": "part", "selection": {"rooms": ["lobby"]}}
    answer = keeper.post(f"{API}/instances/{instance.key}/restores/", body, format="json")
    assert answer.status_code == 202, answer.content
    return Restore.objects.get(key=answer.json()["key"])


def test_a_restore_is_asked_for_and_shown(keeper, instance, backup, restore):
    shown = keeper.get(f"{API}/restores/{restore.key}/").json()
    assert (shown["state"], shown["mode"], shown["backup"]) == ("previewing", "part", backup.key)
    assert shown["selection"] == {"rooms": ["lobby"]}
    assert shown["links"]["confirm"].endswith(f"/restores/{restore.key}/confirm/")
    listed = keeper.get(f"{API}/instances/{instance.key}/restores/").json()["results"]
    assert [row["key"] for row in listed] == [restore.key]
    assert [row["key"] for row in keeper.get(f"{API}/restores/?state=previewing").json()["results"]] == [restore.key]
    assert keeper.get(f"{API}/restores/?state=done").json()["results"] == []
    assert keeper.get(f"{API}/restores/?state=odd").status_code == 422
    assert AuditEvent.objects.filter(action="restore.request", actor__startswith="t").count() == 1


def test_the_same_wish_twice_is_one(keeper, instance, backup):
    body = {"backup": backup.key, "mode": "part", "selection": {"accounts": ["ann"]}}
    answers = [
        keeper.post(f"{API}/instances/{instance.key}/restores/", body, format="json", HTTP_IDEMPOTENCY_KEY="once")
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert Restore.objects.count() == 1


def test_it_is_confirmed_when_it_was_previewed(keeper, restore):
    address = f"{API}/restores/{restore.key}/confirm/"
    assert keeper.post(address, {}, format="json").status_code == 409
    Restore.objects.update(state="previewed", previewed_at=timezone.now())
    answer = keeper.post(address, {}, format="json")
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")


def test_it_is_called_off(keeper, restore):
    answer = keeper.post(f"{API}/restores/{restore.key}/cancel/", {}, format="json")
    assert answer.status_code == 202
    assert answer.json()["cancel_requested_at"] is not None
    Restore.objects.update(state="running", switched_at=timezone.now())
    answer = keeper.post(f"{API}/restores/{restore.key}/cancel/", {}, format="json")
    assert answer.status_code == 409
    assert "safety backup" in answer.json()["remedy"]


def test_what_the_pass_keeps_for_itself_is_not_shown(keeper, restore):
    Restore.objects.update(report={"built": True, "made": 3})
    assert keeper.get(f"{API}/restores/{restore.key}/").json()["report"] == {"made": 3}


@pytest.mark.parametrize("selection", [{}, {"rooms": "lobby"}, {"rooms": ["a/b"]}, {"node": "n1"}, {"sql": ["x"]}])
def test_what_does_not_fit_is_refused(keeper, instance, backup, selection):
    body = {"backup": backup.key, "mode": "part", "selection": selection}
    answer = keeper.post(f"{API}/instances/{instance.key}/restores/", body, format="json")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("selection")
    assert not Restore.objects.exists()


def test_a_machine_is_the_operators_to_choose(keeper, operator, instance, backup):
    from controlplane.fleet.models import Node

    Node.objects.create(name="n1", address="127.0.0.1", instance_network="127.1.0.0/24")
    body = {"backup": backup.key, "mode": "in_place", "selection": {"node": "n1"}}
    address = f"{API}/instances/{instance.key}/restores/"
    refused = keeper.post(address, body, format="json")
    nothing = keeper.post(address, {**body, "selection": {"node": "n2"}}, format="json")
    assert refused.status_code == nothing.status_code == 422
    assert refused.json()["errors"] == nothing.json()["errors"]
    assert operator.post(address, body, format="json").status_code == 202


def test_anothers_backup_looks_like_none(keeper, instance, theirs):
    bodies = [{"backup": key, "mode": "new_instance"} for key in (backup_of(theirs).key, "nothing234")]
    answers = [keeper.post(f"{API}/instances/{instance.key}/restores/", body, format="json") for body in bodies]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].json()["errors"] == answers[1].json()["errors"]


def test_reading_does_not_restore(token, acme, instance, backup, restore):
    reader = token(acme, "read")
    assert reader.get(f"{API}/restores/{restore.key}/").status_code == 200
    body = {"backup": backup.key, "mode": "part", "selection": {"rooms": ["lobby"]}}
    assert reader.post(f"{API}/instances/{instance.key}/restores/", body, format="json").status_code == 403
    for verb in ("confirm", "cancel"):
        assert reader.post(f"{API}/restores/{restore.key}/{verb}/", {}, format="json").status_code == 403
    assert reader.post(f"{API}/instances/{instance.key}/drills/", {}, format="json").status_code == 403


def test_a_stranger_finds_neither_restores_nor_drills(token, globex, instance, backup, restore):
    drill = Drill.objects.create(repository=backup.repository)
    stranger = token(globex, "read", "backups")
    for path in (f"restores/{restore.key}/", f"drills/{drill.key}/", f"instances/{instance.key}/drills/"):
        assert stranger.get(f"{API}/{path}").status_code == 404, path
    for path in (f"restores/{restore.key}/confirm/", f"restores/{restore.key}/cancel/", f"drills/{drill.key}/cancel/"):
        assert stranger.post(f"{API}/{path}", {}, format="json").status_code == 404, path
    for path in ("restores/", "drills/"):
        assert stranger.get(f"{API}/{path}").json()["results"] == []


def test_a_drill_is_asked_for_once_and_shown(keeper, instance, backup):
    address = f"{API}/instances/{instance.key}/drills/"
    first = keeper.post(address, {}, format="json")
    assert (first.status_code, first.json()["state"], first.json()["backup"]) == (202, "waiting", backup.key)
    assert keeper.post(address, {"backup": backup.key}, format="json").json()["key"] == first.json()["key"]
    assert [row["key"] for row in keeper.get(address).json()["results"]] == [first.json()["key"]]
    cancelled = keeper.post(f"{API}/drills/{first.json()['key']}/cancel/", {}, format="json")
    assert cancelled.json()["cancel_requested_at"] is not None


def test_a_drill_wants_a_backup_of_this_instance(keeper, instance, theirs):
    address = f"{API}/instances/{instance.key}/drills/"
    assert keeper.post(address, {}, format="json").status_code == 409
    assert keeper.post(address, {"backup": backup_of(theirs).key}, format="json").status_code == 422
