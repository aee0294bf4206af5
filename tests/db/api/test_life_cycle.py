"""What a billing system does with the API, from the first organisation to the end, and how it is refused."""

from __future__ import annotations

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from controlplane.reconcile.models import Condition
from tenants import services
from tenants.models import AuditEvent, Instance, Organisation
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db]
API = "/api/v1"


def assert_problem(answer, status: int, code: str, *fields: str) -> dict:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "code", "detail", "remedy", "errors"}
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:roost:problem:{code}")
    assert body["detail"]
    for error in body["errors"]:
        assert set(error) == {"field", "message", "remedy"}
    assert [error["field"] for error in body["errors"]] == list(fields)
    return body


def test_the_whole_life_of_an_instance(operator):
    made = operator.post(f"{API}/organisations/", {"slug": "initech", "name": "Initech", "external_id": "K-1"})
    assert made.status_code == 201
    assert made["Location"].endswith("/api/v1/organisations/initech/")
    plan = {"slug": "basic", "name": "Basic", "max_accounts": 10}
    assert operator.post(f"{API}/plans/", plan).json()["max_accounts"] == 10
    assert operator.post(f"{API}/plans/", {**plan, "slug": "plus", "memory_mib": 1024}).status_code == 201

    wish = {"domain": "initech.roost.example", "engine": "prosody", "plan": "basic", "language": "pt-br"}
    answer = operator.post(f"{API}/organisations/initech/instances", wish)
    assert answer.status_code == 202
    body = answer.json()
    where = f"{API}/instances/{body['key']}/"
    assert answer["Location"].endswith(where)
    assert (body["ready"], body["desired"], body["language"]) == (False, "running", "pt-BR")
    assert body["links"]["self"] == where
    assert {c["type"] for c in body["conditions"]} >= {"DnsPublished", "CertificateIssued", "Verified", "Ready"}
    assert body["summary"]

    for link in body["links"].values():
        status = operator.get(link).status_code
        assert status == (503 if link.endswith(("/accounts/", "/rooms/")) else 200), link

    assert operator.patch(where, {"display_name": "Ini"}).json()["generation"] == 2
    assert operator.post(f"{where}suspend", {"reason": "unpaid"}).json()["desired"] == "suspended"
    assert operator.post(f"{where}unsuspend").json()["desired"] == "running"
    assert operator.post(f"{where}plan", {"plan": "plus"}).json()["plan"] == "plus"
    assert operator.post(f"{where}rotate", {"what": "turn"}).status_code == 202
    assert operator.post(f"{where}reverify").status_code == 202
    assert operator.get(f"{where}usage").json()["limits"]["memory_mib"] == 1024
    total = operator.get(f"{API}/organisations/initech/usage").json()
    assert (total["complete"], len(total["instances"])) == (False, 1)
    assert operator.post(f"{where}terminate", {"grace_s": 60}).json()["desired"] == "terminated"
    assert_problem(operator.patch(where, {"display_name": "x"}), 409, "wrong-state")
    assert operator.post(f"{where}restore").json()["desired"] == "running"
    assert operator.delete(where).json()["desired"] == "terminated"

    actions = [row["action"] for row in operator.get(f"{API}/audit?object_id={body['key']}").json()["results"]]
    assert actions[0] == "instance.terminate"
    assert actions[-1] == "instance.create"
    assert AuditEvent.objects.filter(actor__startswith="token t").count() == len(actions) + 3


def test_ready_only_for_the_present_generation(ours, instance):
    Condition.objects.create(
        kind="Instance", object_id=instance.key, type="Ready", status="True", observed_generation=1, position=9
    )
    assert ours.get(f"{API}/instances/").json()["results"][0]["ready"] is True
    assert ours.get(f"{API}/instances/{instance.key}").json()["ready"] is True
    Instance.objects.update(generation=2)
    assert ours.get(f"{API}/instances/").json()["results"][0]["ready"] is False
    assert ours.get(f"{API}/instances/{instance.key}").json()["ready"] is False


def test_filters_and_pages(operator, instance, theirs):
    def keys(query):
        return [row["key"] for row in operator.get(f"{API}/instances/?{query}").json()["results"]]

    assert keys("organisation=globex") == [theirs.key]
    assert keys("engine=prosody") == [instance.key]
    assert keys("domain=GLOBEX.roost.example") == [theirs.key]
    assert keys("desired=suspended") == []
    assert len(keys("limit=1")) == 1
    page = operator.get(f"{API}/instances/?limit=1").json()
    assert page["count"] == 2
    assert page["next"]
    assert_problem(operator.get(f"{API}/instances/?desired=flying"), 422, "invalid-value", "desired")


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"domain": "localhost"}, 422, "invalid-value", "domain"),
        ({"domain": 5.5}, 422, "invalid-value", "domain"),
        ({"domain": None}, 400, "invalid-request", "domain"),
        ({"engine": "psyced"}, 400, "invalid-request", "engine"),
        ({"plan": "nope"}, 422, "invalid-value", "plan"),
        ({"organisation": "nobody"}, 422, "invalid-value", "organisation"),
        ({"colour": "red"}, 400, "invalid-request", "colour"),
        ({"contacts": [{"kind": "abuse", "uri": "javascript:alert(1)"}]}, 422, "invalid-value", "contacts[0].uri"),
        ({"contacts": [{"kind": "pizza", "uri": "mailto:a@b.example"}]}, 400, "invalid-request", "contacts[0].kind"),
        ({"admins": ["eve@evil.example"]}, 422, "invalid-value", "admins[0]"),
        ({"display_name": "a\u0001b"}, 422, "invalid-value", "display_name"),
        ({"language": "klingon!"}, 422, "invalid-value", "language"),
    ],
)
def test_refusals_name_the_field(ours, acme, plan, change, status, code, field):
    wish = {"organisation": "acme", "domain": "a.roost.example", "engine": "prosody", "plan": "basic", **change}
    assert_problem(ours.post(f"{API}/instances/", wish), status, code, field)
    assert not Instance.objects.exists()


