#!/usr/bin/env python3
"""Writes the dashboards from the rows below, as JSON. Run it after a change: a test compares it with the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "roost"}
WIDTH, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """``queries``: expression -> legend. ``unit``: Grafana's. ``kind``: timeseries, stat, table or bargauge."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    columns: int = 2
    help: str = ""


@dataclass(frozen=True)
class Dashboard:
    name: str
    title: str
    panels: Sequence[Panel]
    #: variable -> query of its values
    variables: tuple[tuple[str, str], ...] = ()


LEVELS = "login, delivery, federation, calls, backup"

DASHBOARDS = (
    Dashboard(
        "overview",
        "Roost: overview",
        (
            Panel("Tenants that run", {'sum(roost_instances{desired="running"})': ""}, kind="stat", columns=4),
            Panel("Ready", {"sum(roost_instance_ready)": ""}, kind="stat", columns=4),
            Panel("Open incidents", {"sum(roost_incidents_open) or vector(0)": ""}, kind="stat", columns=4),
            Panel("Alerts", {'count(ALERTS{alertstate="firing"}) or vector(0)': ""}, kind="stat", columns=4),
            Panel(
                "Service levels: tenants that miss them",
                {"roost:level_missed:ratio": "{{level}}"},
                "percentunit",
                help=f"The share of tenants for which a level ({LEVELS}) is missing at this moment.",
            ),
            Panel(
                "Budget spent in three days, of a month's",
                {"roost:level_missed:avg3d / on (level) roost:level_budget / 10": "{{level}}"},
                "percentunit",
            ),
            Panel("Incidents by cause", {"sum by (cause) (roost_incidents_open)": "{{cause}}"}),
            Panel(
                "Time to heal (half of all, nine of ten)",
                {
                    "histogram_quantile(0.5, sum by (le) (increase(roost_incident_heal_seconds_bucket[1d])))": "half",
                    "histogram_quantile(0.9, sum by (le) (increase(roost_incident_heal_seconds_bucket[1d])))": "90 %",
                },
                "s",
            ),
            Panel("Links to other servers", {"sum by (state) (roost_s2s_links)": "{{state}}"}),
            Panel("Record sets", {"sum by (state) (roost_dns_records)": "{{state}}"}),
            Panel("Certificates", {"sum by (state) (roost_certificates)": "{{state}}"}),
            Panel("Days left, the first certificate", {"roost_certificate_days_left_min": "days"}, "d"),
        ),
    ),
    Dashboard(
        "tenant",
        "Roost: one tenant",
        (
            Panel(
                "It is",
                {'roost_instance_info{instance="$instance"}': "{{domain}} {{engine}} on {{node}}"},
                kind="table",
            ),
            Panel(
                "Not true",
                {'roost_instance_condition_not_true{instance="$instance"}': "{{condition}}: {{reason}}"},
                kind="table",
            ),
            Panel("Service levels", {'roost_instance_level_met{instance="$instance"}': "{{level}}"}),
            Panel("Incidents", {'roost_instance_incident_open{instance="$instance"}': "{{cause}}"}),
            Panel("Sessions", {'xmpp_sessions{instance="$instance"}': "sessions"}),
            Panel(
                "Accounts and rooms",
                {
                    'xmpp_accounts{instance="$instance"}': "accounts",
                    'xmpp_accounts_online{instance="$instance"}': "online",
                    'xmpp_rooms{instance="$instance"}': "rooms",
                },
            ),
            Panel("Uploads", {'xmpp_upload_bytes{instance="$instance"}': "bytes"}, "bytes"),
            Panel(
                "Streams to other servers",
                {'sum by (direction) (xmpp_s2s_streams{instance="$instance"})': "{{direction}}"},
            ),
            Panel(
                "Certificate: days left",
                {'(roost_certificate_not_after_seconds{instance="$instance"} - time()) / 86400': "days"},
                "d",
            ),
            Panel(
                "Age of the newest backup", {'roost_instance_backup_age_seconds{instance="$instance"}': "{{kind}}"}, "s"
            ),
        ),
        (("instance", "label_values(roost_instance_info, instance)"),),
    ),
    Dashboard(
        "fleet",
        "Roost: nodes",
        (
            Panel("Reached", {'sum(roost_node_condition{condition="Reachable"})': ""}, kind="stat", columns=4),
            Panel("Ready", {'sum(roost_node_condition{condition="Ready"})': ""}, kind="stat", columns=4),
            Panel(
                "Memory promised",
                {"sum(roost_node_committed_bytes) / sum(roost_node_capacity_bytes)": ""},
                "percentunit",
                "stat",
                4,
            ),
            Panel("Tenants behind", {"sum(roost_node_instances_behind)": ""}, kind="stat", columns=4),
            Panel("Tenants by node", {"roost_node_instances": "{{node}}"}),
            Panel(
                "Memory available",
                {"roost_node_memory_available_bytes / roost_node_memory_bytes": "{{node}}"},
                "percentunit",
            ),
            Panel("Disk free", {"roost_node_disk_free_bytes / roost_node_disk_bytes": "{{node}}"}, "percentunit"),
            Panel("Load for each processor", {"roost_node_load / roost_node_cpus": "{{node}}"}),
            Panel("Clock offset", {"roost_node_clock_offset_seconds": "{{node}}"}, "s"),
            Panel("Routes that wait", {'sum by (edge) (roost_edge_routes{state="waiting"})': "{{edge}}"}),
        ),
    ),
    Dashboard(
        "control-plane",
        "Roost: the control plane",
        (
            Panel("Due and not taken", {"sum by (queue) (roost_work_due)": "{{queue}}"}),
            Panel("The oldest of them", {"max by (queue) (roost_work_oldest_due_seconds)": "{{queue}}"}, "s"),
            Panel("Passes a second", {"sum by (kind) (rate(roost_reconcile_passes_total[5m]))": "{{kind}}"}),
            Panel(
                "Passes that fail, a second",
                {'sum by (kind) (rate(roost_reconcile_passes_total{outcome=~"failed|error|lost"}[5m]))': "{{kind}}"},
            ),
            Panel(
                "Steps: nine of ten take less than",
                {
                    "histogram_quantile(0.9, sum by (le, step) (rate(roost_reconcile_step_seconds_bucket[10m])))": "{{step}}"
                },
                "s",
            ),
            Panel(
                "Steps that wait or stall, a second",
                {
                    'sum by (step, reason) (rate(roost_reconcile_step_results_total{outcome!="done"}[10m]))': "{{step}} {{reason}}"
                },
            ),
            Panel(
                "Ansible: runs and how long",
                {"sum by (play, status) (increase(roost_ansible_run_seconds_count[10m]))": "{{play}} {{status}}"},
            ),
            Panel(
                "API: 95 of 100 take less than",
                {
                    'histogram_quantile(0.95, sum by (le, route) (rate(roost_http_request_seconds_bucket{route=~"/api/.*"}[10m])))': "{{route}}"
                },
                "s",
            ),
            Panel("Answers a second", {"sum by (status) (rate(roost_http_request_seconds_count[5m]))": "{{status}}"}),
            Panel(
                "Looks of the prober a second",
                {"sum by (round, result) (rate(roost_probe_rounds_total[5m]))": "{{round}} {{result}}"},
            ),
            Panel(
                "News of the watcher a minute", {"sum by (news) (rate(roost_watcher_news_total[5m])) * 60": "{{news}}"}
            ),
            Panel("Processes", {"roost_processes": "{{process}}"}),
            Panel("Scrape: seconds by part", {"roost_scrape_part_seconds": "{{part}}"}, "s"),
            Panel("Notices that wait", {'roost_notices{state="waiting"}': "waiting"}),
        ),
    ),
)


def made(dashboard: Dashboard) -> dict[str, Any]:
    """As Grafana's provisioning reads it."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        width = WIDTH // panel.columns
        height = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
        if x + width > WIDTH:
            x, y = 0, y + (HEIGHT // 2 if dashboard.panels[number - 2].kind == "stat" else HEIGHT)
        panels.append(_panel(number, panel, {"h": height, "w": width, "x": x, "y": y}))
        x += width
    return {
        "uid": f"roost-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["roost"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_variable(name, query) for name, query in dashboard.variables]},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(65 + n),
            "datasource": SOURCE,
            "expr": query,
            "legendFormat": legend,
            "instant": panel.kind == "table",
        }
        for n, (query, legend) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": where,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": False,
    }


def text(dashboard: Dashboard) -> str:
    return json.dumps(made(dashboard), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for one in DASHBOARDS:
        (PLACE / f"{one.name}.json").write_text(text(one))
