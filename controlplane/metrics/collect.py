"""Everything of one scrape. A part that fails is said to have failed, and the others are given all the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from django.db import Error, connection, transaction

from controlplane.metrics import shared
from controlplane.metrics.facts import backups, certificates, fleet, instances, names, queue, watched
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, Histogram, gauge, written

log = logging.getLogger(__name__)

#: Longer than this no single question may take: a scrape must not be what weighs on the database.
STATEMENT_S = 5


def exposition(labels: TenantLabels | None = None) -> str:
    """The whole text. Never fails because of the database: then ``roost_database_up`` is 0."""
    how = labels or TenantLabels.configured()
    parts: list[str] = []
    took: list[tuple[str, float]] = []
    failed: list[tuple[str, bool]] = []

    def part(name: str, make: Callable[[], Iterable[Family | Histogram]]) -> bool:
        started = time.perf_counter()
        try:
            with transaction.atomic():
                parts.extend(written(make()))
            failed.append((name, False))
        except Error:
            log.exception("the metrics of %s could not be read", name)
            failed.append((name, True))
        took.append((name, time.perf_counter() - started))
        return not failed[-1][1]

    up = part("database", _bounded)
    if up:
        try:
            with transaction.atomic():
                _database_parts(how, part)
        except Error:  # it went away meanwhile, and the transaction with it
            log.exception("the database went away during a scrape")
            connection.close()
            up = False
    text, living = shared.collected()
    own = [
        gauge("roost_database_up", "Whether PostgreSQL answers.", (), [(up,)]),
        gauge("roost_processes", "Living processes that have measured something.", ("process",), _count(living)),
        gauge("roost_scrape_part_seconds", "How long each part of this scrape took.", ("part",), took),
        gauge("roost_scrape_part_failed", "Parts that this scrape lacks.", ("part",), failed),
    ]
    return "".join([*parts, *written(own), text])


def _bounded() -> Iterable[Family]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return ()


def _database_parts(how: TenantLabels, part: Callable[[str, Callable[[], Iterable[Family | Histogram]]], bool]) -> None:
    """In one transaction, for the limit on each statement to end with it; each part is a savepoint."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_S}s'")
    known: dict[int, instances.Tenant] = {}

    def of_instances() -> Iterable[Family]:
        known.update(instances.tenants(how))
        return instances.families(known, how)

    part("instances", of_instances)
    part("queue", queue.families)
    part("fleet", fleet.families)
    part("dns", lambda: names.families(known, how))
    part("certificates", lambda: certificates.families(known, how))
    part("watched", lambda: watched.families(known, how))
    part("backups", lambda: backups.families(known, how))


def _count(living: Iterable[shared.Living]) -> list[tuple[str, int]]:
    counted: dict[str, int] = {}
    for one in living:
        counted[one.role] = counted.get(one.role, 0) + 1
    return sorted(counted.items())
