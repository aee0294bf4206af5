"""A PowerDNS for the session, its zone made anew for each test, and instances whose records it should have."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import pytest
import requests
from django.conf import settings

from controlplane import wiring
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.rdata import of_rdata
from controlplane.zones import reconciler, services
from tenants.models import Domain, Instance, Organisation, Plan
from tests.servers.dns import API_KEY, PowerDnsServer

ADDRESS = "127.63.0.11"


@pytest.fixture(scope="session")
def server() -> Iterator[PowerDnsServer]:
    directory = Path(tempfile.mkdtemp(prefix="zones"))
    with PowerDnsServer(directory, ADDRESS) as running:
        yield running
    shutil.rmtree(directory, ignore_errors=True)


class World:
    """The name server from outside, and passes over the zone and its instances."""

    def __init__(self, server: PowerDnsServer) -> None:
        self.server = server
        self.zones_url = f"{server.url}/api/v1/servers/localhost/zones"

    def api(self, method: str, path: str = "", **arguments: object) -> requests.Response:
        headers = {"X-API-Key": API_KEY}
        return requests.request(method, self.zones_url + path, headers=headers, timeout=5, **arguments)

    def by_hand(self, name: str, type: str, *rdatas: str, ttl_s: int = 300) -> None:
        """What a person does in the zone behind Roost's back; no rdata: deletes."""
        records = [{"content": text, "disabled": False} for text in rdatas]
        change = {"name": f"{name}.", "type": type, "ttl": ttl_s, "records": records}
        change["changetype"] = "REPLACE" if rdatas else "DELETE"
        self.api("PATCH", "/roost.example.", json={"rrsets": [change]}).raise_for_status()

    def served(self, name: str, type: str) -> set[str]:
        answer = dns.query.udp(dns.message.make_query(name + ".", type), ADDRESS, timeout=3)
        wanted = dns.rdatatype.from_text(type)
        return {of_rdata(type, rdata) for rrset in answer.answer if rrset.rdtype == wanted for rdata in rrset}

    def lease(self, kind: str, object_id: str) -> Lease:
        watch.touch(kind, object_id)
        claimed = leases.claim(["reconcile"], holder="test", limit=1000)
        mine = next(lease for lease in claimed if (lease.kind, lease.object_id) == (kind, object_id))
        for lease in claimed:
            if lease is not mine:
                leases.release(lease, after_s=0, attempts=lease.attempts)
        return mine

    def zone_pass(self) -> Next | None:
        lease = self.lease("Zone", "roost.example")
        outcome = reconciler.reconcile(lease)
        if outcome is not None:
            leases.release(lease, after_s=outcome.after_s, attempts=lease.attempts + 1 if outcome.failed else 0)
        return outcome

    def sync(self, instance: Instance) -> bool:
        lease = self.lease("Instance", instance.key)
        try:
            wanted = services.records_for(instance, settings.ROOST["EDGE_ADDRESSES"])
            return services.sync_records(instance=instance, wanted=wanted, lease=lease)
        finally:
            leases.release(lease, after_s=3600, attempts=0)

    def retire(self, instance: Instance) -> bool:
        lease = self.lease("Instance", instance.key)
        try:
            return services.retire_records(instance=instance, lease=lease)
        finally:
            leases.release(lease, after_s=3600, attempts=0)


@pytest.fixture
def world(db, server: PowerDnsServer, settings) -> Iterator[World]:
    settings.ROOST = {
        **settings.ROOST,
        "DNS_DRIVER": "powerdns",
        "POWERDNS_URL": server.url,
        "POWERDNS_API_KEY": API_KEY,
        "DNS_NAMESERVERS": ["ns1.roost.example"],
        "DNS_AUTHORITATIVE": [f"{ADDRESS}@53"],
        "RESOLVER": f"{ADDRESS}@53",
        "EDGE_ADDRESSES": ["192.0.2.1", "2001:db8::1"],
        "CAA_ISSUER": "ca.example.net",
        "FAULT_DIR": "",
    }
    wiring.dns_driver.cache_clear()
    made = World(server)
    made.api("DELETE", "/roost.example.")
    made.api("DELETE", "/acme.org.")
    yield made
    wiring.dns_driver.cache_clear()


@pytest.fixture
def make(db) -> Callable[..., Instance]:
    organisation = Organisation.objects.create(slug="acme", name="Acme")
    plan = Plan.objects.create(slug="basic", name="Basic")

    def call(name: str, mode: str = "provider") -> Instance:
        domain = Domain.objects.create(name=name, organisation=organisation, mode=mode)
        return Instance.objects.create(organisation=organisation, domain=domain, plan=plan, engine="prosody")

    return call
