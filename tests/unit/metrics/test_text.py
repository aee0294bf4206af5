"""What is written is what Prometheus reads: its own parser gets every label and number back."""

from __future__ import annotations

import math
import shutil
import subprocess

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from controlplane.metrics.text import Histogram, counter, gauge, written

VALUES = st.one_of(st.integers(-(2**53), 2**53), st.booleans(), st.floats(allow_nan=False))
ROWS = st.dictionaries(st.tuples(st.text(max_size=8), st.text(max_size=8)), VALUES, max_size=5)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(ROWS)
def test_labels_and_numbers_come_back(rows) -> None:
    text = "".join(written([gauge("roost_it", "A \\ and\na line.", ("a", "b"), [(*k, v) for k, v in rows.items()])]))
    (family,) = text_string_to_metric_families(text)
    assert family.type == "gauge"
    assert family.documentation == "A \\ and\na line."
    assert {(s.labels["a"], s.labels["b"]): s.value for s in family.samples} == {k: float(v) for k, v in rows.items()}


def test_a_quote_ends_no_label() -> None:
    text = "".join(written([counter("roost_it_total", "x", ("a",), [('x"} 1\nroost_evil 1 #', 3)])]))
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert [(s.name, s.labels, s.value) for s in samples] == [("roost_it_total", {"a": 'x"} 1\nroost_evil 1 #'}, 3.0)]


def test_nothing_is_no_number() -> None:
    ((sample,),) = [
        f.samples for f in text_string_to_metric_families("".join(written([gauge("x", "x", (), [(None,)])])))
    ]
    assert math.isnan(sample.value)


def test_a_histogram_is_one() -> None:
    text = "".join(written([Histogram("roost_s", "x", ("kind",), (1.0, 5.0), [("check", 2, 3, 4, 20.5)])]))
    (family,) = text_string_to_metric_families(text)
    assert family.type == "histogram"
    assert {(s.name, s.labels.get("le")): s.value for s in family.samples} == {
        ("roost_s_bucket", "1.0"): 2,
        ("roost_s_bucket", "5.0"): 3,
        ("roost_s_bucket", "+Inf"): 4,
        ("roost_s_count", None): 4,
        ("roost_s_sum", None): 20.5,
    }


def test_promtool_reads_it() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "install Debian's prometheus: promtool is in it"
    families = [
        gauge("roost_it", "It.", ("a",), [('"\\\n', 1), ("é", float("inf")), ("", None)]),
        Histogram("roost_heal_seconds", "Them.", ("kind",), (0.5, 1.0), [("x", 0, 1, 1, 0.7)]),
    ]
    done = subprocess.run(
        [promtool, "check", "metrics"], input="".join(written(families)), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
