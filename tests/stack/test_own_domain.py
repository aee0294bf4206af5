"""A customer with a domain and a zone of his own: proof, delegation, records, Ready; and no squatting."""

from __future__ import annotations

import pytest

from tests.stack.live import Live, Tenant, until
from tests.stack.own_zone import publish

pytestmark = pytest.mark.stack


def test_a_customers_own_domain(live: Live, tenants: dict[str, Tenant], zone: str) -> None:
    tenant = live.want("own-domain", "prosody", domain=f"chat.{zone}")
    proof = live.api.get(tenant.path)["domain_proof"]
    assert proof["needed"]
    until(
        lambda: live.condition(tenant, "DomainProven")["reason"] == "ProofMissing",
        "the missing proof is told",
    )
    assert live.condition(tenant, "NodeAssigned")["reason"] == "Waiting"
    assert not [name for name, _ in live.records() if tenant.key in name], "something was made for an unproven name"

    (wanted,) = proof["records"]
    claim = f"organisations/own-domain/domains/{tenant.domain}/"
    refused = live.api.ask("POST", f"{claim}prove/", {})
    assert refused.status == 422, refused
    publish(live, [{"name": wanted["name"], "type": wanted["type"], "rdatas": [wanted["rdata"]]}])
    proven = until(
        lambda: (answer := live.api.ask("POST", f"{claim}prove/", {})).status == 200 and answer.body,
        "the proof is seen",
    )
    assert (proven["proven"], proven["proof"]["method"]) == (True, "txt")

    until(
        lambda: live.condition(tenant, "DnsPublished")["reason"] == "CustomerRecordsMissing", "missing records are told"
    )
    listed = live.api.get(f"{tenant.path}dns/")
    theirs = [r for r in listed if r["publisher"] == "customer"]
    assert {r["type"] for r in theirs} >= {"SRV", "CNAME"}
    assert any(r["name"] == f"_acme-challenge.{tenant.domain}" for r in theirs)
    assert all(r["name"].endswith(".roost.example") for r in listed if r["publisher"] == "ours")
    publish(live, [r for r in theirs if r["name"] != wanted["name"]])
    live.api.post(f"{tenant.path}reverify/")  # it looks by itself too, but a person who has just published may ask

    live.ready(tenant)
    names = {tenant.domain, *(f"{part}.{tenant.domain}" for part in ("conference", "upload", "proxy"))}
    assert set(live.api.get(f"{tenant.path}certificate/")["issued_names"]) == names
    assert all(r["published"] for r in live.api.get(f"{tenant.path}dns/") if not r["optional"])
    live.deliver(tenant, tenants["prosody"], "from a domain of my own")

    other = live.api.ask(
        "POST",
        "organisations/t-prosody/instances/",
        {"domain": tenant.domain, "engine": "prosody", "plan": "small"},
    )
    assert other.status in (409, 422), other
    live.terminate(tenant)
    assert not [name for name, _ in live.records() if tenant.key in name]
