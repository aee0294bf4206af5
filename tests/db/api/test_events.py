"""The history over the API: cursors without gaps, waiting, streaming, and the end of an instance."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from controlplane.api import follow
from controlplane.reconcile import history
from tenants import services
from tenants.models import Organisation, Plan
from tenants.principal import SYSTEM
from tests.db.api.conftest import client_of

pytestmark = [pytest.mark.db, pytest.mark.django_db(transaction=True)]
API = "/api/v1"


@pytest.fixture
def world():
    """An operator's client, and two instances of two organisations, all committed."""
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    made = {}
    for slug in ("acme", "globex"):
        organisation = services.create_organisation(slug=slug, name=slug, principal=SYSTEM)
        made[slug] = services.create_instance(
            organisation=organisation, domain=f"{slug}.roost.example", engine="prosody", plan=plan, principal=SYSTEM
        )
    return made


def client(slug, *scopes):
    organisation = Organisation.objects.get(slug=slug)
    _, text = services.create_token(name="t", scopes=scopes or ["read"], organisation=organisation, principal=SYSTEM)
    return client_of(text.reveal())


def test_pages_follow_each_other(world):
    acme = client("acme")
    services.suspend_instance(instance=world["acme"], principal=SYSTEM)
    first = acme.get(f"{API}/events/?limit=1").json()
    assert [e["type"] for e in first["events"]] == ["Created"]
    second = acme.get(f"{API}/events/?after={first['cursor']}").json()
    assert [e["type"] for e in second["events"]] == ["Suspended"]
    last = acme.get(f"{API}/events/?after={second['cursor']}").json()
    assert (last["events"], last["cursor"]) == ([], second["cursor"])


@pytest.mark.parametrize("cursor", ["%C2%B2-1", "1-%D9%A1", "x", "-", "1-", "1" * 70])
def test_what_is_no_cursor_is_refused(world, cursor):
    assert client("acme").get(f"{API}/events/?after={cursor}").status_code == 422


def test_others_events_are_not_there(world):
    found = client("acme").get(f"{API}/events/").json()["events"]
    assert {e["object_id"] for e in found} == {world["acme"].key}
    assert client("acme").get(f"{API}/events/?organisation=globex").json()["events"] == []
    assert client("acme").get(f"{API}/instances/{world['globex'].key}/events/").status_code == 404
    assert client("acme", "accounts").get(f"{API}/events/").status_code == 403


def test_a_long_poll_wakes_up(world):
    acme = client("acme")

    def later():
        try:
            services.suspend_instance(instance=world["acme"], principal=SYSTEM)
        finally:
            connection.close()

    timer = threading.Timer(0.7, later)
    timer.start()
    body = acme.get(f"{API}/instances/{world['acme'].key}/events/?after=now&wait=20").json()
    timer.join(20)
    assert [e["type"] for e in body["events"]] == ["Suspended"]


def test_events_outlive_their_instance(world):
    acme, key = client("acme"), world["acme"].key
    instance = services.terminate_instance(instance=world["acme"], grace_s=0, principal=SYSTEM)
    services.finish_deletion(instance=instance)
    assert acme.get(f"{API}/instances/{key}/").status_code == 404
    types = [e["type"] for e in acme.get(f"{API}/instances/{key}/events/").json()["events"]]
    assert types == ["Created", "TerminationRequested", "Deleted"]
    assert client("globex").get(f"{API}/instances/{key}/events/").status_code == 404


def test_a_stream_speaks_server_sent_events(world):
    answer = client("acme").get(f"{API}/events/", {"stream": "1", "seconds": "1"})
    assert answer["Content-Type"] == "text/event-stream"
    text = b"".join(answer.streaming_content).decode()
    assert text.startswith("retry: ")
    assert "event: Created\n" in text
    assert f'"object_id": "{world["acme"].key}"' in text
    assert world["globex"].key not in text
    assert text.endswith("\n\n")


def test_a_stream_is_asked_for_by_accept_and_goes_on_where_it_was(world):
    acme = client("acme")
    cursor = acme.get(f"{API}/events/").json()["cursor"]
    answer = acme.get(f"{API}/events/", {"seconds": "0"}, HTTP_ACCEPT="text/event-stream", HTTP_LAST_EVENT_ID=cursor)
    assert answer["Content-Type"] == "text/event-stream"
    assert b"event:" not in b"".join(answer.streaming_content)


def test_streams_are_bounded_and_give_their_places_back(world):
    acme = client("acme")
    open_ = [acme.get(f"{API}/events/?stream=1&seconds=60") for _ in range(follow.MAX_FOLLOWERS)]
    try:
        assert {answer.status_code for answer in open_} == {200}
        answer = acme.get(f"{API}/events/?stream=1&seconds=0")
        assert answer.status_code == 503
        assert answer.json()["code"] == "too-many-streams"
        assert answer["Retry-After"]
        # A poll is answered at once then.
        assert acme.get(f"{API}/events/?after=now&wait=30").json()["events"] == []
    finally:
        for answer in open_:
            answer.close()  # as the web server does, here before the first byte was read
    for _ in range(follow.MAX_FOLLOWERS + 1):
        answer = acme.get(f"{API}/events/?stream=1&seconds=0")
        assert b"event: Created" in b"".join(answer.streaming_content)
        answer.close()


@pytest.mark.parametrize("query", ["after=x", "after=1-2-3", "wait=-1", "wait=soon", "limit=1e3", "wait=٣"])
def test_senseless_questions(world, query):
    answer = client("acme").get(f"{API}/events/?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


def test_a_node_event_is_the_operators(world):
    history.record("Node", "n1", "Cordoned")
    assert "Node" not in {e["kind"] for e in client("acme").get(f"{API}/events/").json()["events"]}
    _, text = services.create_token(name="op", scopes=["read"], principal=SYSTEM)
    assert "Node" in {e["kind"] for e in client_of(text.reveal()).get(f"{API}/events/").json()["events"]}
    assert Plan.objects.count() == 1
