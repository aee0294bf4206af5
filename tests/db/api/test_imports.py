"""A file of another server is handed in: where it goes, what is refused, who may see it. Real engines: tests/stack."""

from __future__ import annotations

import io
import stat

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile

from controlplane.backups import imports
from controlplane.backups.importrows import Import
from controlplane.reconcile.models import WorkItem
from tenants import services
from tenants.models import AuditEvent
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]
API = "/api/v1"
DOCUMENT = b"<server-data xmlns='urn:xmpp:pie:0'><host jid='acme.roost.example'><user name='ann'/></host></server-data>"


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    monkeypatch.setitem(settings.ROOST, "SPOOL_DIR", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture
def mover(token, acme):
    return token(acme, "read", "backups")


def send(client, instance, content=DOCUMENT, **fields):
    file = SimpleUploadedFile("export <1>.xml", content, "application/xml")
    return client.post(f"{API}/instances/{instance.key}/imports/", {"file": file, **fields}, format="multipart")


def test_a_file_waits_in_the_spool_for_its_preview(mover, instance, spool):
    answer = send(mover, instance, replace="true", host="Acme.Roost.Example")
    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert (body["state"], body["replace"], body["host"]) == ("previewing", True, "acme.roost.example")
    assert answer["Location"].endswith(f"/imports/{body['key']}/")
    (kept,) = spool.iterdir()
    assert kept.name == f"import-{body['key']}"
    assert kept.read_bytes() == DOCUMENT
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert WorkItem.objects.filter(kind="Import", object_id=body["key"], queue="backup").exists()
    assert AuditEvent.objects.filter(action="import.begin", object_id=body["key"], organisation="acme").exists()
    assert [row["key"] for row in mover.get(f"{API}/instances/{instance.key}/imports/").json()["results"]] == [
        body["key"]
    ]


def test_what_is_too_large_is_refused_and_leaves_nothing(mover, instance, spool, monkeypatch):
    monkeypatch.setitem(settings.ROOST, "IMPORT_MAX_BYTES", 100_000)
    for size in (100_001, 3_000_000):
        answer = send(mover, instance, b"x" * size)
        assert answer.status_code == 422, answer.content
        assert [error["field"] for error in answer.json()["errors"]] == ["file"]
    assert list(spool.iterdir()) == []
    assert send(mover, instance, b"x" * 100_000).status_code == 202


def test_a_large_file_is_never_in_memory(mover, instance, spool):
    """Three megabytes are more than what Django would keep there, and the same bytes arrive."""
    content = DOCUMENT + b" " * 3_000_000
    body = send(mover, instance, content).json()
    assert imports.place_of(Import.objects.get(key=body["key"])).read_bytes() == content


def test_what_is_no_file_is_refused(mover, instance, spool):
    where = f"{API}/instances/{instance.key}/imports/"
    assert mover.post(where, {"file": "text"}, format="multipart").status_code == 400
    assert mover.post(where, {"path": "/etc/passwd"}, format="json").status_code == 415
    assert send(mover, instance, strange="1").status_code == 400
    assert send(mover, instance, host="not a domain").status_code == 422
    two = [SimpleUploadedFile(f"{n}.xml", DOCUMENT) for n in range(2)]
    assert mover.post(where, {"file": two}, format="multipart").status_code == 422
    assert not spool.exists() or list(spool.iterdir()) == []


def test_one_import_of_an_instance_is_open_at_a_time(mover, instance, spool):
    first = send(mover, instance).json()
    assert send(mover, instance).status_code == 409
    assert len(list(spool.iterdir())) == 1
    Import.objects.filter(key=first["key"]).update(state=Import.DONE)
    assert send(mover, instance).status_code == 202


def test_nothing_is_taken_in_before_it_was_previewed_or_beyond_the_plan(mover, instance):
    key = send(mover, instance).json()["key"]
    where = f"{API}/imports/{key}/confirm/"
    assert mover.post(where, {}, format="json").status_code == 409
    blocked = {"blocked": ["The plan basic allows 100 accounts; 0 are there and 101 would come."]}
    Import.objects.filter(key=key).update(state=Import.PREVIEWED, preview=blocked)
    answer = mover.post(where, {}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (422, "quota-exceeded")
    Import.objects.filter(key=key).update(preview={"blocked": []})
    assert mover.post(where, {}, format="json").json()["state"] == "waiting"
    assert mover.post(where, {}, format="json").json()["state"] == "waiting"
    assert mover.post(f"{API}/imports/{key}/cancel/", {}, format="json").json()["cancel_requested_at"]


def test_others_see_nothing_of_it(mover, instance, theirs, token, globex):
    key = send(mover, instance).json()["key"]
    stranger, reader = token(globex, "read", "backups"), token(instance.organisation, "read")
    for path in ("", "confirm/", "cancel/"):
        method = stranger.post if path else stranger.get
        assert method(f"{API}/imports/{key}/{path}").status_code == 404
    assert stranger.get(f"{API}/instances/{instance.key}/imports/").status_code == 404
    assert send(stranger, instance).status_code == 404
    assert send(mover, theirs).status_code == 404
    assert reader.get(f"{API}/imports/{key}/").status_code == 200
    for path in ("confirm/", "cancel/"):
        assert reader.post(f"{API}/imports/{key}/{path}", {}, format="json").status_code == 403
    assert send(reader, instance).status_code == 403


def test_a_suspended_instance_takes_nothing_in(mover, instance, spool):
    services.suspend_instance(instance=instance, principal=SYSTEM, reason="unpaid")
    assert send(mover, instance).status_code == 409
    assert list(spool.iterdir()) == []


def test_left_overs_go_and_open_imports_stay(mover, instance, spool):
    import os

    key = send(mover, instance).json()["key"]
    for name in ("upload-abc", "import-gone", "import-fresh", "other"):
        (spool / name).write_bytes(io.BytesIO(b"x").read())
    for name in ("upload-abc", "import-gone", "other", f"import-{key}"):
        os.utime(spool / name, (1, 1))
    assert imports.clear_left_overs() == 2
    assert {path.name for path in spool.iterdir()} == {"import-fresh", "other", f"import-{key}"}
