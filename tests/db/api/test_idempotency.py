"""The same POST twice does one thing, also side by side, and gives one answer."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction

from controlplane.api import idempotency
from tenants import services
from tenants.models import ApiToken, AuditEvent, IdempotencyKey, Instance, Organisation
from tenants.principal import ALL_SCOPES, SYSTEM
from tests.db.api.conftest import client_of

API = "/api/v1"
KEY = {"HTTP_IDEMPOTENCY_KEY": "order-4711"}


@pytest.mark.db
@pytest.mark.django_db
def test_a_replay_gives_the_first_answer(ours, acme, plan):
    wish = {"organisation": "acme", "domain": "a.roost.example", "engine": "prosody", "plan": "basic"}
    first = ours.post(f"{API}/instances/", wish, **KEY)
    again = ours.post(f"{API}/instances/", dict(reversed(list(wish.items()))), **KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]
    assert again["Idempotency-Replayed"] == "true"
    assert Instance.objects.count() == 1
    assert AuditEvent.objects.filter(action="instance.create").count() == 1


@pytest.mark.db
@pytest.mark.django_db
def test_a_key_is_for_one_request(ours, acme, plan):
    wish = {"organisation": "acme", "domain": "a.roost.example", "engine": "prosody", "plan": "basic"}
    assert ours.post(f"{API}/instances/", wish, **KEY).status_code == 202
    other = ours.post(f"{API}/instances/", {**wish, "domain": "b.roost.example"}, **KEY)
    assert other.status_code == 422
    assert other.json()["code"] == "key-reused"
    assert Instance.objects.count() == 1


@pytest.mark.db
@pytest.mark.django_db
def test_a_refusal_keeps_no_key(ours, acme, plan):
    wish = {"organisation": "acme", "domain": "localhost", "engine": "prosody", "plan": "basic"}
    assert ours.post(f"{API}/instances/", wish, **KEY).status_code == 422
    assert not IdempotencyKey.objects.exists()
    assert ours.post(f"{API}/instances/", {**wish, "domain": "a.roost.example"}, **KEY).status_code == 202


@pytest.mark.db
@pytest.mark.django_db
def test_keys_of_others_are_others(token, acme, globex, plan):
    for organisation in (acme, globex):
        wish = {"domain": f"{organisation.slug}.roost.example", "engine": "prosody", "plan": "basic"}
        where = f"{API}/organisations/{organisation.slug}/instances/"
        assert token(organisation, "instances").post(where, wish, **KEY).status_code == 202
    assert Instance.objects.count() == 2


@pytest.mark.db
@pytest.mark.django_db
def test_an_answer_with_a_secret_is_kept_sealed(operator):
    body = {"name": "shop", "scopes": ["read"]}
    first = operator.post(f"{API}/tokens/", body, **KEY).json()
    again = operator.post(f"{API}/tokens/", body, **KEY).json()
    assert again["token"] == first["token"]
    assert ApiToken.objects.filter(name="shop").count() == 1
    assert first["token"] not in str(IdempotencyKey.objects.values().get())


@pytest.mark.db
@pytest.mark.django_db
@pytest.mark.parametrize("key", ["x" * 201, "a\x01"])
def test_keys_that_are_none(operator, key):
    answer = operator.post(f"{API}/organisations/", {"slug": "x", "name": "X"}, HTTP_IDEMPOTENCY_KEY=key)
    assert answer.status_code == 400
    assert not Organisation.objects.exists()


@pytest.mark.db
@pytest.mark.django_db(transaction=True)
def test_while_the_first_runs_the_second_is_told_so():
    row, text = services.create_token(name="t", scopes=sorted(ALL_SCOPES), principal=SYSTEM)
    inside, go_on = threading.Event(), threading.Event()
    answers = {}

    def first_request():
        """Holds the key as a running request does, until the main thread has asked."""
        try:
            with transaction.atomic():
                idempotency._lock(f"token {row.name} ({row.prefix})", "order-4711")
                inside.set()
                assert go_on.wait(20)
        finally:
            connection.close()

    thread = threading.Thread(target=first_request)
    thread.start()
    assert inside.wait(20)
    client = client_of(text.reveal())
    answers["second"] = client.post(f"{API}/organisations/", {"slug": "x", "name": "X"}, **KEY)
    go_on.set()
    thread.join(20)
    assert answers["second"].status_code == 409
    assert answers["second"].json()["code"] == "still-running"
    assert answers["second"]["Retry-After"] == "1"
    assert client.post(f"{API}/organisations/", {"slug": "x", "name": "X"}, **KEY).status_code == 201


@pytest.mark.db
@pytest.mark.django_db(transaction=True)
def test_side_by_side_one_is_made():
    _, text = services.create_token(name="t", scopes=sorted(ALL_SCOPES), principal=SYSTEM)
    barrier = threading.Barrier(4)
    codes = []

    def post():
        try:
            client = client_of(text.reveal())
            barrier.wait(20)
            codes.append(client.post(f"{API}/organisations/", {"slug": "x", "name": "X"}, **KEY).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(codes) <= {201, 409}
    assert 201 in codes
    assert Organisation.objects.count() == 1
    assert AuditEvent.objects.filter(action="organisation.create").count() == 1
