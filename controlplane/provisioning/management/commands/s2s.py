"""Lists an instance's server-to-server streams as its engine tells them; ``./roost send`` shows them."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.provisioning.engines import control_of
from controlplane.values.errors import RoostError
from tenants.models import Instance


class Command(BaseCommand):
    help = "Print the server-to-server streams of the instance of a domain, as JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("domain", help="the instance's domain, as A-labels")

    def handle(self, *args: Any, **options: Any) -> None:
        instance = Instance.objects.filter(domain__name=options["domain"]).first()
        if instance is None:
            raise CommandError(f"There is no instance for {options['domain']}.")
        try:
            streams = control_of(instance).s2s_connections()
        except RoostError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps([asdict(stream) for stream in streams]))
