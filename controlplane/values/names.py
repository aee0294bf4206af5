"""Domain names and JIDs as values: parsed once, at the border, and trusted inside.

Domain names are kept as A-labels (RFC 5890); U-labels are made only for people. What is refused here
never reaches a server's configuration, DNS, a shell or XML.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass

import idna

from controlplane.values.errors import InvalidInput

_LDH_LABEL = re.compile(r"^(?!-)[a-z0-9-]{1,63}(?<!-)$")
_SERVICE_LABEL = re.compile(r"^_?[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")
#: RFC 7622 §3.3.1 forbids these in a localpart; we refuse white space and controls on top.
_LOCALPART_FORBIDDEN = frozenset("\"&'/:<>@")
MAX_LOCALPART_BYTES = 255  # Prosody 0.12 and ejabberd keep 1023; file names and columns do not.


@dataclass(frozen=True, slots=True, order=True)
class DomainName:
    """A host or domain name of two or more labels, in lower-case A-labels, without the final dot."""

    ascii: str

    @classmethod
    def parse(cls, text: str, *, field: str = "domain") -> DomainName:
        """From what a person typed (U-labels, capitals, a final dot). IDNA 2008 (RFC 5891), non-transitional.

        Raises ``InvalidInput`` that names the field, the reason and the remedy.
        """
        if not isinstance(text, str):
            raise InvalidInput(field, "A domain name has to be text.")
        raw = unicodedata.normalize("NFC", text).strip().rstrip(".")
        if not raw:
            raise InvalidInput(field, "The domain name is empty.", remedy="Give a name such as chat.example.org.")
        if len(raw) > 1000:
            raise InvalidInput(field, "The domain name is far too long.", remedy="At most 253 characters are allowed.")
        if any(ord(c) < 33 or c.isspace() or unicodedata.category(c).startswith("C") for c in raw):
            raise InvalidInput(field, "The domain name has spaces or control characters in it.", remedy="Remove them.")
        try:
            ipaddress.ip_address(raw.strip("[]"))
        except ValueError:
            pass
        else:
            raise InvalidInput(field, f"{raw} is an IP address.", remedy="Give a domain name instead.")
        try:
            ascii_name = idna.encode(raw.lower(), uts46=True, transitional=False, strict=True).decode("ascii").lower()
        except (idna.IDNAError, UnicodeError, IndexError) as error:
            raise InvalidInput(
                field, f"{raw!r} is not a valid domain name: {error}.", remedy="Use letters, digits, hyphens and dots."
            ) from error
        labels = ascii_name.split(".")
        if len(labels) < 2:
            raise InvalidInput(
                field, f"{raw!r} has only one label.", remedy="Give a full name such as chat.example.org."
            )
        if len(ascii_name) > 253:
            raise InvalidInput(field, "The domain name is too long.", remedy="At most 253 characters are allowed.")
        if not all(_LDH_LABEL.match(label) for label in labels):
            raise InvalidInput(
                field, f"{raw!r} is not a valid host name.", remedy="Use letters, digits, hyphens and dots."
            )
        if labels[-1].isdigit():
            raise InvalidInput(field, f"{raw} looks like an IP address.", remedy="Give a domain name instead.")
        return cls(ascii_name)

    @property
    def unicode(self) -> str:
        """The name in U-labels, for pages and mail only."""
        try:
            return str(idna.decode(self.ascii))
        except idna.IDNAError:
            return self.ascii

    def child(self, label: str) -> DomainName:
        """``label.self``. Raises ``ValueError`` for a label that is no host or service label."""
        for part in label.split("."):
            if not _SERVICE_LABEL.match(part):
                raise ValueError(f"not a label: {part!r}")
        return DomainName(f"{label}.{self.ascii}")

    def is_within(self, other: DomainName) -> bool:
        """True if this is ``other`` or a name below it."""
        return self.ascii == other.ascii or self.ascii.endswith("." + other.ascii)

    @property
    def parent(self) -> DomainName:
        """The name without its first label."""
        return DomainName(self.ascii.split(".", 1)[1])

    def __str__(self) -> str:
        return self.ascii


@dataclass(frozen=True, slots=True, order=True)
class Localpart:
    """The part of a JID before the ``@``: an account's or a room's name (RFC 7622 §3.3)."""

    text: str

    @classmethod
    def parse(cls, text: str, *, field: str = "username") -> Localpart:
        """NFC, lower case, no white space, no control characters, none of ``" & ' / : < > @``.

        Stricter than the RFC on purpose: what two engines normalise differently is refused.
        """
        if not isinstance(text, str):
            raise InvalidInput(field, "The name has to be text.")
        name = unicodedata.normalize("NFC", text).lower()
        if not name:
            raise InvalidInput(field, "The name is empty.", remedy="Give at least one letter or digit.")
        if any(unicodedata.category(c) == "Cs" for c in name):  # JSON can carry them, UTF-8 cannot
            raise InvalidInput(field, "The name has half characters (surrogates) in it.", remedy="Remove them.")
        if len(name.encode()) > MAX_LOCALPART_BYTES:
            raise InvalidInput(
                field, "The name is too long.", remedy=f"At most {MAX_LOCALPART_BYTES} bytes are allowed."
            )
        bad = sorted({c for c in name if c in _LOCALPART_FORBIDDEN or c.isspace()})
        if bad or any(unicodedata.category(c)[0] in "CZ" for c in name):
            shown = " ".join(bad) or "invisible characters"
            raise InvalidInput(
                field, f"The name has characters that a JID cannot carry: {shown}.", remedy="Remove them."
            )
        if unicodedata.normalize("NFKC", name) != name:
            raise InvalidInput(
                field, "The name has compatibility characters that servers would change.", remedy="Use plain letters."
            )
        return cls(name)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, order=True)
class Jid:
    """A bare JID, ``localpart@domain`` (RFC 7622)."""

    local: Localpart
    domain: DomainName

    @classmethod
    def parse(cls, text: str, *, field: str = "jid") -> Jid:
        """From ``user@host``. A resource is refused: affiliations and admins are bare."""
        local, at, domain = str(text).partition("@")
        if not at:
            raise InvalidInput(field, f"{text!r} is not a JID.", remedy="Give it as name@domain.")
        if "/" in domain:
            raise InvalidInput(
                field, "A JID with a resource does not fit here.", remedy="Leave out the part after the /."
            )
        return cls(Localpart.parse(local, field=field), DomainName.parse(domain, field=field))

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"
