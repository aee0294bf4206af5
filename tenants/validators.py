"""Rules for what people type about organisations and instances: each returns the clean value or raises.

``InvalidInput`` names the field, the reason and the remedy. Quoting for configurations is left to the drivers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName, Jid
from controlplane.values.spec import PROBE_ACCOUNT

#: Roles of XEP-0157 §3 and its registrar entries.
CONTACT_KINDS = ("abuse", "admin", "feedback", "sales", "security", "status", "support")
MAX_CONTACTS, MAX_ADMINS, MAX_BLOCKED, MAX_URI, MAX_LABELS = 20, 50, 1000, 500, 20

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,61}[a-z0-9])?")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
#: Well-formed language tags without extensions and private use (RFC 5646 §2.1).
_LANGUAGE = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE | re.ASCII,
)
_URI_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_MAIL_LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}")
_JOINERS = frozenset("\u200c\u200d")  # needed to write Persian, Indic scripts and emoji


def slug(value: str, *, field: str = "slug") -> str:
    """Lower-case letters, digits and hyphens, 1 to 63."""
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        raise InvalidInput(
            field, "The short name does not fit.", remedy="Use 1 to 63 lower-case letters, digits and hyphens inside."
        )
    return value


def line(value: str, *, field: str, maximum: int = 200, empty: bool = True) -> str:
    """One line of text for people: NFC, trimmed, without control, private-use or direction-changing characters."""
    if not isinstance(value, str):
        raise InvalidInput(field, "This has to be text.")
    if len(value) > 10 * maximum:
        raise InvalidInput(field, "The text is far too long.", remedy=f"At most {maximum} characters are allowed.")
    text = unicodedata.normalize("NFC", value).strip()
    if len(text) > maximum:
        raise InvalidInput(field, "The text is too long.", remedy=f"At most {maximum} characters are allowed.")
    if any(_is_hidden(character) for character in text):
        raise InvalidInput(field, "The text has control or invisible characters in it.", remedy="Remove them.")
    if not text and not empty:
        raise InvalidInput(field, "The text is empty.", remedy="Give at least one character.")
    return text


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    return (category.startswith("C") and character not in _JOINERS) or category in {"Zl", "Zp"}


def language(value: str, *, field: str = "language") -> str:
    """A BCP 47 tag in its usual capitals, such as ``de``, ``pt-BR`` or ``zh-Hant-TW``."""
    found = _LANGUAGE.fullmatch(value) if isinstance(value, str) and len(value) <= 35 else None
    if found is None:
        raise InvalidInput(field, "This is not a language tag.", remedy="Give one such as en, de or pt-BR (BCP 47).")
    parts = [found["language"].lower()]
    if found["script"]:
        parts.append(found["script"].title())
    if found["region"]:
        parts.append(found["region"].upper())
    return "-".join(parts) + found["variants"].lower()


def contacts(values: Iterable[Mapping[str, Any]], *, field: str = "contacts") -> list[dict[str, str]]:
    """Contact addresses (XEP-0157): ``[{"kind": "abuse", "uri": "mailto:abuse@acme.example"}, …]``."""
    clean: list[dict[str, str]] = []
    for index, value in enumerate(_list(values, field=field, maximum=MAX_CONTACTS)):
        here = f"{field}[{index}]"
        if not isinstance(value, Mapping) or set(value) != {"kind", "uri"}:
            raise InvalidInput(here, "A contact has a kind and a uri, and nothing else.")
        if value["kind"] not in CONTACT_KINDS:
            raise InvalidInput(
                f"{here}.kind", "There is no such kind of contact.", remedy=f"Use one of: {', '.join(CONTACT_KINDS)}."
            )
        entry = {"kind": str(value["kind"]), "uri": contact_uri(value["uri"], field=f"{here}.uri")}
        if entry not in clean:
            clean.append(entry)
    return clean


def contact_uri(value: str, *, field: str = "uri") -> str:
    """A ``mailto:``, ``xmpp:`` or ``https:`` URI that leads somewhere (RFC 6068, RFC 5122, RFC 9110)."""
    if not isinstance(value, str) or len(value) > MAX_URI or not _URI_CHARACTERS.fullmatch(value):
        raise InvalidInput(
            field, "This is not a URI.", remedy=f"Give mailto:, xmpp: or https:, at most {MAX_URI} characters."
        )
    scheme, _, rest = value.partition(":")
    scheme = scheme.lower()
    if scheme == "mailto":
        local, _, host = rest.rpartition("@")
        if not _MAIL_LOCAL.fullmatch(local):
            raise InvalidInput(field, "This is not a mail address.", remedy="Give it as mailto:name@host.")
        return f"mailto:{local}@{DomainName.parse(host, field=field)}"
    if scheme == "xmpp":
        jid, mark, query = rest.partition("?")
        return f"xmpp:{Jid.parse(jid, field=field)}{mark}{query}"
    if scheme == "https":
        return _https(value, field=field)
    raise InvalidInput(field, f"Contacts by {scheme!r} are not supported.", remedy="Use mailto:, xmpp: or https:.")


def _https(value: str, *, field: str) -> str:
    remedy = "Give it as https://host/path."
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(field, "This is not a web address.", remedy=remedy) from error
    if not host or not parts.netloc or parts.username is not None or parts.password is not None:
        raise InvalidInput(field, "This is not a web address.", remedy=remedy)
    DomainName.parse(host, field=field)
    return value


def admins(values: Iterable[str], *, domain: DomainName, field: str = "admins") -> list[str]:
    """Bare JIDs of the instance's own domain; Roost's own account cannot be one."""
    clean: list[str] = []
    for index, value in enumerate(_list(values, field=field, maximum=MAX_ADMINS)):
        jid = Jid.parse(value, field=f"{field}[{index}]")
        if jid.domain != domain:
            raise InvalidInput(
                f"{field}[{index}]", f"{jid} is not on {domain}.", remedy=f"Name accounts of {domain} only."
            )
        if jid.local.text == PROBE_ACCOUNT:
            raise InvalidInput(f"{field}[{index}]", f"{PROBE_ACCOUNT} is reserved for Roost's own checks.")
        if str(jid) not in clean:
            clean.append(str(jid))
    return clean


def blocked(values: Iterable[str], *, domain: DomainName, field: str = "s2s_blocked") -> list[str]:
    """Domains that the server shall not talk to, as A-labels."""
    clean: list[str] = []
    for index, value in enumerate(_list(values, field=field, maximum=MAX_BLOCKED)):
        name = DomainName.parse(value, field=f"{field}[{index}]")
        if name.is_within(domain):
            raise InvalidInput(f"{field}[{index}]", f"{name} is this server itself.", remedy="Leave it out.")
        if name.ascii not in clean:
            clean.append(name.ascii)
    return clean


def labels(values: Mapping[str, str], *, field: str) -> dict[str, str]:
    """Labels of a node, or of what looks for one: ``{"region": "eu-north"}``, sorted by name."""
    if not isinstance(values, Mapping):
        raise InvalidInput(field, "Give labels as an object.", remedy='Such as {"region": "eu-north"}.')
    if len(values) > MAX_LABELS:
        raise InvalidInput(field, "These are too many labels.", remedy=f"At most {MAX_LABELS} are allowed.")
    for name, value in values.items():
        if not (
            isinstance(name, str) and _LABEL.fullmatch(name) and isinstance(value, str) and _LABEL.fullmatch(value)
        ):
            raise InvalidInput(
                field,
                f"The label {str(name)[:80]!r} does not fit.",
                remedy="Names and values are 1 to 63 of a-z, 0-9 and ._/- (these inside only).",
            )
    return dict(sorted(values.items()))


def _list(values: Any, *, field: str, maximum: int) -> list[Any]:
    if not isinstance(values, list | tuple):
        raise InvalidInput(field, "This has to be a list.")
    if len(values) > maximum:
        raise InvalidInput(field, "The list is too long.", remedy=f"At most {maximum} entries are allowed.")
    return list(values)
