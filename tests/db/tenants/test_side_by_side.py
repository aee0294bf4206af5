"""Requests at the same time: quotas and domains are not overrun."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from tenants import services
from tenants.errors import QuotaExceeded, Taken
from tenants.models import Domain, Instance
from tenants.principal import SYSTEM

pytestmark = [pytest.mark.db, pytest.mark.django_db(transaction=True)]


def at_once(*calls) -> list[str]:
    """Run all calls in threads that start together; what became of each."""
    barrier, results = threading.Barrier(len(calls)), []

    def run(call):
        try:
            barrier.wait(20)
            call()
            results.append("made")
        except (Taken, QuotaExceeded) as error:
            results.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return sorted(results)


def maker(organisation, domain, plan):
    return lambda: services.create_instance(
        organisation=organisation, domain=domain, engine="prosody", plan=plan, principal=SYSTEM
    )


def test_one_name_for_one_organisation():
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    calls = [
        maker(services.create_organisation(slug=f"o{n}", name="x", principal=SYSTEM), "same.roost.example", plan)
        for n in range(4)
    ]
    assert at_once(*calls) == ["Taken", "Taken", "Taken", "made"]
    assert Instance.objects.count() == Domain.objects.count() == 1


def test_the_quota_holds():
    plan = services.create_plan(slug="basic", name="Basic", max_instances=2, principal=SYSTEM)
    acme = services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)
    calls = [maker(acme, f"a{n}.roost.example", plan) for n in range(5)]
    assert at_once(*calls) == ["QuotaExceeded"] * 3 + ["made"] * 2
    assert Instance.objects.count() == 2


def test_a_name_and_its_service_name_are_not_proven_both():
    plan = services.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    claims = []
    for slug, name in (("acme", "corp.example"), ("globex", "conference.corp.example")):
        organisation = services.create_organisation(slug=slug, name=slug, principal=SYSTEM)
        claims.append(maker(organisation, name, plan)().domain)

    def prove(claim):
        return lambda: services.mark_domain_proven(domain=claim, method="txt", principal=SYSTEM)

    assert at_once(*map(prove, claims)) == ["Taken", "made"]
    assert Domain.objects.filter(proven_at__isnull=False).count() == 1
