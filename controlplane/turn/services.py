"""Makes, publishes, rotates and removes TURN secrets. The intent row is written first, the server second."""

from __future__ import annotations

import datetime
import secrets

from django.conf import settings
from django.utils import timezone

from controlplane import vault, wiring
from controlplane.reconcile.lease import Lease, holding
from controlplane.turn.models import TurnCredential
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Turn
from tenants.models import Instance

#: A rotated secret stays valid this long: credentials that clients hold were made with it (XEP-0215 «expires»).
RETIRE_AFTER = datetime.timedelta(hours=25)


def _context(instance: Instance) -> str:
    return f"turn:{instance.key}"


def _new_secret(instance: Instance) -> str:
    return vault.seal(_context(instance), Secret(secrets.token_urlsafe(32)))


def ensure_credential(instance: Instance, lease: Lease, known: TurnCredential | None) -> TurnCredential:
    """The row with a secret for the wanted rotation; makes or rotates it if needed.

    ``known``: the row as it was read under this lease, None if there is none: in most passes nothing differs.
    """
    if known is not None and (known.rotation == instance.rotate_turn or known.previous_sealed):
        known.instance = instance
        return known
    with holding(lease):
        credential = TurnCredential.objects.filter(instance=instance).first() if known is not None else None
        if credential is None:
            return TurnCredential.objects.create(
                instance=instance, secret_sealed=_new_secret(instance), rotation=instance.rotate_turn
            )
        # One previous secret is kept at a time: a second rotation waits until the first has retired.
        if credential.rotation != instance.rotate_turn and not credential.previous_sealed:
            credential.previous_sealed = credential.secret_sealed
            credential.retire_at = timezone.now() + RETIRE_AFTER
            credential.secret_sealed = _new_secret(instance)
            credential.rotation = instance.rotate_turn
            credential.save()
        return credential


def is_published(credential: TurnCredential) -> bool:
    """True if the server knows the secret and nothing is left to retire now."""
    driver = wiring.turn_driver()
    if driver is None:
        return True
    due = bool(credential.previous_sealed) and (credential.retire_at or timezone.now()) <= timezone.now()
    return not due and driver.has_secret(vault.unseal(_context(credential.instance), credential.secret_sealed))


def publish(credential: TurnCredential) -> None:
    """Give the secret to the server; take away a previous one whose time is over."""
    driver = wiring.turn_driver()
    if driver is None:
        return
    driver.add_secret(vault.unseal(_context(credential.instance), credential.secret_sealed))
    if credential.previous_sealed and credential.retire_at and credential.retire_at <= timezone.now():
        driver.delete_secret(vault.unseal(_context(credential.instance), credential.previous_sealed))
        credential.previous_sealed, credential.retire_at = "", None
        credential.save()


def is_withheld(instance: Instance) -> bool:
    """True if the server knows none of the instance's secrets."""
    driver = wiring.turn_driver()
    credential = TurnCredential.objects.filter(instance=instance).first()
    if driver is None or credential is None:
        return True
    return not any(driver.has_secret(secret) for secret in _secrets(credential, instance))


def withhold(instance: Instance) -> None:
    """Take the secrets from the server for now; the row stays, and ``publish`` brings the present one back."""
    driver = wiring.turn_driver()
    credential = TurnCredential.objects.filter(instance=instance).first()
    if driver is None or credential is None:
        return
    for secret in _secrets(credential, instance):
        driver.delete_secret(secret)
    if credential.previous_sealed:
        credential.previous_sealed, credential.retire_at = "", None
        credential.save(update_fields=["previous_sealed", "retire_at"])


def remove(instance: Instance) -> None:
    """Take all secrets of an instance from the server, then the row."""
    credential = TurnCredential.objects.filter(instance=instance).first()
    if credential is None:
        return
    driver = wiring.turn_driver()
    if driver is not None:
        for secret in _secrets(credential, instance):
            driver.delete_secret(secret)
    credential.delete()


def _secrets(credential: TurnCredential, instance: Instance) -> list[Secret]:
    """The present one and, during a rotation, the one before."""
    sealed = filter(None, (credential.secret_sealed, credential.previous_sealed))
    return [vault.unseal(_context(instance), text) for text in sealed]


def reveal_secret(instance: Instance) -> Secret | None:
    """The present secret; None if there is none yet."""
    credential = TurnCredential.objects.filter(instance=instance).first()
    return None if credential is None else vault.unseal(_context(instance), credential.secret_sealed)


def announcement(instance: Instance, credential: TurnCredential | None = None) -> Turn | None:
    """What the instance's engine announces by XEP-0215; None without a TURN service or before the secret.

    ``credential``: for whoever has read it.
    """
    conf = settings.ROOST
    if not conf["TURN_HOST"]:
        return None
    credential = credential or TurnCredential.objects.filter(instance=instance).first()
    if credential is None:
        return None
    secret = vault.unseal(_context(instance), credential.secret_sealed)
    return Turn(
        host=DomainName.parse(conf["TURN_HOST"], field="ROOST_TURN_HOST"),
        port=conf["TURN_PORT"],
        secret=secret,
        label=instance.key,
        tls_port=conf["TURN_TLS_PORT"] or None,
    )
