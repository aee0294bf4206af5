"""The OpenAPI document in the docs is the one that the code makes, and it is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.validation import validate_schema

STORED = Path(__file__).parents[3] / "docs" / "openapi.yaml"


@pytest.fixture(scope="module")
def schema():
    GENERATOR_STATS.reset()
    return SchemaGenerator().get_schema(request=None, public=True)


def test_the_stored_document_is_up_to_date(schema):
    made = OpenApiYamlRenderer().render(schema, renderer_context={}).decode()
    assert yaml.safe_load(made) == yaml.safe_load(STORED.read_text()), (
        "run: python manage.py spectacular --file docs/openapi.yaml"
    )


def test_it_is_valid_and_nothing_was_guessed(schema):
    validate_schema(schema)
    assert not GENERATOR_STATS


def test_every_call_is_described(schema):
    calls = [(path, m, call) for path, item in schema["paths"].items() for m, call in item.items()]
    assert len(calls) >= 60
    for path, method, call in calls:
        assert call.get("summary"), f"{method} {path}"
        assert call.get("tags"), f"{method} {path}"
        assert "401" in call["responses"], f"{method} {path}"
    names = [call["operationId"] for _, _, call in calls]
    assert len(names) == len(set(names))


def test_every_post_takes_an_idempotency_key(schema):
    for path, item in schema["paths"].items():
        if "post" in item and "cordon" not in path and "prove" not in path:
            headers = {p["name"] for p in item["post"].get("parameters", []) if p["in"] == "header"}
            assert "Idempotency-Key" in headers, path
