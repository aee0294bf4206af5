"""Which root certificates instances and checks trust: the CA's own, the operator's, the system's."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db.models import QuerySet

from controlplane.certificates.models import AcmeAccount
from controlplane.drivers.ca.roots import system_bundle
from controlplane.values.errors import Rejected, Unavailable


def own_roots() -> str:
    """The roots that the configured CA published, PEM; empty if it publishes none or they are not known yet."""
    return own_roots_query().first() or ""


def own_roots_query() -> QuerySet[AcmeAccount, str]:
    """Gives ``own_roots`` or nothing, also as part of another query."""
    account = AcmeAccount.objects.filter(directory_url=settings.ROOST["ACME_DIRECTORY"])
    return account.values_list("roots_pem", flat=True)


def extra_roots() -> str:
    """The text of ROOST_TRUST_EXTRA_FILE; empty without one. ``Rejected`` if it cannot be read."""
    path = settings.ROOST["TRUST_EXTRA_FILE"]
    if not path:
        return ""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeError) as error:
        raise Rejected(
            f"ROOST_TRUST_EXTRA_FILE cannot be read: {error}.", remedy="Give the path of a PEM file."
        ) from error


def trust_roots(own: str | None = None) -> str | None:
    """All that is trusted, PEM; None: the system's roots and nothing else. ``own``: ``own_roots``, if they are read.

    Raises ``Unavailable`` if the system's are not to be trusted and no other root is known yet.
    """
    special = special_roots(own)
    if settings.ROOST["TRUST_SYSTEM"]:
        return _joined(special, system_bundle()) if special else None
    if not special:
        raise Unavailable(
            "No trusted root certificate is known yet.", remedy="Set ROOST_TRUST_EXTRA_FILE or ROOST_TRUST_SYSTEM=1."
        )
    return special


def special_roots(own: str | None = None) -> str:
    """The roots beside the system's, PEM; empty if there are none."""
    return _joined(own_roots() if own is None else own, extra_roots())


def all_roots(own: str | None = None) -> str:
    """As ``trust_roots``, with the system's roots written out; empty if there are none at all."""
    return _joined(special_roots(own), system_bundle() if settings.ROOST["TRUST_SYSTEM"] else "")


def _joined(*texts: str) -> str:
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts if text.strip())
