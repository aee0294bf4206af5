"""Two organisations with an instance each, on one node; and the text of a scrape as Prometheus understands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.fleet.models import Node, Placement
from controlplane.metrics.collect import exposition
from controlplane.metrics.labels import TenantLabels
from tenants import services as tenants
from tenants.models import Instance
from tenants.principal import SYSTEM


@dataclass(frozen=True)
class Scrape:
    """All samples: (name, labels) -> value."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    text: str

    def of(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels."""
        return self.samples[name, frozenset(labels.items())]

    def all(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """All samples that have these labels among others."""
        wanted = set(labels.items())
        return [(dict(said), value) for (n, said), value in self.samples.items() if n == name and wanted <= said]


@pytest.fixture
def scrape():
    def ask(mode: str = "key") -> Scrape:
        text = exposition(TenantLabels(mode))
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = (sample.name, frozenset(sample.labels.items()))
                assert name not in found, f"twice: {name}"
                found[name] = sample.value
        return Scrape(found, text)

    return ask


@pytest.fixture
def instances() -> list[Instance]:
    plan = tenants.create_plan(slug="basic", name="Basic", principal=SYSTEM)
    node = Node.objects.create(
        name="n1",
        address="192.0.2.9",
        instance_network="127.1.0.0/24",
        root="/srv",
        state_dir="/srv",
        facts={"memory_mib": 1000, "disk_total_mib": 500, "disk_free_mib": 100, "clock_offset_s": 0.5},
    )
    made = []
    for number, (slug, engine) in enumerate((("acme", "prosody"), ("globex", "ejabberd"))):
        organisation = tenants.create_organisation(slug=slug, name=slug.title(), principal=SYSTEM)
        made.append(
            tenants.create_instance(
                organisation=organisation,
                domain=f"{slug}.roost.example",
                engine=engine,
                plan=plan,
                principal=SYSTEM,
            )
        )
        Placement.objects.create(
            instance=made[-1],
            node=node,
            address=f"127.1.0.{number + 1}",
            base_port=7000,
            proxy65_port=20000 + number,
            wanted_digest="a",
            applied_digest="a" if number else "",
        )
    return made
