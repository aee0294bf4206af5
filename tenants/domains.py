"""Which domain names an organisation may have: shape, reserved names, public suffixes, overlap with others.

Whether somebody controls a domain is measured elsewhere (``controlplane.zones.proof``); here is only what the
names themselves and the other organisations' names tell.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from urllib.parse import urlsplit

import tldextract
from django.conf import settings
from django.db import connection
from django.db.models import Q

from controlplane import wiring
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from tenants.errors import Taken
from tenants.models import Domain, Organisation

#: Names that lead nowhere on the Internet or mean something else (RFC 6761, 6762, 7686, 8375, 9476, ICANN's internal).
#: The ones below a reserved top-level name are allowed only if the provider's own zone is below it: a laboratory.
RESERVED = (
    "alt",
    "arpa",
    "corp",
    "example",
    "example.com",
    "example.net",
    "example.org",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "test",
)
#: Labels below the provider's zone that are, or could be taken for, the provider's own.
PROVIDER_LABELS = frozenset(
    {"abuse", "admin", "api", "autoconfig", "autodiscover", "conference", "dns", "edge", "ftp", "hostmaster"}
    | {"imap", "mail", "mta-sts", "mx", "node", "nodes", "ns", "ns0", "ns1", "ns2", "ns3", "ns4", "pop", "portal"}
    | {"postmaster", "proxy", "pubsub", "root", "roost", "security", "smtp", "status", "stun", "support", "turn"}
    | {"upload", "webmaster", "whois", "wpad", "www"}
)
#: The longest name that is made from a domain: the SRV record of its conference service.
_LONGEST_PREFIX = len("_xmpps-server._tcp.conference.")
MAX_LENGTH = 253 - _LONGEST_PREFIX
_DOMAINS_LOCK = 0x726F6F73  # one number for "binding domains"; any constant does


@lru_cache(maxsize=1)
def _suffixes() -> tldextract.TLDExtract:
    """The public suffix list that is packed with the library: no network, no cache on disk."""
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)


def check(text: str, *, field: str = "domain") -> tuple[DomainName, str]:
    """The name and its mode, "provider" or "own". Raises ``InvalidInput`` with reason and remedy."""
    name = DomainName.parse(text, field=field)
    if len(name.ascii) > MAX_LENGTH:
        raise InvalidInput(
            field,
            f"The name is too long: the records of its services, such as conference.{name}, would not fit into DNS.",
            remedy=f"At most {MAX_LENGTH} characters are allowed (in A-labels).",
        )
    zone = wiring.provider_zone()
    if name.is_within(zone):
        _check_provider_name(name, zone, field)
        return name, "provider"
    if zone.is_within(name):
        raise InvalidInput(field, f"{name} is the provider's own.", remedy="Choose a name of your own.")
    for reserved in RESERVED:
        if _at_or_below(name.ascii, reserved) and not _at_or_below(zone.ascii, reserved):
            raise InvalidInput(
                field, f"Names below .{reserved} are reserved.", remedy="Give a name that exists in the public DNS."
            )
    if is_public_suffix(name):
        raise InvalidInput(
            field,
            f"{name} is a public suffix: everybody registers names below it.",
            remedy=f"Give a name below it, such as acme.{name}.",
        )
    return name, "own"


def is_public_suffix(name: DomainName) -> bool:
    """True for ``co.uk``, ``github.io``: names below which strangers register theirs (publicsuffix.org)."""
    found = _suffixes()(name.ascii)
    return bool(found.suffix) and not found.domain


def _check_provider_name(name: DomainName, zone: DomainName, field: str) -> None:
    label, _, rest = name.ascii.removesuffix(zone.ascii).rstrip(".").partition(".")
    if rest or not label:
        raise InvalidInput(
            field, f"A name below {zone} has exactly one label before it.", remedy=f"Give a name such as acme.{zone}."
        )
    own_hosts = {settings.ROOST["TURN_HOST"], urlsplit(settings.BASE_URL).hostname or ""}
    if label in PROVIDER_LABELS or name.ascii in own_hosts:
        raise InvalidInput(field, f"{name} is reserved for the provider.", remedy="Choose another name.")
    if label.startswith("xn--"):
        # A look-alike of another tenant's name would be below the same trusted zone: the provider's.
        readable = name.unicode.partition(".")[0]
        if any(ord(character) > 127 for character in readable) and _mixes_scripts(readable):
            raise InvalidInput(field, f"{readable} mixes alphabets.", remedy="Use letters of one alphabet.")


def _mixes_scripts(label: str) -> bool:
    """True if Latin is mixed with Cyrillic or Greek, the alphabets that look like it."""
    scripts = {unicodedata.name(c, "").partition(" ")[0] for c in label if c.isalpha()}
    return len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1


def lock() -> None:
    """Until the transaction's end nobody else binds a domain: overlaps cannot slip in side by side."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_DOMAINS_LOCK])


def check_overlap(name: DomainName, organisation: Organisation, *, field: str = "domain") -> None:
    """Refuse what another organisation has proven, what is below it, and what collides with service names.

    Only proven claims count, so that nobody blocks a name that is not theirs; within one organisation any
    claim counts. Raises ``Taken``. Call ``lock()`` before, in the same transaction.
    """
    above = _names_above(name)
    ours = {c.ascii for c in Components.below(name).all()}
    rivals = Domain.objects.exclude(organisation=organisation).filter(proven_at__isnull=False)
    if rivals.filter(name=name.ascii).exists():
        raise Taken(
            field, f"{name} belongs to another organisation.", remedy="Choose another name, or ask the provider."
        )
    if rivals.filter(name__in=above).exists():
        raise Taken(
            field,
            f"{name} is below a domain of another organisation.",
            remedy="Choose another name, or have that organisation release it.",
        )
    same = Domain.objects.filter(Q(organisation=organisation) | Q(proven_at__isnull=False)).exclude(name=name.ascii)
    taken = same.filter(name__in=ours).values_list("name", flat=True).first()
    if taken:
        raise Taken(field, f"{taken} is taken, and {name} needs it for its services.", remedy="Choose another name.")
    parent = name.ascii.partition(".")[2]
    if name.ascii in {c.ascii for c in _components(parent)} and same.filter(name=parent).exists():
        raise Taken(
            field, f"{name} is the name of a service of {parent}.", remedy="Choose another name than the services have."
        )


def _components(parent: str) -> tuple[DomainName, ...]:
    return Components.below(DomainName(parent)).all()


def _names_above(name: DomainName) -> list[str]:
    labels = name.ascii.split(".")
    return [".".join(labels[i:]) for i in range(1, len(labels))]


def _at_or_below(name: str, top: str) -> bool:
    return name == top or name.endswith("." + top)