def test_what_is_taken_and_what_the_plan_forbids(ours, acme, plan, instance, theirs):
    wish = {"organisation": "acme", "domain": "globex.roost.example", "engine": "prosody", "plan": "basic"}
    assert_problem(ours.post(f"{API}/instances/", wish), 409, "taken", "domain")
    for number in range(2):
        assert ours.post(f"{API}/instances/", {**wish, "domain": f"a{number}.roost.example"}).status_code == 202
    body = assert_problem(
        ours.post(f"{API}/instances/", {**wish, "domain": "a9.roost.example"}), 422, "quota-exceeded", "plan"
    )
    assert body["errors"][0]["remedy"]


@pytest.mark.parametrize("body", ["{", "[]", "5", '"x"', "null"])
def test_bodies_that_are_no_objects(ours, acme, body):
    answer = ours.post(f"{API}/instances/", body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid-request"


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_a_body_nested_too_deeply(ours, depth):
    body = b'{"domain": ' + b"[" * depth + b"]" * depth + b"}"
    answer = ours.post(f"{API}/organisations/acme/domains/", body, content_type="application/json")
    assert_problem(answer, 400, "invalid-request")


def test_a_body_that_is_too_large(ours):
    body = b'{"domain": "' + b"a" * 3_000_000 + b'"}'
    answer = ours.post(f"{API}/organisations/acme/domains/", body, content_type="application/json")
    assert_problem(answer, 413, "too-large")


def test_lists_take_as_many_queries_for_many_as_for_one(ours, acme, instance, django_assert_max_num_queries):
    for number in range(5):
        services.claim_domain(organisation=acme, domain=f"more{number}.roost.example", principal=SYSTEM)
    with django_assert_max_num_queries(8):
        found = ours.get(f"{API}/domains/").json()["results"]
    assert [row["instance"] for row in found].count(None) == 5
    assert instance.key in [row["instance"] for row in found]


def test_an_unknown_address_and_method(ours, acme):
    assert_problem(ours.get(f"{API}/nonsense/"), 404, "not-found")
    assert_problem(ours.delete(f"{API}/instances/"), 403, "not-allowed")
    assert_problem(ours.post(f"{API}/instances/", "<x/>", content_type="text/xml"), 415, "unsupported-media-type")


def test_a_server_that_does_not_run_is_said_to_be_unavailable(ours, instance):
    answer = ours.post(f"{API}/instances/{instance.key}/accounts/", {"username": "alice"})
    assert_problem(answer, 503, "unavailable")
    assert int(answer["Retry-After"]) >= 1


def test_own_domain_says_what_to_publish(ours, acme):
    answer = ours.post(f"{API}/organisations/acme/domains/", {"domain": "Bücher.example"})
    assert answer.status_code == 201
    body = answer.json()
    assert (body["name"], body["unicode"]) == ("xn--bcher-kva.example", "bücher.example")
    assert body["proof"]["needed"] is True
    record = body["proof"]["records"][0]
    assert record["type"] == "TXT"
    assert body["proof"]["token"] in record["rdata"]
    where = f"{API}/organisations/acme/domains/bücher.example/"
    assert ours.get(where).json()["proven"] is False
    assert ours.delete(where).status_code == 204
    assert_problem(ours.get(where), 404, "not-found")


def test_tokens_are_shown_once_and_revoked(operator, acme):
    made = operator.post(f"{API}/tokens/", {"name": "shop", "scopes": ["read"], "organisation": "acme"})
    assert made.status_code == 201
    body = made.json()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION="Bearer " + body["token"])
    assert client.get(f"{API}/").json()["organisations"] == {"acme": ["read"]}
    assert "token" not in operator.get(f"{API}/tokens/{body['prefix']}/").json()
    assert body["token"] not in operator.get(f"{API}/tokens/").content.decode()
    assert operator.delete(f"{API}/tokens/{body['prefix']}/").status_code == 200
    answer = client.get(f"{API}/")
    assert_problem(answer, 401, "not-authenticated")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_an_organisation_goes(operator, acme, instance):
    assert_problem(operator.delete(f"{API}/organisations/acme/"), 409, "wrong-state")
    Instance.objects.update(delete_after=timezone.now())
    services.finish_deletion(instance=instance)
    assert operator.delete(f"{API}/organisations/acme/").status_code == 204
    assert not Organisation.objects.exists()
    # Whoever has the name later would read the first one's audit and events.
    again = operator.post(f"{API}/organisations/", {"slug": "acme", "name": "Another"})
    assert_problem(again, 409, "taken", "slug")
