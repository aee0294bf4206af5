"""``./roost up --monitoring``: Debian's Prometheus and Alertmanager against this stack, with the rules that we ship.

They are programs of the stack's supervisor like all others. The wish is remembered until ``--no-monitoring``.
"""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

from launcher import checks, files, packages, stack
from launcher.keys import Secrets
from launcher.layout import Layout
from launcher.programs import Program
from launcher.progress import Progress

GROUP = "30-monitoring"
PROMETHEUS = """\
# Written by Roost; changes are overwritten. monitoring/prometheus.yml is the one for real machines.
global:
  scrape_interval: 5s
  evaluation_interval: 5s
  external_labels: {{runbooks: {runbooks}}}
rule_files: [{rules}]
alerting:
  alert_relabel_configs: [{{action: labeldrop, regex: runbooks}}]
  alertmanagers: [{{static_configs: [{{targets: [{alertmanager}]}}]}}]
scrape_configs:
  - job_name: roost
    honor_labels: true
    authorization: {{credentials_file: {token}}}
    static_configs: [{{targets: [{web}]}}]
  - job_name: engines
    honor_labels: true
    scrape_interval: 30s
    authorization: {{credentials_file: {token}}}
    http_sd_configs:
      - url: {targets}
        refresh_interval: 10s
        authorization: {{credentials_file: {token}}}
"""


def is_wanted(layout: Layout) -> bool:
    return _wish(layout).exists()


def want(layout: Layout, wanted: bool) -> None:
    """Remember it for the next ``up``."""
    if wanted:
        files.write(_wish(layout), "Written by ./roost up --monitoring.\n")
    else:
        _wish(layout).unlink(missing_ok=True)


def _wish(layout: Layout) -> Path:
    return layout.state / "monitoring-wanted"


def addresses(layout: Layout) -> tuple[str, str]:
    """Of Prometheus and of Alertmanager."""
    return f"{layout.address(5)}:9090", f"{layout.address(5)}:9093"


def install(say: Callable[[str], None]) -> None:
    installed = packages.install(packages.MONITORING, say)
    say(f"{len(installed)} installed" if installed else "all are there")


def bring_up(layout: Layout, kept: Secrets, progress: Progress) -> None:
    """Start both, or stop them if they are not wanted any more."""
    if not is_wanted(layout):
        stack.forget(layout, GROUP)
        stack.supervisor(layout).reread()
        return
    with progress.step("Debian packages for monitoring") as say:
        install(say)
    programs = prepare(layout, kept)
    with progress.step("Monitoring") as say:
        stack.check_ports(layout, programs)
        stack.define(layout, GROUP, programs)
        stack.supervisor(layout).reread()
        for program in programs:
            stack.wait_ready(layout, program, say)
        say("")


def prepare(layout: Layout, kept: Secrets) -> list[Program]:
    """Both programs; writes their configuration."""
    prometheus, alertmanager = addresses(layout)
    base = files.directory(layout.state / "monitoring", group="roost", mode=0o750)
    data = [files.directory(base / name, owner="roost", group="roost", mode=0o750) for name in ("series", "alerts")]
    source = layout.clone / "monitoring"
    rules = files.directory(base / "rules")
    for old in rules.iterdir():
        if not (source / "rules" / old.name).exists():
            old.unlink()
    for rule in sorted((source / "rules").glob("*.yml")):
        files.write(rules / rule.name, rule.read_text())
    files.write(base / "token", kept.metrics, group="roost", mode=0o640)
    files.write(base / "alertmanager.yml", (source / "alertmanager.yml").read_text())
    files.write(base / "prometheus.yml", _configuration(layout, base))
    digest = hashlib.sha256()
    for file in sorted([*rules.glob("*.yml"), *base.glob("*.yml"), base / "token"]):
        digest.update(file.read_bytes())
    return [
        Program(
            name="alertmanager",
            title="Alertmanager",
            argv=[
                "/usr/bin/prometheus-alertmanager",
                f"--config.file={base / 'alertmanager.yml'}",
                f"--storage.path={data[1]}",
                f"--web.listen-address={alertmanager}",
                "--cluster.listen-address=",
            ],
            user="roost",
            ready=lambda: checks.http_ok(f"http://{alertmanager}/-/ready"),
            ports=[_port(alertmanager)],
            digest=digest.hexdigest(),
            priority=80,
            remedy="see `./roost logs alertmanager`",
        ),
        Program(
            name="prometheus",
            title="Prometheus",
            argv=[
                "/usr/bin/prometheus",
                f"--config.file={base / 'prometheus.yml'}",
                f"--storage.tsdb.path={data[0]}",
                "--storage.tsdb.retention.time=7d",
                f"--web.listen-address={prometheus}",
            ],
            user="roost",
            ready=lambda: checks.http_ok(f"http://{prometheus}/-/ready"),
            ports=[_port(prometheus)],
            digest=digest.hexdigest(),
            priority=81,
            remedy="see `./roost logs prometheus`",
        ),
    ]


def _configuration(layout: Layout, base: Path) -> str:
    """YAML; what is put in is quoted as JSON, which YAML reads."""
    values = {
        "runbooks": f"{layout.clone}/docs/runbooks/",
        "rules": f"{base}/rules/*.yml",
        "token": f"{base}/token",
        "alertmanager": addresses(layout)[1],
        "web": layout.web_address,
        "targets": f"{layout.web_url}/metrics/targets",
    }
    return PROMETHEUS.format(**{name: json.dumps(value) for name, value in values.items()})


def _port(address: str) -> tuple[str, str, int]:
    host, _, port = address.rpartition(":")
    return ("tcp", host, int(port))


def alerts(layout: Layout) -> list[dict[str, object]]:
    """What Alertmanager has now, as its API says it."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{addresses(layout)[1]}/api/v2/alerts", timeout=10) as answer:
        found: list[dict[str, object]] = json.load(answer)
    return found
