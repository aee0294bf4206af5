"""Our account at the configured CA: made once, kept sealed, registered again if the CA forgot it."""

from __future__ import annotations

import logging
import threading

from django.conf import settings

from controlplane import vault
from controlplane.certificates.models import AcmeAccount
from controlplane.drivers.ca.acme import Acme, new_account_key
from controlplane.reconcile import faults
from controlplane.values.secret import Secret

log = logging.getLogger(__name__)

_local = threading.local()


def key_context(row: AcmeAccount) -> str:
    """What an account's key is sealed with."""
    return _context(row.directory_url)


def _context(directory_url: str) -> str:
    return f"acme-account:{directory_url}"


def account() -> AcmeAccount:
    """The row of the configured directory, with its key from the start: the intent, before the CA knows of it."""
    url = settings.ROOST["ACME_DIRECTORY"]
    found = AcmeAccount.objects.filter(directory_url=url).first()
    if found is None:
        sealed = vault.seal(_context(url), new_account_key())
        found, _ = AcmeAccount.objects.get_or_create(directory_url=url, defaults={"key_sealed": sealed})
    return found


def client() -> Acme:
    """This thread's connection to the CA, with an account that is registered. Raises the driver's errors."""
    row, ca_file = account(), settings.ROOST["ACME_CA_FILE"]
    identity = (row.pk, row.uri, row.key_sealed, ca_file)
    if getattr(_local, "identity", None) != identity:
        key = vault.unseal(_context(row.directory_url), row.key_sealed)
        _local.client = Acme(row.directory_url, key, account_uri=row.uri, ca_file=ca_file)
        _local.identity = identity
    acme: Acme = _local.client
    if not row.uri:
        _register(row, acme)
        _local.identity = (row.pk, row.uri, row.key_sealed, ca_file)
    return acme


def _register(row: AcmeAccount, acme: Acme) -> None:
    conf = settings.ROOST
    # The CA finds the account by its key, so a crash before the URI is stored makes no second one.
    row.uri = acme.register(
        contact=conf["ACME_CONTACT"],
        eab_kid=conf["ACME_EAB_KID"],
        eab_hmac=Secret(conf["ACME_EAB_HMAC"]) if conf["ACME_EAB_HMAC"] else None,
    )
    faults.point("acme-registered")
    AcmeAccount.objects.filter(pk=row.pk).update(uri=row.uri)
    log.info("registered the account %s at %s", row.uri, row.directory_url)


def forget() -> None:
    """The CA does not know the account: this thread's next ``client()`` registers it again, with the same key."""
    identity = getattr(_local, "identity", None)
    if identity is not None:
        AcmeAccount.objects.filter(pk=identity[0], uri=identity[1]).update(uri="")
    _local.identity = None
