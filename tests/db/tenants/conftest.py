from __future__ import annotations

import pytest

from tenants import services
from tenants.principal import ALL_SCOPES, Principal

OPERATOR = Principal(name="olga", is_operator=True, scopes=ALL_SCOPES, address="192.0.2.7")


@pytest.fixture
def operator():
    return OPERATOR


@pytest.fixture
def plan(db):
    return services.create_plan(slug="basic", name="Basic", max_instances=3, principal=OPERATOR)


@pytest.fixture
def acme(db):
    return services.create_organisation(slug="acme", name="Acme", principal=OPERATOR)


@pytest.fixture
def globex(db):
    return services.create_organisation(slug="globex", name="Globex", principal=OPERATOR)


@pytest.fixture
def make(plan):
    """Makes an instance: ``make(organisation, "acme.roost.example", language="de")``."""

    def call(organisation, domain, **more):
        more = {"engine": "prosody", "plan": plan, "principal": OPERATOR, **more}
        return services.create_instance(organisation=organisation, domain=domain, **more)

    return call
