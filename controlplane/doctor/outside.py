"""The parts that others run: clocks, DNS, the CA, TURN, nodes, places for backups."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import os
import secrets
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
from django.conf import settings

from controlplane import wiring
from controlplane.backups import places, repositories
from controlplane.backups.models import Place, Repository
from controlplane.certificates.models import AcmeAccount
from controlplane.doctor.finding import Finding, doubt, good, wrong
from controlplane.fleet.models import Node
from controlplane.metrics.facts.asked import rows
from controlplane.probes.quick import turn_answers
from controlplane.probes.recordsets import system_resolver
from controlplane.reconcile.models import Condition
from controlplane.values.errors import RoostError, Unavailable
from controlplane.values.records import Change, RecordSet, txt

ASK_S = 5.0
OFF_S = 5.0
STALE = datetime.timedelta(minutes=15)
PROBE = "_roost-doctor"


def clock() -> Iterator[Finding]:
    """This machine's against the database's and the CA's; the nodes' against ours, as they told last."""
    rows("SELECT 1")  # the connection is there when the time is taken
    before = time.time()
    ((theirs,),) = rows("SELECT extract(epoch FROM clock_timestamp())::float8")
    off = (before + time.time()) / 2 - theirs
    others = {"the database's": off}
    told = _directory()[1]
    if told is not None:
        others["the CA's"] = time.time() - told
    bad = {whose: off_s for whose, off_s in others.items() if abs(off_s) > OFF_S}
    for whose, off_s in bad.items():
        yield wrong(
            "clock",
            f"This machine's clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} {whose}.",
            "Have all machines keep time by NTP (apt-get install chrony).",
        )
    for node in Node.objects.exclude(standing=Node.RETIRED):
        off_s = float(node.facts.get("clock_offset_s", 0))
        if abs(off_s) > OFF_S:
            yield wrong(
                "clock",
                f"The clock of the node {node.name} is {abs(off_s):.0f} s off.",
                "Have it keep time by NTP (apt-get install chrony).",
            )
    if not bad:
        yield good("clock", f"It agrees with {' and '.join(others)}.")


def names() -> Iterator[Finding]:
    """The resolver, the provider's zone, and whether we may write to it."""
    zone = wiring.provider_zone()
    where, port = system_resolver(wiring.resolver())
    try:
        question = dns.message.make_query(f"{zone.ascii}.", "SOA")
        answer = dns.query.udp(question, where, port=port, timeout=ASK_S)
    except (OSError, dns.exception.DNSException) as error:
        yield wrong(
            "dns",
            f"The resolver {where}@{port} does not answer: {type(error).__name__}.",
            "Correct ROOST_RESOLVER, or start the resolver.",
        )
    else:
        if not answer.answer:
            code = dns.rcode.to_text(answer.rcode())
            yield wrong(
                "dns",
                f"The zone {zone.ascii} is not found by the resolver {where}@{port}: {code}.",
                "Delegate the zone to your name servers at its parent, or correct ROOST_PROVIDER_ZONE.",
            )
    yield from _rights()


def _rights() -> Iterator[Finding]:
    zone, driver = wiring.provider_zone(), wiring.dns_driver()
    if not driver.can_write:
        yield doubt(
            "dns",
            "The driver «manual» writes nothing.",
            "People publish what the API shows; use another driver if not.",
        )
        return
    try:
        if not driver.zone_exists(zone):
            yield wrong(
                "dns",
                f"The DNS server does not have the zone {zone.ascii}.",
                "Run manage.py bootstrap, which makes it where the server allows that; or make it there.",
            )
            return
        name = f"{PROBE}-{secrets.token_hex(4)}.{zone.ascii}"
        record = RecordSet.of(name, "TXT", 60, [txt("Roost tries whether it may write here.")])
        driver.apply(zone, [Change("create", record)])
        try:
            found = record.key in driver.read(zone, [record.key])
        finally:
            driver.apply(zone, [Change("delete", record)])
    except RoostError as error:
        yield wrong(
            "dns",
            f"The zone {zone.ascii} cannot be written by {driver.name}: {error}",
            error.remedy or "Give the key or the account of ROOST_DNS_DRIVER the right to write this zone.",
        )
        return
    if found:
        yield good("dns", f"{zone.ascii} can be written by {driver.name}; a record was made and taken away.")
    else:
        yield wrong("dns", f"A record that was written to {zone.ascii} is not there.", "See who else writes this zone.")


def authority() -> Iterator[Finding]:
    url = settings.ROOST["ACME_DIRECTORY"]
    directory, _ = _directory()
    if isinstance(directory, str):
        yield wrong(
            "acme",
            f"The CA's directory {url} is not read: {directory}",
            "Correct ROOST_ACME_DIRECTORY or ROOST_ACME_CA_FILE, or wait until the CA is back.",
        )
        return
    if "newOrder" not in directory:
        yield wrong("acme", f"{url} is no ACME directory.", "Correct ROOST_ACME_DIRECTORY.")
        return
    needs = bool(directory.get("meta", {}).get("externalAccountRequired"))
    if needs and not settings.ROOST["ACME_EAB_KID"]:
        yield wrong(
            "acme",
            "The CA wants an external account binding and none is set.",
            "Set ROOST_ACME_EAB_KID and ROOST_ACME_EAB_HMAC to what the CA gave you.",
        )
    account = AcmeAccount.objects.filter(directory_url=url).first()
    if account is None or not account.uri:
        yield doubt(
            "acme", "There is no account at this CA yet.", "It is made with the first certificate; order an instance."
        )
        return
    yield good("acme", f"The CA answers, and our account is {account.uri}.")


