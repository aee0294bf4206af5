"""The parts that are on this machine or belong to the control plane: settings, database, broker, disk, processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.mail import get_connection
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from kombu.connection import Connection

from controlplane.doctor.finding import Finding, doubt, good, wrong
from controlplane.metrics import shared
from controlplane.metrics.facts.asked import rows
from controlplane.reconcile.models import WorkItem

ASK_S = 5
SECRET_LENGTH = 32
TOKEN_LENGTH = 16
OLDEST_POSTGRESQL = 150000
FREE_BYTES = 1024**3
STUCK_S = 300
#: What every installation runs.
ROLES = ("web", "worker-reconcile", "worker-heal", "worker-node", "worker-backup", "prober", "watcher", "clock")


def settings_() -> Iterator[Finding]:
    conf = settings.ROOST
    part = "settings"
    if len(settings.SECRET_KEY) < SECRET_LENGTH:
        yield wrong(
            part,
            f"ROOST_SECRET_KEY has {len(settings.SECRET_KEY)} characters: sessions and API tokens can be guessed.",
            "Set 50 random characters: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'. Sessions and "
            "tokens that were made with the old one need it in ROOST_SECRET_KEY_FALLBACKS.",
        )
    if settings.DEBUG:
        yield wrong(part, "ROOST_DEBUG is on: errors show settings to everybody.", "Unset ROOST_DEBUG.")
    if "*" in settings.ALLOWED_HOSTS:
        yield doubt(part, "ROOST_ALLOWED_HOSTS takes every name.", "Name the hosts that the web process is reached by.")
    if settings.BASE_URL.startswith("http://") and not _is_local(settings.BASE_URL):
        yield doubt(
            part,
            f"ROOST_BASE_URL is {settings.BASE_URL}, without TLS: tokens and passwords go in the clear.",
            "Put a proxy with TLS in front, and set https:// there.",
        )
    yield from _key_file(part)
    yield from _together(part, conf)
    if conf["METRICS_TOKEN"] and len(conf["METRICS_TOKEN"]) < TOKEN_LENGTH:
        yield wrong(part, "ROOST_METRICS_TOKEN is short enough to be guessed.", "Set 32 random characters.")
    yield good(part, f"They are read: provider zone {conf['PROVIDER_ZONE']}, DNS by {conf['DNS_DRIVER']}.")


def _is_local(url: str) -> bool:
    return any(f"//{host}" in url for host in ("localhost", "127.", "[::1]"))


def _key_file(part: str) -> Iterator[Finding]:
    path = Path(os.environ.get("ROOST_MASTER_KEY_FILE", ""))
    if path.is_file() and path.stat().st_mode & 0o007:
        yield wrong(
            part,
            f"Every user of this machine can read the master key ({path}).",
            f"chmod o= {path}. If others have been on the machine, add a new first key and run manage.py reseal.",
        )


def _together(part: str, conf: dict[str, Any]) -> Iterator[Finding]:
    """What makes no sense alone."""
    for name, needs in (
        ("TURN_HOST", "TURN_DATABASE"),
        ("TURN_DATABASE", "TURN_REALM"),
        ("ACME_EAB_KID", "ACME_EAB_HMAC"),
        ("RFC2136_TSIG_NAME", "RFC2136_TSIG_SECRET"),
    ):
        if conf[name] and not conf[needs]:
            yield wrong(
                part,
                f"ROOST_{name} is set and ROOST_{needs} is not.",
                "Set both or neither; docs/environment.md has them.",
            )


def database() -> Iterator[Finding]:
    part = "database"
    ((version, most, standby),) = rows(
        "SELECT current_setting('server_version_num')::int, current_setting('max_connections')::int, "
        "pg_is_in_recovery()"
    )
    if version < OLDEST_POSTGRESQL:
        yield wrong(part, f"It is PostgreSQL {version // 10000}.", "Upgrade it to 15 or later.")
    if standby:
        yield wrong(part, "It is a standby and takes no writes.", "Point ROOST_DATABASE_URL at the primary.")
    if most < 60:
        yield doubt(
            part,
            f"It takes {most} connections at most; workers and web threads have one each.",
            "Set max_connections to 100 or more.",
        )
    yield good(part, f"PostgreSQL {version // 10000}.{version % 10000} answers.")


def migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        first = f"{plan[0][0].app_label}.{plan[0][0].name}"
        yield wrong(
            "migrations",
            f"{len(plan)} are not applied, {first} among them: the code expects tables that are not there.",
            "Run manage.py migrate, then restart all processes.",
        )
        return
    yield good("migrations", "All are applied.")


def broker() -> Iterator[Finding]:
    url: str = settings.CELERY_BROKER_URL
    shown = url.rpartition("@")[2] if "@" in url else url
    try:
        with Connection(url, connect_timeout=ASK_S) as made:  # type: ignore[no-untyped-call]
            made.ensure_connection(max_retries=1, timeout=ASK_S)
    except Exception as error:  # noqa: BLE001  (each transport has errors of its own)
        yield wrong(
            "broker",
            f"{shown} does not answer: {type(error).__name__}. Nothing is lost; work waits for it.",
            "Start Redis, or correct ROOST_BROKER_URL.",
        )
        return
    yield good("broker", f"{shown} answers.")


def disk() -> Iterator[Finding]:
    part, seen = "disk", False
    conf = settings.ROOST
    for name in ("ANSIBLE_DIR", "SPOOL_DIR", "METRICS_DIR", "RESTIC_CACHE_DIR"):
        path = Path(conf.get(name) or "/nowhere")
        if not path.is_dir():
            continue  # another process' and not there for this one, or not made yet
        try:
            free = shutil.disk_usage(path).free
        except PermissionError:
            continue  # private to another user's worker
        seen = True
        if free < FREE_BYTES:
            yield wrong(
                part,
                f"{path} (ROOST_{name}) has {free // 1024**2} MiB left.",
                "Make room, or move it to another file system.",
            )
    yield (
        good(part, "The directories have room.")
        if seen
        else doubt(part, "None of the working directories is there yet.", "Start the workers once, then look again.")
    )


def mail() -> Iterator[Finding]:
    if not settings.ROOST["MAIL"]:
        yield doubt(
            "mail", "No mail server is set: notices go by webhook only.", "Set ROOST_MAIL_URL, if mail is wanted."
        )
        return
    where = f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    sender = get_connection(timeout=ASK_S)
    try:
        sender.open()
    except (OSError, ValueError) as error:  # smtplib's errors are OSErrors
        yield wrong(
            "mail",
            f"{where} does not take us: {type(error).__name__}: {str(error)[:200]}",
            "Correct ROOST_MAIL_URL, or have the server accept this machine.",
        )
        return
    sender.close()
    yield good("mail", f"{where} takes us.")


def processes() -> Iterator[Finding]:
    part = "processes"
    if not settings.ROOST["METRICS_DIR"]:
        yield doubt(
            part,
            "It cannot be told which processes run.",
            "Set ROOST_METRICS_DIR to one directory for all processes of this machine.",
        )
        return
    running = {one.role for one in shared.collected()[1]}
    missing = [role for role in ROLES if role not in running]
    if missing:
        yield wrong(
            part,
            f"These do not run here, or have measured nothing yet: {', '.join(missing)}.",
            "Start them, and see their logs. If they run on another machine, look there.",
        )
    else:
        yield good(part, f"All {len(ROLES)} run.")


def queue() -> Iterator[Finding]:
    waiting = rows(
        "SELECT queue, count(*), extract(epoch FROM clock_timestamp() - min(due_at))::int FROM reconcile_workitem "
        "WHERE due_at < clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp()) "
        "GROUP BY queue ORDER BY queue"
    )
    late = [row for row in waiting if row[2] > STUCK_S]
    for name, number, seconds in late:
        yield wrong(
            "queue",
            f"{number} resources in the queue {name} wait to be worked on, for up to {seconds // 60} minutes.",
            f"See that a worker with -Q {name} runs, and what it says.",
        )
    if not late:
        yield good("queue", f"{WorkItem.objects.count()} resources are kept; none waits too long.")
