from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from tenants import services
from tenants.principal import ALL_SCOPES, SYSTEM


def client_of(text: str) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


@pytest.fixture
def plan(db):
    return services.create_plan(slug="basic", name="Basic", max_instances=3, principal=SYSTEM)


@pytest.fixture
def acme(db):
    return services.create_organisation(slug="acme", name="Acme", principal=SYSTEM)


@pytest.fixture
def globex(db):
    return services.create_organisation(slug="globex", name="Globex", principal=SYSTEM)


@pytest.fixture
def token():
    """Makes a token's client: ``token(organisation, "read", "accounts")``; None: an operator's."""

    def make(organisation, *scopes):
        _, text = services.create_token(name="t", scopes=scopes, organisation=organisation, principal=SYSTEM)
        return client_of(text.reveal())

    return make


@pytest.fixture
def operator(db, token):
    return token(None, *ALL_SCOPES)


@pytest.fixture
def ours(token, acme):
    """Acme's own token with everything that an organisation may have."""
    return token(acme, "read", "instances", "accounts", "rooms", "backups")


@pytest.fixture
def instance(acme, plan):
    return services.create_instance(
        organisation=acme, domain="acme.roost.example", engine="prosody", plan=plan, principal=SYSTEM
    )


@pytest.fixture
def theirs(globex, plan):
    return services.create_instance(
        organisation=globex, domain="globex.roost.example", engine="ejabberd", plan=plan, principal=SYSTEM
    )
