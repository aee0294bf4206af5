"""Makes what every deployment needs once: operator, token, zone, plans, a node. Run twice it changes nothing."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from controlplane import wiring
from controlplane.certificates import authority
from controlplane.fleet import enrol, keys
from controlplane.fleet.models import Node
from controlplane.reconcile import watch
from controlplane.values.errors import RoostError, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.records import Change, RecordSet
from controlplane.values.secret import Secret
from controlplane.zones import services as zones
from tenants import services as tenants
from tenants.models import ApiToken, Instance, Organisation, Plan
from tenants.principal import ALL_SCOPES, SYSTEM
from tenants.services import people

PASSWORD_VARIABLE = "ROOST_OPERATOR_PASSWORD"  # noqa: S105  (the name of one)
PERSON_VARIABLE = "ROOST_PERSON_PASSWORD"
NODE_FIELDS = enrol.FIELDS | {"name", "connection", "address", "host_key"}
PLANS: tuple[dict[str, Any], ...] = (
    {"slug": "small", "name": "Small", "max_accounts": 25, "max_rooms": 50, "memory_mib": 256},
    {"slug": "standard", "name": "Standard", "max_accounts": 250, "max_rooms": 500, "memory_mib": 512},
    {
        "slug": "large",
        "name": "Large",
        "max_accounts": 2500,
        "max_rooms": 5000,
        "memory_mib": 1024,
        "upload_max_mib": 100,
        "upload_quota_mib": 20480,
    },
)


class Command(BaseCommand):
    help = "Make operator, API token, provider zone, plans and a node, if they are missing. Prints JSON."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--operator", metavar="NAME", help=f"make this operator; the password comes from {PASSWORD_VARIABLE}"
        )
        parser.add_argument("--token", metavar="NAME", help="make an operator's API token of this name and print it")
        parser.add_argument(
            "--person",
            metavar="ORGANISATION=MAIL",
            help=f"only make this owner of an organisation, for the portal; the password comes from {PERSON_VARIABLE}",
        )
        parser.add_argument("--node", metavar="JSON", help="enrol or change a node: the fields of the model as JSON")
        parser.add_argument(
            "--address",
            metavar="NAME=ADDRESS",
            action="append",
            default=[],
            help="publish an address of the provider's own in its zone, such as turn.example.net=192.0.2.7",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["person"]:
                self.stdout.write(json.dumps({"person": _person(options["person"])}))
                return
            result = {
                "plans": _plans(),
                "operator": _operator(options["operator"]),
                "token": _token(options["token"]),
                "zone": _zone(),
                "addresses": [_address(text) for text in options["address"]],
                **_node(options["node"]),
            }
            authority.ensure()
            with contextlib.suppress(Unavailable):  # its own pass tries again
                authority.refresh_roots()
            _look_again()
        except RoostError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps(result))


def _look_again() -> None:
    """Settings may be others than before: have every instance compared with them now, not at its next resync."""
    with transaction.atomic():
        for key in Instance.objects.order_by("key").values_list("key", flat=True):
            watch.touch("Instance", key)


def _plans() -> list[str]:
    """The default plans, where there is none at all: an operator's own choice is left alone."""
    if Plan.objects.exists():
        return []
    for plan in PLANS:
        tenants.create_plan(principal=SYSTEM, **plan)
    return [plan["slug"] for plan in PLANS]


def _operator(name: str | None) -> str | None:
    users = get_user_model().objects
    if not name or users.filter(username=name).exists():
        return None
    password = os.environ.get(PASSWORD_VARIABLE, "")
    try:
        validate_password(password)
    except ValidationError as error:
        raise CommandError(f"{PASSWORD_VARIABLE}: {' '.join(error.messages)}") from error
    users.create_superuser(username=name, password=password)
    return name


def _person(text: str) -> str | None:
    """The mail address if the account was made now; one that is there is left alone."""
    slug, _, email = text.partition("=")
    organisation = Organisation.objects.filter(slug=slug).first()
    if organisation is None:
        raise CommandError(f"--person: there is no organisation {slug!r}.")
    if people.person(people.address(email)) is not None:
        return None
    with transaction.atomic():
        user = people.create_person(email=email, password=Secret(os.environ.get(PERSON_VARIABLE, "")))
        people.add_person(organisation=organisation, user=user, role="owner", principal=SYSTEM)
    return str(user.get_username())


def _token(name: str | None) -> str | None:
    if not name or ApiToken.objects.filter(name=name, organisation=None, revoked_at=None).exists():
        return None
    _, secret = tenants.create_token(name=name, organisation=None, scopes=sorted(ALL_SCOPES), principal=SYSTEM)
    return secret.reveal()


def _zone() -> str:
    name = wiring.provider_zone()
    driver = wiring.dns_driver()
    if driver.can_write and not driver.zone_exists(name):
        driver.create_zone(name, settings.ROOST["DNS_NAMESERVERS"])
    zones.ensure_zone(name)
    return name.ascii


def _address(text: str) -> str:
    """One A or AAAA record of the provider's own; one that is there with other data is never overwritten."""
    name_text, _, address_text = text.partition("=")
    name = DomainName.parse(name_text, field="--address")
    try:
        address = ipaddress.ip_address(address_text)
    except ValueError as error:
        raise CommandError(f"--address: {address_text!r} is no IP address.") from error
    zone, driver = wiring.provider_zone(), wiring.dns_driver()
    if not name.is_within(zone):
        raise CommandError(f"--address: {name} is not in the provider's zone {zone}.")
    wanted = RecordSet.of(
        name.ascii, "A" if address.version == 4 else "AAAA", settings.ROOST["RECORD_TTL_S"], [str(address)]
    )
    found = driver.read(zone, [wanted.key], unserved=True).get(wanted.key)
    if found is None:
        driver.apply(zone, [Change("upsert", wanted)])
    elif not wanted.same_data(found):
        raise CommandError(f"--address: {name} has other addresses already: {', '.join(sorted(found.rdatas))}.")
    return f"{name} {wanted.type} {address}"


def _node(text: str | None) -> dict[str, str | None]:
    """This machine's node is written as given; another one is enrolled, and the line for its authorized_keys told."""
    if not text:
        return {"node": None}
    fields = json.loads(text)
    unknown = set(fields) - NODE_FIELDS
    if unknown or "name" not in fields:
        raise CommandError(f"--node: unknown or missing fields: {', '.join(sorted(unknown)) or 'name'}.")
    node = Node.objects.filter(name=fields["name"]).first()
    if fields.pop("connection", node.connection if node else "ssh") == "local":
        return {"node": _this_machine(node, fields)}
    host_key = fields.pop("host_key", "")
    if node is None:
        node = enrol.enrol_node(principal=SYSTEM, host_key=host_key, **fields)
    else:
        del fields["name"]
        node = enrol.update_node(node=node, changes=fields, principal=SYSTEM)
    return {"node": node.name, "authorized_line": keys.authorized_line(node)}


def _this_machine(node: Node | None, fields: dict[str, Any]) -> str:
    with transaction.atomic():
        node = node or Node(name=fields["name"], connection="local")
        for key, value in fields.items():
            setattr(node, key, value)
        try:
            node.full_clean()
        except ValidationError as error:
            raise CommandError(f"--node: {'; '.join(error.messages)}") from error
        node.save()
        watch.touch("Node", node.name)
    return node.name
