"""Makes a place for backups, if there is none of that name. Run twice it changes nothing."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.backups import clock, places
from controlplane.backups.models import Place
from controlplane.values.errors import RoostError
from tenants.principal import SYSTEM


class Command(BaseCommand):
    help = "Make a place for backups, if it is missing. Prints JSON, with our public key if it is one for sftp."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", required=True)
        parser.add_argument("--url", required=True, help="/directory, sftp:…, s3:… and so on (docs/backups.md)")
        parser.add_argument("--host-key", action="append", default=[], help="of an sftp server; may be repeated")

    def handle(self, *args: Any, **options: Any) -> None:
        place = Place.objects.filter(name=options["name"]).first()
        made = place is None
        if place is None:
            try:
                place = places.create_place(
                    name=options["name"], url=options["url"], host_keys=options["host_key"], principal=SYSTEM
                )
            except RoostError as error:
                raise CommandError(str(error)) from error
        clock.adopt()
        self.stdout.write(json.dumps({"place": place.name, "made": made, "public_key": place.public_key}))
