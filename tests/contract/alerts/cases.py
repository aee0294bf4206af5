"""Of each alert: series under which it fires, and series that look like it and leave it quiet.

``Case.series``: a series -> its values in promtool's notation, one a minute. ``at``: when it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

INFO = 'roost_instance_info{instance="abc", domain="acme.example", organisation="acme", node="n1", engine="prosody"}'
DAY = 24 * 60


@dataclass(frozen=True)
class Case:
    """``fires``: labels of the alert beside those that every one of its rule has. None: it stays quiet."""

    series: Mapping[str, str]
    at: str = "10m"
    fires: Mapping[str, str] | None = None
    summary: str = ""


@dataclass(frozen=True)
class Alert:
    firing: Case
    quiet: tuple[Case, ...]
    severity: str = "page"
    scope: str = "tenant"
    always: Mapping[str, str] = field(default_factory=dict)


def level(name: str, missed: str, met: str = "1000+0x{n}", minutes: int = 600) -> dict[str, str]:
    """A thousand tenants; ``missed`` in promtool's notation with {n} for the rest of the time."""
    return {
        f'roost_level_instances{{level="{name}", engine="prosody", state="missed"}}': missed.replace(
            "{n}", str(minutes)
        ),
        f'roost_level_instances{{level="{name}", engine="prosody", state="met"}}': met.replace("{n}", str(minutes)),
    }


def incident(cause: str, kind: str = "check", values: str = "1+0x30") -> dict[str, str]:
    return {
        INFO: "1+0x30",
        f'roost_instance_incident_open{{instance="abc", node="n1", kind="{kind}", cause="{cause}"}}': values,
    }


TENANT = {"instance": "abc", "node": "n1", "domain": "acme.example", "organisation": "acme"}


def of_incident(
    causes: tuple[str, ...], other: str, summary: str, severity: str = "page", kind: str = "check"
) -> Alert:
    """Fires for a cause, and neither for another one nor when the incident has ended."""
    cause = causes[0]
    return Alert(
        Case(incident(cause, kind), fires={**TENANT, "kind": kind, "cause": cause}, summary=summary),
        (Case(incident(other)), Case(incident(cause, kind, "1+0x4 _x30"), at="15m")),
        severity=severity,
    )


def one(
    series: str, values: str, quiet: str, labels: Mapping[str, str], summary: str, at: str, severity: str, scope: str
) -> Alert:
    """A rule over one series: its values when it fires, and when it does not."""
    return Alert(Case({series: values}, at, labels, summary), (Case({series: quiet}, at),), severity, scope)


def node(condition: str, reason: str = "Because") -> str:
    return f'roost_node_condition{{node="n1", condition="{condition}", reason="{reason}"}}'


def with_info(series: str, values: str) -> dict[str, str]:
    return {INFO: "1+0x1500", series: values}


#: n minutes of each process but those named.
def processes(*missing: str) -> dict[str, str]:
    known = ("worker-reconcile", "worker-heal", "worker-node", "worker-backup", "prober", "watcher", "clock")
    return {f'roost_processes{{process="{name}"}}': "2+0x20" for name in known if name not in missing}


def requests(ok: str, bad: str) -> dict[str, str]:
    name = 'roost_http_request_seconds_count{route="/api/v1/instances/", method="GET"'
    return {f'{name}, status="200"}}': ok, f'{name}, status="503"}}': bad}


def latencies(quick: str, all_: str) -> dict[str, str]:
    name = 'roost_http_request_seconds_bucket{route="/api/v1/instances/", method="GET", status="200"'
    return {f'{name}, le="0.5"}}': quick, f'{name}, le="5.0"}}': all_, f'{name}, le="+Inf"}}': all_}


NOT_READY = 'roost_instance_ready{instance="abc", node="n1"}'
STALLED = (
    'roost_instance_condition_not_true{instance="abc", node="n1", condition="DnsPublished", status="False",'
    ' reason="Conflict", stalled="%s"}'
)
DRIFT = 'roost_instance_dns_drift{instance="abc", node="n1"}'
NOT_AFTER = 'roost_certificate_not_after_seconds{instance="abc", node="n1"}'
LIFE = 'roost_certificate_life_seconds{instance="abc", node="n1"}'
BACKUP = (
    'roost_instance_backup_condition_not_true{instance="abc", node="n1", condition="%s", status="%s", reason="Late"}'
)
DRILL = 'roost_instance_backup_drill_failed{instance="abc", node="n1", state="%s"}'
HOST = "acme.example"