def _directory() -> tuple[dict[str, Any] | str, float | None]:
    """The directory or why it cannot be read, and the time that the CA tells."""
    conf = settings.ROOST
    try:
        context = ssl.create_default_context(cafile=conf["ACME_CA_FILE"] or None)
        # The scheme is checked when it is set up as the CA's address; this is what the driver itself opens.
        with urllib.request.urlopen(conf["ACME_DIRECTORY"], timeout=ASK_S, context=context) as answer:  # noqa: S310
            body, date = answer.read(100_000), answer.headers.get("Date")
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {str(error)[:200]}", None
    told = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    try:
        found = json.loads(body)
    except ValueError:
        return {}, told
    return (found if isinstance(found, dict) else {}), told


def turn() -> Iterator[Finding]:
    conf = settings.ROOST
    host, port = conf["TURN_HOST"], conf["TURN_PORT"]
    if not host:
        yield doubt("turn", "No TURN server is announced: calls fail behind many NATs.", "Set ROOST_TURN_HOST.")
        return
    path = Path(conf["TURN_DATABASE"] or "/nowhere")
    if not path.is_file():
        yield wrong(
            "turn",
            f"coturn's database {path} is not there.",
            "Correct ROOST_TURN_DATABASE, or let the role coturn prepare the machine.",
        )
    elif not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        yield wrong(
            "turn",
            f"coturn's database {path} cannot be written by this user.",
            "Put this user into its group; SQLite writes beside the file, too.",
        )
    where, at = system_resolver(wiring.resolver())
    asker = dns.resolver.Resolver(configure=False)
    asker.nameservers, asker.port, asker.lifetime = [where], at, ASK_S
    addresses: list[str] = []
    for kind in ("A", "AAAA"):
        try:
            addresses += [str(record) for record in asker.resolve(host, kind)]
        except (dns.exception.DNSException, OSError):
            continue
    if not addresses:
        yield wrong("turn", f"{host} has no address.", f"Publish one: manage.py bootstrap --address {host}=ADDRESS.")
        return
    silent = [address for address in addresses if not asyncio.run(turn_answers(address, port))]
    for address in silent:
        yield wrong(
            "turn",
            f"The TURN server {host} ({address}) does not answer at UDP {port}.",
            "Start coturn, or let UDP through to it.",
        )
    if not silent:
        yield good("turn", f"{host} answers at UDP {port}.")


def nodes() -> Iterator[Finding]:
    found = list(Node.objects.exclude(standing=Node.RETIRED))
    if not found:
        yield wrong(
            "nodes", "There is no node: no instance finds a place.", "Enrol one: ./roost node enrol NAME ADDRESS."
        )
        return
    bad = Condition.objects.filter(kind="Node", object_id__in=[node.name for node in found]).exclude(status="True")
    lacking = [one for one in bad.order_by("object_id", "position") if one.type not in {"Ready", "Accepting"}]
    told = set()
    for one in lacking:
        if one.object_id in told:
            continue  # what comes after the first follows from it
        told.add(one.object_id)
        said = f"The node {one.object_id}: {one.type} is {one.status} ({one.reason}). {one.message}"
        yield wrong("nodes", said, one.remedy or f"Look at it: ./roost node show {one.object_id}.")
    for node in found:
        if node.name not in told and not Condition.objects.filter(kind="Node", object_id=node.name).exists():
            yield wrong(
                "nodes",
                f"The node {node.name} was never looked at.",
                "See that a worker with -Q node runs.",
            )
            told.add(node.name)
    if not any(node.accepting for node in found):
        yield wrong("nodes", "No node accepts new instances.", "Uncordon one, or enrol another.")
    elif not told:
        yield good("nodes", f"{len(found)} are reached and prepared.")


def backups() -> Iterator[Finding]:
    found = list(Place.objects.order_by("name"))
    if not found:
        yield doubt("backups", "There is no place for backups: none are made.", "Make one: docs/backups.md.")
        return
    for place in found:
        yield from _place(place)


def _place(place: Place) -> Iterator[Finding]:
    repository = Repository.objects.select_related("place").filter(place=place, made_at__isnull=False).first()
    if repository is None:
        path = Path(place.url)
        if path.is_absolute() and not os.access(path, os.W_OK | os.X_OK):
            yield wrong(
                "backups",
                f"The place {place.name} ({path}) cannot be written by this user.",
                "Mount it, make the directory, or give it to the workers' user.",
            )
        else:
            yield doubt(
                "backups", f"The place {place.name} has no backup yet.", "The first one will show that it works."
            )
        return
    try:
        run = places.run_of(place, timeout_s=30)
        wiring.store_driver().keys(repositories.opened(repository), run=run)
    except RoostError as error:
        what = "is not reached" if isinstance(error, Unavailable) else "does not let us in"
        yield wrong(
            "backups",
            f"The place {place.name} {what}: {error}",
            error.remedy or "Look at its address and at what it was given to log in with.",
        )
        return
    yield good("backups", f"The place {place.name} opens.")
