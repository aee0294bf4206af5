"""Pages that need no database."""

from __future__ import annotations

import pytest
from django.test import Client


def test_health_needs_nothing():
    answer = Client().get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/api/v1/nonsense/", "/api/v1/nonsense", "/api/v2/"])
def test_unknown_addresses_of_the_api_are_problems(path):
    answer = Client().get(path)
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "not-found"


def test_unknown_pages_are_pages():
    answer = Client().get("/nonsense")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


def test_schema_and_documentation_are_open():
    assert Client().get("/api/v1/schema/").status_code == 200
    answer = Client().get("/api/v1/docs")
    assert answer.status_code == 200
    assert b"swagger" in answer.content.lower()
