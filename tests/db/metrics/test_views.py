"""Nobody without the token reads anything; Prometheus finds each running tenant, and asks its engine through us."""

from __future__ import annotations

import gzip
import json

import pytest
from django.test import Client

from controlplane.drivers.engine.base import Health, S2sConnection, Usage
from controlplane.metrics import engines
from controlplane.metrics.labels import TenantLabels
from controlplane.values.errors import Unavailable
from tenants import services as tenants
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]

TOKEN = "a-token-of-the-test"
PATHS = ("/metrics", "/metrics/targets", "/metrics/instances/abcdefgh")


class Engine:
    def health(self) -> Health:
        return Health("prosody 0.12.3", 99.5, 3)

    def usage(self) -> Usage:
        return Usage(accounts=5, online=2, rooms=1, archive_messages=None, upload_bytes=7)

    def s2s_connections(self) -> list[S2sConnection]:
        one = S2sConnection("out", "a.example", "b.example", True, "certificate")
        return [one, one, S2sConnection("in", "a.example", "b.example", False, "dialback")]


@pytest.fixture
def token(settings) -> str:
    settings.ROOST = {**settings.ROOST, "METRICS_TOKEN": TOKEN}
    return TOKEN


def get(path: str, token: str = TOKEN, **more: str):
    return Client().get(path, HTTP_AUTHORIZATION=f"Bearer {token}", **more)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_there_is_nothing(path: str, settings) -> None:
    settings.ROOST = {**settings.ROOST, "METRICS_TOKEN": ""}
    assert get(path, "").status_code == 404
    assert Client().get(path).status_code == 404


@pytest.mark.parametrize("path", PATHS)
def test_another_token_opens_nothing(path: str, token: str) -> None:
    for answer in (get(path, "wrong"), get(path, TOKEN + "x"), get(path, ""), Client().get(path)):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_operators_api_token_is_no_token_for_metrics(token: str) -> None:
    _, text = tenants.create_token(name="x", scopes=["read", "admin"], principal=SYSTEM)
    assert get("/api/v1/instances/", text.reveal()).status_code == 200
    assert get("/metrics", text.reveal()).status_code == 401
    assert get("/api/v1/instances/", TOKEN).status_code == 401


def test_metrics_are_packed_for_who_wants_it(token: str, instances) -> None:
    plain, packed = get("/metrics"), get("/metrics", HTTP_ACCEPT_ENCODING="gzip")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b"roost_instances" in gzip.decompress(packed.content)
    assert Client().post("/metrics", HTTP_AUTHORIZATION=f"Bearer {TOKEN}").status_code == 405


def test_targets(token: str, instances) -> None:
    acme, globex = instances
    tenants.suspend_instance(instance=globex, reason="unpaid", principal=SYSTEM)
    (group,) = json.loads(get("/metrics/targets").content)
    assert group["targets"] == ["testserver"]
    assert group["labels"] == {
        "__metrics_path__": f"/metrics/instances/{acme.key}",
        "instance": acme.key,
        "organisation": "acme",
        "domain": "acme.roost.example",
        "engine": "prosody",
        "node": "n1",
    }


def test_an_engines_own(token: str, instances, monkeypatch) -> None:
    monkeypatch.setattr(engines, "control_of", lambda _: Engine())
    text = get(f"/metrics/instances/{instances[0].key}").content.decode()
    assert 'xmpp_engine_info{version="prosody 0.12.3"} 1' in text
    assert 'xmpp_s2s_streams{direction="out",encrypted="true",auth="certificate"} 2' in text
    assert "xmpp_upload_bytes 7" in text
    assert "xmpp_archive_messages " not in text.replace("# HELP xmpp_archive_messages ", "").replace(
        "# TYPE xmpp_archive_messages ", ""
    )


def test_an_engine_that_is_away(token: str, instances, monkeypatch) -> None:
    def away(_):
        raise Unavailable("It does not answer.")

    monkeypatch.setattr(engines, "control_of", away)
    assert get(f"/metrics/instances/{instances[0].key}").status_code == 503
    assert get("/metrics/instances/nobody").status_code == 404


def test_a_hidden_tenant_is_found_by_what_stands_for_it(token: str, instances, settings, monkeypatch) -> None:
    monkeypatch.setattr(engines, "control_of", lambda _: Engine())
    settings.ROOST = {**settings.ROOST, "METRICS_TENANTS": "hash"}
    acme = instances[0]
    label = TenantLabels("hash").of(acme.key)
    answer = get("/metrics/targets").content.decode()
    assert acme.key not in answer
    assert "acme" not in answer
    assert f"/metrics/instances/{label}" in answer
    assert get(f"/metrics/instances/{label}").status_code == 200
    assert get(f"/metrics/instances/{acme.key}").status_code == 404
    settings.ROOST = {**settings.ROOST, "METRICS_TENANTS": "none"}
    assert get("/metrics/targets").json() == []
    assert get(f"/metrics/instances/{acme.key}").status_code == 404


def test_requests_are_timed_by_route(token: str, instances) -> None:
    from controlplane import observing

    heard = []
    observing.listen(listener := lambda what, value, labels: heard.append((what, dict(labels))))
    try:
        get(f"/metrics/instances/{instances[0].key}", "wrong")
        get("/nothing/here")
    finally:
        observing._listeners.remove(listener)
    assert [labels for what, labels in heard if what == "web.request"] == [
        {"method": "GET", "route": "/metrics/instances/<slug:label>", "status": "401"},
        {"method": "GET", "route": "(none)", "status": "404"},
    ]
