"""What is measured in the processes themselves: which measurement goes into which counter and histogram.

Only counters and histograms, since those can be added up over processes and over those that ended.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from controlplane.metrics import shared

QUICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_S = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
LOOK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Instruments:
    """All of this process."""

    passes: Counter
    pass_s: Histogram
    step_results: Counter
    step_s: Histogram
    ansible_s: Histogram
    request_s: Histogram
    probe_s: Histogram
    probe_rounds: Counter
    news: Counter
    wakeups: Counter


_lock = threading.Lock()
_made: Instruments | None = None


def instruments() -> Instruments:
    """Made with the first measurement: a process that measures nothing takes no seat."""
    global _made
    with _lock:
        if _made is None:
            shared.prepare()
            _made = _make()
    return _made


def _make() -> Instruments:
    registry = CollectorRegistry()

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=registry)

    def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=bounds, registry=registry)

    return Instruments(
        passes=counter("roost_reconcile_passes", "Passes by how they ended.", "kind", "queue", "outcome"),
        pass_s=histogram("roost_reconcile_pass_seconds", "How long passes took.", QUICK_S, "kind"),
        step_results=counter(
            "roost_reconcile_step_results",
            "What steps came to: done, wait (not yet, or a failure that passes) or stalled (somebody has to act).",
            *("kind", "step", "outcome", "reason"),
        ),
        step_s=histogram("roost_reconcile_step_seconds", "How long steps took.", QUICK_S, "kind", "step"),
        ansible_s=histogram("roost_ansible_run_seconds", "Runs of ansible by their end.", LONG_S, "play", "status"),
        request_s=histogram(
            "roost_http_request_seconds", "Requests to the web process.", LOOK_S, "route", "method", "status"
        ),
        probe_s=histogram("roost_probe_seconds", "What looks took, by check and result.", LOOK_S, "check", "result"),
        probe_rounds=counter("roost_probe_rounds", "Cheap rounds and walks.", "place", "round", "result"),
        news=counter("roost_watcher_news", "What nodes' kernels told the watcher.", "news"),
        wakeups=counter("roost_clock_messages", "Messages that were sent to the broker.", "task"),
    )


def take(what: str, value: float, labels: Mapping[str, str]) -> None:
    """The listener that ``controlplane.observing`` calls. What nobody asked for is passed over."""
    made = instruments()
    match what:
        case "reconcile.pass":
            outcome = labels.get("outcome", "broken-off")
            made.passes.labels(labels["kind"], labels["queue"], outcome).inc()
            made.pass_s.labels(labels["kind"]).observe(value)
        case "reconcile.step":
            outcome, reason = labels.get("outcome", "lost"), labels.get("reason", "")
            made.step_results.labels(labels["kind"], labels["step"], outcome, reason).inc()
            made.step_s.labels(labels["kind"], labels["step"]).observe(value)
        case "ansible.run":
            made.ansible_s.labels(labels["play"], labels.get("status", "broken-off")).observe(value)
        case "web.request":
            made.request_s.labels(labels["route"], labels["method"], labels["status"]).observe(value)
        case "probe.look":
            made.probe_s.labels(labels["check"], labels["result"]).observe(value)
        case "probe.round":
            made.probe_rounds.labels(labels["place"], labels["round"], labels["result"]).inc()
        case "watcher.news":
            made.news.labels(labels["news"]).inc()
        case "clock.message":
            made.wakeups.labels(labels["task"]).inc()
