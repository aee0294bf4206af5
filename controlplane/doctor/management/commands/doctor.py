"""``manage.py doctor``: what is wrong with this deployment and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from controlplane.doctor.examine import LOOKS, examine
from controlplane.doctor.finding import DOUBT, GOOD, WRONG

MARKS = {GOOD: "✓", DOUBT: "?", WRONG: "✗"}


class Command(BaseCommand):
    help = "Look at the whole deployment, and say what is wrong with the remedy. Exit status 1: something is."
    # What Django's own checks would say in a traceback is what this command is for.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("parts", nargs="*", metavar="PART", help=f"look at these only: {', '.join(LOOKS)}")
        parser.add_argument("--json", action="store_true", help="for programs: a list of findings")

    def handle(self, *args: Any, **options: Any) -> None:
        unknown = [part for part in options["parts"] if part not in LOOKS]
        if unknown:
            self.stderr.write(f"There is no part {unknown[0]!r}: there are {', '.join(LOOKS)}.")
            sys.exit(2)
        logging.disable(logging.ERROR)  # what libraries complain about is told in the findings
        found = []
        for one in examine(options["parts"]):
            found.append(one)
            if not options["json"]:
                self.stdout.write(f"  {MARKS[one.level]}  {one.part:<11} {one.said}")
                if one.remedy:
                    self.stdout.write(f"     {'':<11} → {one.remedy}")
                self.stdout.flush()
        if options["json"]:
            self.stdout.write(json.dumps([dataclasses.asdict(one) for one in found], ensure_ascii=False, indent=1))
        if any(one.level == WRONG for one in found):
            sys.exit(1)
