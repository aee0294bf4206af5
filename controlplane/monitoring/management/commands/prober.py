"""Runs one prober in the foreground until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from controlplane import wiring
from controlplane.certificates import services as certificates
from controlplane.fleet.models import Node
from controlplane.monitoring.prober.database import DatabaseThread
from controlplane.monitoring.prober.loop import Prober, Surroundings
from controlplane.monitoring.prober.references import Reference, References, of_url, parse
from controlplane.monitoring.prober.schedule import Pace
from controlplane.probes.quick import Quick
from controlplane.probes.recordsets import system_resolver
from controlplane.values.errors import RoostError

log = logging.getLogger(__name__)
#: Of so many edges it is asked whether they are reached.
EDGES = 3


class Command(BaseCommand):
    help = "Look at the instances from outside, on their schedules, and say what was seen. Ends on SIGTERM."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--place", default="here", help="name of the place this prober looks from")
        parser.add_argument("--shard", type=int, default=0, help="which part of the instances, from 0")
        parser.add_argument("--shards", type=int, default=1, help="how many probers share them at this place")

    def handle(self, *args: Any, **options: Any) -> None:
        shard, shards = options["shard"], options["shards"]
        if not 0 <= shard < shards:
            raise CommandError("--shard has to be from 0 to --shards less 1.")
        asyncio.run(_main(options["place"], shard, shards))
        # The database thread may wait for a server that is away; nothing of it is worth waiting for.
        logging.shutdown()
        os._exit(0)


async def _main(place: str, shard: int, shards: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(_make(place, shard, shards))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return
    prober = starting.result()
    log.info("prober %s %d/%d has started", place, shard, shards)
    await prober.run(stop)


async def _make(place: str, shard: int, shards: int) -> Prober:
    """As soon as the database and the CA's roots are there."""
    conf, database = settings.ROOST, DatabaseThread()
    while True:
        try:
            world: Surroundings = await database.call(_world)
            break
        except (DatabaseError, InterfaceError, RoostError) as error:
            log.warning("not yet: %s", str(error).strip())
            await asyncio.sleep(1)
    resolver = system_resolver(wiring.resolver())
    return Prober(
        place,
        shard,
        shards,
        quick=Quick(resolver, world.roots_pem, end_days=conf["PROBE_END_DAYS"]),
        references=References(world.references, resolver, ca_file=conf["ACME_CA_FILE"], clock_s=conf["PROBE_CLOCK_S"]),
        database=database,
        world=_world,
        pace=Pace(conf["PROBE_CHEAP_S"], conf["PROBE_FULL_S"], conf["PROBE_RETRY_S"]),
        turn=(conf["TURN_HOST"], conf["TURN_PORT"]) if conf["TURN_HOST"] else None,
        at_once=conf["PROBE_AT_ONCE"],
        walks_at_once=conf["PROBE_WALKS_AT_ONCE"],
        clock_s=conf["PROBE_CLOCK_S"],
    )


def _world() -> Surroundings:
    """The roots that count now, and the references that are named, or those that every installation has."""
    conf = settings.ROOST
    named = tuple(parse(text) for text in conf["PROBE_REFERENCES"])
    rows = Node.objects.edges().order_by("name").values_list("public_addresses", flat=True)
    edges = [addresses[0] for addresses in rows if addresses]
    default = (
        Reference("dns", wiring.provider_zone().ascii),
        of_url(conf["ACME_DIRECTORY"]),
        *(Reference("tcp", address, 5222) for address in edges[:EDGES]),
    )
    return Surroundings(certificates.probe_roots(), named or default)
