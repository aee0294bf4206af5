"""Families of samples, and how they are written: Prometheus' text format 0.0.4.

A hundred thousand samples are written in a fraction of a second, since each family makes its line once and fills in
the values; ``prometheus_client`` makes several objects a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: A sample: the labels' values in the family's order, then the number.
Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Family:
    """``kind``: gauge, counter or histogram. ``rows`` is gone through once.

    A histogram's rows have one more label at their end, ``le``; its count and sum are rows of ``_count`` and ``_sum``.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    rows: Iterable[Row]


@dataclass(frozen=True, slots=True)
class Histogram:
    """``rows``: labels, then cumulated counts for each bound, then the count, then the sum."""

    name: str
    help: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    rows: Iterable[Row]


def gauge(name: str, help: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Family:
    return Family(name, "gauge", help, labels, rows)


def counter(name: str, help: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Family:
    return Family(name, "counter", help, labels, rows)


def written(families: Iterable[Family | Histogram]) -> Iterator[str]:
    """The text, in pieces of one family."""
    for family in families:
        lines = list(_histogram(family) if isinstance(family, Histogram) else _plain(family))
        kind = "histogram" if isinstance(family, Histogram) else family.kind
        help = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        yield f"# HELP {family.name} {help}\n# TYPE {family.name} {kind}\n" + "".join(lines)


def _plain(family: Family) -> Iterator[str]:
    line = _line(family.name, family.labels)
    count = len(family.labels)
    for row in family.rows:
        yield line % (*(escaped(value) for value in row[:count]), number(row[count]))


def _histogram(family: Histogram) -> Iterator[str]:
    bucket = _line(f"{family.name}_bucket", (*family.labels, "le"))
    total, count = _line(f"{family.name}_sum", family.labels), _line(f"{family.name}_count", family.labels)
    width = len(family.labels)
    for row in family.rows:
        labels = tuple(escaped(value) for value in row[:width])
        counts = row[width : width + len(family.bounds)]
        for bound, seen in zip(family.bounds, counts, strict=True):
            yield bucket % (*labels, number(bound), number(seen))
        yield bucket % (*labels, "+Inf", number(row[-2]))
        yield count % (*labels, number(row[-2]))
        yield total % (*labels, number(row[-1]))


def _line(name: str, labels: Sequence[str]) -> str:
    inside = ",".join(f'{label}="%s"' for label in labels)
    return f"{name}{{{inside}}} %s\n" if labels else f"{name} %s\n"


def escaped(value: object) -> str:
    """A label's value. What comes from people is theirs: no quote of it ends the label."""
    text = value if isinstance(value, str) else str(value)
    if '"' in text or "\\" in text or "\n" in text:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text


def number(value: object) -> str:
    """A float as Go reads it; true is 1, and nothing is no number."""
    if value is None:
        return "NaN"
    if isinstance(value, bool | int):
        return str(int(value))
    found = float(value)  # type: ignore[arg-type]  # a Decimal or a float
    if math.isinf(found):
        return "+Inf" if found > 0 else "-Inf"
    return repr(found)