ALERTS: dict[str, Alert] = {
    # -- levels. 20 of 1,020 tenants are 1.96 %, more than 14.4 times the budget of 0.1 %.
    "LevelBurnsFast": Alert(
        Case(
            level("login", "20+0x{n}"),
            "60m",
            {"level": "login"},
            "login: 1.961% of all tenants in the last hour; a month's budget is gone in two days.",
        ),
        (
            Case(level("login", "2+0x{n}"), "60m"),
            Case(level("login", "100+0x5 0+0x600"), "30m"),  # it is over, and the short window knows
            Case(level("calls", "20+0x{n}"), "60m"),  # its budget is five times as large
        ),
        scope="service",
    ),
    "LevelBurnsSlowly": Alert(
        Case(
            level("calls", "40+0x{n}"),
            "6h",
            {"level": "calls"},
            "calls: 3.846% of all tenants in the last six hours; a month's budget is gone in five days.",
        ),
        (Case(level("calls", "10+0x{n}"), "6h"), Case(level("calls", "400+0x30 0+0x600"), "3h")),
        scope="service",
    ),
    "LevelBudgetLeaks": Alert(
        Case(
            level("login", "2+0x{n}", minutes=3 * DAY),
            "3d",
            {"level": "login"},
            "login: 0.1996% of all tenants in the last three days; the budget will not last the month.",
        ),
        (Case(level("login", "0+0x{n}", minutes=3 * DAY), "3d"),),
        severity="ticket",
        scope="service",
    ),
    "TenantLevelBurns": Alert(
        Case(
            {'roost_instance_level_met{instance="abc", node="n1", level="login"}': "0+0x30 1+0x400"},
            "5h",
            {"instance": "abc", "node": "n1", "level": "login"},
            "abc: login was missing for 9.954% of the last six hours.",
        ),
        (
            Case({'roost_instance_level_met{instance="abc", node="n1", level="login"}': "1+0x400"}, "5h"),
            Case({'roost_instance_level_met{instance="abc", node="n1", level="federation"}': "0+0x5 1+0x400"}, "5h"),
        ),
        severity="ticket",
    ),
    # -- tenants
    "TenantEngineDead": of_incident(
        ("EngineDown", "EngineSilent"), "LoginFails", f"{HOST} does not answer (EngineDown)."
    ),
    "TenantCertificateWrong": of_incident(
        ("CertificateExpired",),
        "CertificateEndsSoon",
        f"{HOST} shows clients no good certificate (CertificateExpired).",
    ),
    "TenantNamesMissing": of_incident(
        ("DnsMissing",), "DnsServerDown", f"{HOST}: names that clients need are not found."
    ),
    "TenantLoginFails": of_incident(("LoginFails",), "EngineDown", f"{HOST}: people cannot log in (LoginFails)."),
    "TenantServiceFails": of_incident(
        ("ArchiveFails",), "TurnFails", f"{HOST}: a part of the service fails (ArchiveFails)."
    ),
    "TenantDiskFull": of_incident(("DiskFull",), "ArchiveFails", f"{HOST}: the disk of its data is full."),
    "TenantClockOff": of_incident(("ClockOff",), "TlsFails", f"{HOST}: the server's clock is wrong.", "ticket"),
    "TenantFederationBroken": Alert(
        Case(
            {
                INFO: "1+0x30",
                'roost_instance_incident_open{instance="abc", node="n1", kind="link", cause="LinkSilent"}': "2+0x30",
                'roost_instance_incident_open{instance="abc", node="n1", kind="link", cause="PeerDown"}': "1+0x30",
            },
            fires=TENANT,
            summary=f"{HOST}: 3 links to other servers are broken.",
        ),
        (Case(incident("EngineDown")), Case(incident("LinkSilent", "link", "_x10 1+0x20"))),
    ),
    "TenantDataLost": of_incident(
        ("RoomsLost",), "DiskFull", f"{HOST}: after a restart something is missing (RoomsLost).", kind="data"
    ),
    "TenantNotReady": Alert(
        Case(with_info(NOT_READY, "0+0x30"), "15m", TENANT, f"{HOST} has not been Ready for ten minutes."),
        (Case(with_info(NOT_READY, "1+0x30"), "15m"), Case(with_info(NOT_READY, "0+0x5 1+0x30"), "15m")),
        severity="ticket",
    ),
    "TenantStalled": Alert(
        Case(
            with_info(STALLED % "true", "1+0x30"),
            fires={**TENANT, "condition": "DnsPublished", "reason": "Conflict"},
            summary=f"{HOST}: DnsPublished waits for a person (Conflict).",
        ),
        (Case(with_info(STALLED % "false", "1+0x30")),),
        severity="ticket",
    ),
    "DnsDrift": Alert(
        Case(with_info(DRIFT, "2+0x30"), fires=TENANT, summary=f"{HOST}: 2 record sets are not as they should be."),
        (Case(with_info(DRIFT, "2+0x2 _x30")),),
        severity="ticket",
    ),
    "CertificateEnding": Alert(
        Case(
            {**with_info(NOT_AFTER, "8640+0x1500"), LIFE: "86400+0x1500"},  # 90 minutes of a day are left
            "54m",
            TENANT,
            f"{HOST}: the certificate has 6.25% of its life left and was not renewed.",
        ),
        (Case({**with_info(NOT_AFTER, "86400+0x1500"), LIFE: "86400+0x1500"}, "54m"),),
        severity="ticket",
    ),
    "CertificateExpired": Alert(
        Case(with_info(NOT_AFTER, "600+0x1500"), "20m", TENANT, f"{HOST}: the certificate ended 10m 0s ago."),
        (Case(with_info(NOT_AFTER, "6000+0x1500"), "20m"),),
    ),
    # -- backups
    "BackupLate": Alert(
        Case(
            with_info(BACKUP % ("BackedUp", "False"), "1+0x90"),
            "60m",
            {**TENANT, "condition": "BackedUp"},
            f"{HOST}: backups are late (BackedUp is not true).",
        ),
        (
            Case(with_info(BACKUP % ("BackedUp", "Unknown"), "1+0x90"), "60m"),
            Case(with_info(BACKUP % ("BackupProven", "False"), "1+0x90"), "60m"),
        ),
        severity="ticket",
    ),
    "BackupNotProven": Alert(
        Case(
            with_info(BACKUP % ("BackupProven", "False"), "1+0x90"),
            "80m",
            TENANT,
            f"{HOST}: nobody has proven lately that its backups can be restored.",
        ),
        (Case(with_info(BACKUP % ("BackedUp", "False"), "1+0x90"), "80m"),),
        severity="ticket",
    ),
    "DrillFailed": Alert(
        Case(
            with_info(DRILL % "failed", "1+0x30"),
            fires={**TENANT, "state": "failed"},
            summary=f"{HOST}: the last drill of its backups ended as «failed».",
        ),
        (Case(with_info(DRILL % "passed", "0+0x30")),),
    ),
    "RepositoryDamaged": one(
        'roost_backup_repositories{state="damaged"}',
        "2+0x30",
        "0+0x30",
        {"state": "damaged"},
        "The last check found errors in 2 repositories of backups.",
        "10m",
        "page",
        "service",
    ),
    # -- nodes
    "NodeDead": Alert(
        Case(
            {node("Reachable", "Unreachable"): "0+0x30"},
            fires={"node": "n1"},
            summary="The node n1 is not reached; nothing of its tenants can be changed or mended.",
        ),
        (Case({node("Reachable", "Reached"): "1+0x30"}), Case({node("Reachable"): "1+0x9 0+0x20"})),
        scope="node",
    ),
    "NodeHostKeyChanged": Alert(
        Case(
            {node("HostKeyTrusted", "Unknown"): "0+0x30"},
            fires={"node": "n1"},
            summary="The node n1 shows a host key that nobody vouched for.",
        ),
        (Case({node("HostKeyTrusted", "NotSeen"): "0+0x30"}), Case({node("HostKeyTrusted"): "1+0x30"})),
        scope="node",
    ),
    "NodeNotConverged": Alert(
        Case(
            {node("Converged", "Failed"): "0+0x30"},
            "20m",
            {"node": "n1", "condition": "Converged"},
            "The node n1: Converged has not been true for a quarter of an hour.",
        ),
        (Case({node("Converged", "Unreachable"): "0+0x30"}, "20m"), Case({node("Prepared"): "0+0x5 1+0x30"}, "20m")),
        severity="ticket",
        scope="node",
    ),
    "EdgeDead": Alert(
        Case(
            {node("EdgeServing"): "0+0x30"},
            fires={"node": "n1"},
            summary="The edge on n1 does not serve: nobody reaches the tenants behind it.",
        ),
        (Case({node("EdgeServing", "Unreachable"): "0+0x30"}), Case({node("EdgeServing"): "1+0x30"})),
        scope="node",
    ),
    "NodeAddressChanging": Alert(
        Case(
            {'roost_node_incident_open{node="n1", kind="address", cause="AddressChanged"}': "1+0x30"},
            fires={"node": "n1"},
            summary="The public address of n1 changed, and not all of its links are proven after five minutes.",
        ),
        (Case({'roost_node_incident_open{node="n1", kind="address", cause="AddressChanged"}': "1+0x2 _x30"}),),
        scope="node",
    ),
    "NodeDiskFilling": Alert(
        Case(
            {'roost_node_disk_free_bytes{node="n1"}': "5+0x30", 'roost_node_disk_bytes{node="n1"}': "100+0x30"},
            fires={"node": "n1"},
            summary="The node n1 has 5% of its disk left.",
        ),
        (Case({'roost_node_disk_free_bytes{node="n1"}': "15+0x30", 'roost_node_disk_bytes{node="n1"}': "100+0x30"}),),
        severity="ticket",
        scope="node",
    ),
    "NodeMemoryLow": Alert(
        Case(
            {
                'roost_node_memory_available_bytes{node="n1"}': "4+0x30",
                'roost_node_memory_bytes{node="n1"}': "100+0x30",
            },
            fires={"node": "n1"},
            summary="The node n1 has 4% of its memory left.",
        ),
        (
            Case(
                {
                    'roost_node_memory_available_bytes{node="n1"}': "40+0x30",
                    'roost_node_memory_bytes{node="n1"}': "100+0x30",
                }
            ),
        ),
        severity="ticket",
        scope="node",
    ),
    "NodeClockOff": one(
        'roost_node_clock_offset_seconds{node="n1"}',
        "-30+0x30",
        "-3+0x30",
        {"node": "n1"},
        "The clock of n1 is 30s off.",
        "10m",
        "ticket",
        "node",
    ),
    "CapacityLow": Alert(
        Case(
            {
                'roost_node_committed_bytes{node="n1"}': "95+0x60",
                'roost_node_capacity_bytes{node="n1"}': "100+0x60",
                'roost_node_capacity_bytes{node="n2"}': "100+0x60",  # nothing is placed on a cordoned one
                'roost_node_info{node="n1", standing="active"}': "1+0x60",
                'roost_node_info{node="n2", standing="cordoned"}': "1+0x60",
            },
            "30m",
            {},
            "95% of the memory of all nodes is promised: soon new tenants find no place.",
        ),
        (
            Case(
                {
                    'roost_node_committed_bytes{node="n1"}': "95+0x60",
                    'roost_node_committed_bytes{node="n2"}': "0+0x60",
                    'roost_node_capacity_bytes{node="n1"}': "100+0x60",
                    'roost_node_capacity_bytes{node="n2"}': "100+0x60",
                    'roost_node_info{node="n1", standing="active"}': "1+0x60",
                    'roost_node_info{node="n2", standing="active"}': "1+0x60",
                },
                "30m",
            ),
        ),
        severity="ticket",
        scope="service",
    ),
    "RolloutStopped": one(
        'roost_rollouts{state="stopped"}',
        "0+0x5 1+0x30",
        "1+0x30",
        {"state": "stopped"},
        "A rollout stopped at a node that did not come back well.",
        "10m",
        "ticket",
        "service",
    ),
    # -- what all share
    "DnsServerDown": one(
        'roost_incidents_open{kind="check", cause="DnsServerDown"}',
        "7+0x30",
        "7+0x2 _x30",
        {},
        "The name servers give no answer; 7 tenants are not found.",
        "10m",
        "page",
        "service",
    ),
    "TurnDead": Alert(
        Case(
            {'roost_incidents_open{kind="check", cause="RelayClosed"}': "3+0x30"},
            fires={"cause": "RelayClosed"},
            summary="Calls cannot be relayed (RelayClosed); 3 tenants feel it.",
        ),
        (Case({'roost_incidents_open{kind="check", cause="EngineDown"}': "3+0x30"}),),
        scope="service",
    ),
    "ProberCutOff": one(
        'roost_prober_cut_off{place="here", shard="0"}',
        "1+0x30",
        "0+0x30",
        {"place": "here"},
        "The prober at here reaches none of its references and judges nothing.",
        "10m",
        "page",
        "service",
    ),
    "ProberSilent": one(
        'roost_prober_silent_seconds{place="here", shard="0"}',
        "0+60x30",
        "10+0x30",
        {"place": "here", "shard": "0"},
        "The prober here/0 has said nothing for 10m 0s.",
        "10m",
        "page",
        "service",
    ),
    "ProberClockOff": Alert(
        Case(
            {'roost_incidents_open{kind="prober", cause="ClockOff"}': "1+0x30"},
            fires={},
            summary="The clocks of prober, database and CA disagree.",
        ),
        (Case({'roost_incidents_open{kind="check", cause="ClockOff"}': "1+0x30"}),),
        severity="ticket",
        scope="service",
    ),
    "CertificatesNotRenewed": one(
        'roost_certificates{state="due"}',
        "4+0x600",
        "4+0x100 0+0x500",
        {},
        "Certificates have been due for six hours, 4 of them.",
        "7h",
        "ticket",
        "service",
    ),
    "ZoneNotCompared": one(
        "roost_zone_compared_age_seconds_max",
        "14400+0x60",
        "3600+0x60",
        {},
        "A zone was compared as a whole 4h 0m 0s ago; what somebody changes there is not seen.",
        "30m",
        "ticket",
        "service",
    ),
    "NoticesLate": one(
        "roost_notice_oldest_waiting_seconds",
        "1200+0x60",
        "1200+0x3 0+0x60",
        {},
        "A notice has been waiting for 20m 0s: somebody is not told of incidents.",
        "10m",
        "ticket",
        "service",
    ),
    # -- Roost itself
    "RoostDown": one(
        'up{job="roost", instance="web"}',
        "0+0x30",
        "1+0x30",
        {},
        "Roost's web process does not answer: nobody can order anything, and nothing is measured.",
        "10m",
        "page",
        "control",
    ),
    "DatabaseDown": one(
        'roost_database_up{job="roost"}',
        "0+0x30",
        "1+0x30",
        {},
        "PostgreSQL does not answer. Tenants' servers run on; nothing is mended or changed.",
        "10m",
        "page",
        "control",
    ),
    "QueueStuck": Alert(
        Case(
            {'roost_work_oldest_due_seconds{queue="heal", kind="S2sLink"}': "90+0x30"},
            fires={"queue": "heal"},
            summary="Work in the queue heal has been due for 1m 30s and nobody takes it.",
        ),
        (Case({'roost_work_oldest_due_seconds{queue="reconcile", kind="Instance"}': "90+0x30"}),),
        scope="control",
    ),
    "ProcessMissing": Alert(
        Case(
            processes("prober"),
            fires={"process": "prober"},
            summary="No prober runs on the machine of the web process.",
        ),
        (Case(processes()),),
        scope="control",
    ),
    "ClockStopped": one(
        'roost_clock_messages_total{task="controlplane.tasks.sweep"}',
        "100+0x30",
        "100+12x30",
        {},
        "The clock has not asked for a sweep for five minutes: what a lost message meant stays undone.",
        "10m",
        "ticket",
        "control",
    ),
    "PassesFail": Alert(
        Case(
            {'roost_reconcile_passes_total{kind="Zone", queue="reconcile", outcome="error"}': "0+2x60"},
            "30m",
            {"kind": "Zone"},
            "Passes over Zone break off with errors of Roost's own.",
        ),
        (
            Case({'roost_reconcile_passes_total{kind="Zone", queue="reconcile", outcome="failed"}': "0+2x60"}, "30m"),
            Case({'roost_reconcile_passes_total{kind="Zone", queue="reconcile", outcome="error"}': "5+0x60"}, "30m"),
        ),
        severity="ticket",
        scope="control",
    ),
    "NodeRunsFail": Alert(
        Case(
            {
                'roost_ansible_run_seconds_count{play="converge", status="failed"}': "0+3x60",
                'roost_ansible_run_seconds_count{play="converge", status="successful"}': "0+1x60",
            },
            "40m",
            {"play": "converge"},
            "75% of ansible's runs of converge fail.",
        ),
        (
            Case(
                {
                    'roost_ansible_run_seconds_count{play="converge", status="failed"}': "0+1x60",
                    'roost_ansible_run_seconds_count{play="converge", status="successful"}': "0+9x60",
                },
                "40m",
            ),
        ),
        severity="ticket",
        scope="control",
    ),
    "ApiFails": Alert(
        Case(requests("0+90x30", "0+10x30"), "15m", {}, "10% of all requests fail with 5xx."),
        (Case(requests("0+99x30", "0+1x30"), "15m"),),
        scope="control",
    ),
    "ApiSlow": Alert(
        Case(latencies("0+50x60", "0+100x60"), "30m", {}, "One of twenty requests to the API takes longer than 4.55s."),
        (Case(latencies("0+99x60", "0+100x60"), "30m"),),
        severity="ticket",
        scope="control",
    ),
    "MetricsIncomplete": Alert(
        Case(
            {'roost_scrape_part_failed{part="dns"}': "1+0x30"},
            fires={"part": "dns"},
            summary="The metrics lack dns: alerts about it are blind.",
        ),
        (Case({'roost_scrape_part_failed{part="dns"}': "0+0x30"}),),
        severity="ticket",
        scope="control",
    ),
}
