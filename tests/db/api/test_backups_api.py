"""Backups over the API: who may what, what others never see, and what comes in from people who mean no good."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from controlplane.backups import repositories
from controlplane.backups.models import Backup, Place, Policy, Repository
from controlplane.reconcile.models import WorkItem
from tenants import services
from tenants.models import AuditEvent, Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]
API = "/api/v1/"


@pytest.fixture
def place(db, tmp_path) -> Place:
    from controlplane.backups import places

    return places.create_place(name="here", url=str(tmp_path / "kept"), principal=SYSTEM)


@pytest.fixture
def admin(token, acme):
    return token(acme, "read", "backups")


def finished(instance: Instance, **more) -> Backup:
    fields = {"state": Backup.DONE, "kind": Backup.FULL, "trigger": Backup.MANUAL, "snapshot": "0" * 64}
    return Backup.objects.create(
        repository=repositories.ensure(instance),
        moment=timezone.now(),
        finished_at=timezone.now(),
        **{**fields, **more},
    )


def test_back_up_now_once_and_call_it_off(admin, instance, place):
    path = f"{API}instances/{instance.key}/backups/"
    answer = admin.post(path, {"kind": "full"}, format="json")
    assert answer.status_code == 202, answer.content
    key = answer.json()["key"]
    assert answer["Location"].endswith(f"/api/v1/backups/{key}/")
    assert WorkItem.objects.filter(kind="Backup", object_id=key, queue="backup").exists()
    assert admin.post(path, {}, format="json").json()["key"] == key
    assert AuditEvent.objects.filter(action="backup.request", organisation="acme").count() == 1
    assert [row["key"] for row in admin.get(path).json()["results"]] == [key]
    assert admin.get(f"{path}?state=done").json()["results"] == []
    assert admin.get(f"{path}?state=finished").status_code == 422
    assert admin.get(f"{API}backups/{key}/").json()["state"] == "waiting"
    assert admin.post(f"{API}backups/{key}/cancel/").status_code == 202
    assert Backup.objects.get().cancel_requested_at is not None
    assert admin.post(f"{API}backups/{key}/pin/").status_code == 409
    assert admin.get(f"{API}backups/{key}/bundle/").status_code == 409


def test_not_without_a_place_nor_while_it_is_suspended(admin, instance):
    path = f"{API}instances/{instance.key}/backups/"
    assert admin.post(path, {}, format="json").status_code in (409, 422)
    Place.objects.create(name="here", url="/srv/backups", is_default=True)
    services.suspend_instance(instance=instance, principal=SYSTEM)
    assert admin.post(path, {}, format="json").status_code == 409
    assert not Backup.objects.exists()


def test_pinned_and_not_pinned(admin, instance, place):
    row = finished(instance)
    assert admin.post(f"{API}backups/{row.key}/pin/").json()["pinned"] is True
    assert admin.post(f"{API}backups/{row.key}/unpin/").json()["pinned"] is False
    assert AuditEvent.objects.filter(action__in=["backup.pin", "backup.unpin"]).count() == 2


@pytest.mark.parametrize("method_path", ["POST cancel", "POST pin", "GET bundle", "GET "])
def test_strangers_find_nothing(token, globex, instance, place, method_path):
    row = finished(instance)
    stranger = token(globex, "read", "backups")
    method, _, action = method_path.partition(" ")
    path = f"{API}backups/{row.key}/{action}{'/' if action else ''}"
    answer = getattr(stranger, method.lower())(path)
    made_up = getattr(stranger, method.lower())(path.replace(row.key, "zzzzzzzzzz"))
    assert answer.status_code == made_up.status_code == 404
    assert answer.json() == made_up.json()
    for listed in ("backups/", "backup-repositories/", f"backups/?repository={row.repository.key}"):
        assert stranger.get(f"{API}{listed}").json()["results"] == []
    assert stranger.post(f"{API}instances/{instance.key}/backup-key/").status_code == 404
    assert stranger.get(f"{API}backup-repositories/{row.repository.key}/").status_code == 404


def test_reading_does_not_suffice_to_take_along(token, acme, instance, place):
    row = finished(instance)
    reader = token(acme, "read")
    assert reader.get(f"{API}backups/{row.key}/").status_code == 200
    assert reader.get(f"{API}backups/{row.key}/bundle/").status_code == 403
    assert reader.post(f"{API}backups/{row.key}/pin/").status_code == 403
    assert reader.post(f"{API}instances/{instance.key}/backup-key/").status_code == 403
    assert reader.patch(f"{API}instances/{instance.key}/backup-policy/", {}, format="json").status_code == 403
    assert not AuditEvent.objects.filter(action__startswith="backup").exclude(action="backup_place.create").exists()


def test_what_is_kept_of_an_organisation_that_is_gone_is_the_operators(token, operator, instance, acme, globex, place):
    row = finished(instance)
    Instance.objects.filter(pk=instance.pk).delete()
    services.delete_organisation(organisation=acme, principal=SYSTEM)
    other = token(globex, "read", "backups")
    assert other.get(f"{API}backups/").json()["results"] == []
    assert other.get(f"{API}backups/{row.key}/").status_code == 404
    assert Repository.objects.get().organisation is None
    assert operator.get(f"{API}backups/{row.key}/").json()["domain"] == "acme.roost.example"
    (kept,) = operator.get(f"{API}backup-repositories/?there=false").json()["results"]
    assert (kept["organisation"], kept["there"]) == ("acme", False)


def test_the_schedule_is_the_tenants_and_the_rest_is_not(admin, operator, instance, plan, place):
    path = f"{API}instances/{instance.key}/backup-policy/"
    assert admin.get(path).json()["full_cron"] == "30 2 * * *"
    changed = admin.patch(path, {"full_cron": "0 5 * * *", "time_zone": "Europe/Berlin"}, format="json").json()
    assert (changed["full_cron"], changed["own"]) == ("0 5 * * *", ["full_cron", "time_zone"])
    assert datetime.datetime.fromisoformat(changed["next_full"]) > timezone.now()
    assert admin.patch(path, {"keep": {"last": 900}}, format="json").status_code == 403
    assert operator.patch(path, {"keep": {"last": 5}}, format="json").json()["keep"] == {"last": 5}
    assert admin.patch(path, {"full_cron": None}, format="json").json()["full_cron"] == "30 2 * * *"
    plans = f"{API}plans/{plan.slug}/backup-policy/"
    assert admin.patch(plans, {"full_cron": "0 1 * * *"}, format="json").status_code == 403
    assert operator.patch(plans, {"full_cron": "0 1 * * *"}, format="json").json() == {"full_cron": "0 1 * * *"}
    assert admin.get(path).json()["full_cron"] == "0 1 * * *"
    paused = admin.post(f"{path}pause/", {"reason": "moving"}, format="json").json()
    assert (paused["paused_reason"], paused["next_full"]) == ("moving", None)
    assert admin.post(f"{path}resume/").json()["paused_at"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"full_cron": "* * * * *"},
        {"full_cron": "0 0 30 2 *"},
        {"full_cron": "\x00"},
        {"full_cron": "9" * 101},
        {"full_cron": ["0 2 * * *"]},
        {"full_cron": {"a": 1}},
        {"time_zone": "../../etc/passwd"},
        {"time_zone": "Europe/Berlin; drop table"},
        {"time_zone": 7},
        {"no_such": 1},
    ],
)
def test_hostile_policies_are_refused(admin, instance, body):
    answer = admin.patch(f"{API}instances/{instance.key}/backup-policy/", body, format="json")
    assert answer.status_code in (400, 403, 422), answer.content
    assert not Policy.objects.exclude(values={}).exists()


def test_places_are_the_operators_and_their_secrets_are_nobodys(admin, operator):
    assert admin.get(f"{API}backup-places/").status_code == 403
    body = {
        "name": "far",
        "url": "s3:https://s3.example.org/bucket",
        "environment": {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush-hush"},
    }
    answer = operator.post(f"{API}backup-places/", body, format="json")
    assert answer.status_code == 201, answer.content
    assert answer.json()["variables"] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert answer.json()["is_default"] is True
    sftp = {"name": "near", "url": "sftp://keep@store.example.org:22//srv/kept"}
    assert operator.post(f"{API}backup-places/", sftp, format="json").json()["public_key"].startswith("ssh-ed25519 ")
    rest = {"name": "rest", "url": "rest:https://us:hush-hush@store.example.org/kept"}
    assert (
        operator.post(f"{API}backup-places/", rest, format="json").json()["url"]
        == "rest:https://store.example.org/kept"
    )
    assert b"hush-hush" not in operator.get(f"{API}backup-places/").content
    assert b"hush" not in operator.get(f"{API}audit/").content
    for place in Place.objects.all():
        assert "hush" not in place.environment_sealed + place.url
    changed = operator.patch(f"{API}backup-places/rest/", {"at_once": 2, "is_default": True}, format="json").json()
    assert (changed["at_once"], changed["is_default"]) == (2, True)
    assert Place.objects.filter(is_default=True).count() == 1
    from controlplane.backups import places
    from controlplane.values.secret import Secret

    opened = places.opened(Place.objects.get(name="rest"), "rest:https://store.example.org/kept/x", Secret("k"))
    assert opened.url == "rest:https://us:hush-hush@store.example.org/kept/x"


@pytest.mark.parametrize(
    "body",
    [
        {"url": "/"},
        {"url": "/etc"},
        {"url": "/srv/../etc/kept"},
        {"url": "relative/path"},
        {"url": "file:///srv/kept"},
        {"url": "sftp:host:/p -oProxyCommand=x"},
        {"url": "sftp:-oProxyCommand=x:/p"},
        {"url": "s3:https://me:pw@s3.example.org/b"},
        {"url": "s3:ftp://x"},
        {"url": "rest:file:///etc"},
        {"url": "/srv/kept\n--password-command=id"},
        {"url": "/srv/kept", "environment": {"LD_PRELOAD": "/tmp/x.so"}},
        {"url": "/srv/kept", "environment": {"RESTIC_PASSWORD_COMMAND": "id"}},
        {"url": "/srv/kept", "environment": {"A=B": "x"}},
        {"url": "/srv/kept", "environment": {"AWS_PROFILE": "a\nb"}},
        {"url": "/srv/kept", "environment": []},
        {"url": "sftp:a@b:/p", "host_keys": ["ssh-rsa nonsense"]},
        {"url": "sftp:a@b:/p", "host_keys": "ssh-rsa AAAA"},
        {"url": "/srv/kept", "authorities": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"},
        {"url": "/srv/kept", "at_once": 0},
        {"url": "/srv/kept", "upload_kib_s": -1},
        {"url": "/srv/kept", "is_default": "perhaps"},
        {"url": "/srv/kept", "key_sealed": "x"},
        {"url": 7},
    ],
)
def test_hostile_places_are_refused(operator, body):
    answer = operator.post(f"{API}backup-places/", {"name": "x", **body}, format="json")
    assert answer.status_code in (400, 422), answer.content
    assert not Place.objects.exists()


def test_a_place_with_repositories_stays(operator, instance, place):
    repositories.ensure(instance)
    assert operator.delete(f"{API}backup-places/here/").status_code == 409
    assert operator.patch(f"{API}backup-places/here/", {"url": "/srv/elsewhere"}, format="json").status_code == 409
    Repository.objects.all().delete()
    assert operator.delete(f"{API}backup-places/here/").status_code == 204
