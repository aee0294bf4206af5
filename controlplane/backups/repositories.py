"""The repository of an instance: its row, its keys, and the tenant's own key.

It is made at its place by the first backup. Backups in it are ``saving``'s, its upkeep and its end are ``keeping``'s.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from controlplane import vault, wiring
from controlplane.backups import places
from controlplane.backups.models import Place, Repository, row_key
from controlplane.drivers.store import base as store
from controlplane.reconcile import history
from controlplane.values.errors import Rejected
from controlplane.values.secret import Secret
from tenants import audit
from tenants.errors import WrongState
from tenants.models import Instance
from tenants.principal import Principal

#: Of the tenant's key, in the repository's own list of keys.
TENANT_LABEL = "tenant"
#: Adding and removing keys costs seconds each by design.
KEY_RUN = store.Run(timeout_s=180.0, patience_s=20.0)


class NoPlace(Rejected):
    """No place for backups is set up."""


@transaction.atomic
def ensure(instance: Instance) -> Repository:
    """The instance's row, made at the default place if there is none. ``NoPlace`` if there is none of those either."""
    found = Repository.objects.select_related("place").filter(instance=instance).first()
    if found is not None:
        return found
    place = Place.objects.filter(is_default=True).first()
    if place is None:
        raise NoPlace("There is no place for backups.", remedy="The operator sets one up: docs/backups.md.")
    key = row_key()
    made, _ = Repository.objects.get_or_create(
        instance=instance,
        defaults={
            "key": key,
            "place": place,
            "organisation": instance.organisation,
            "instance_key": instance.key,
            "domain": instance.domain.name,
            "organisation_slug": instance.organisation.slug,
            "url": places.below(place, instance.key),
            "key_sealed": vault.seal(context_of(key, "key"), Secret(secrets.token_urlsafe(32))),
            "oracle_key_sealed": vault.seal(context_of(key, "oracle"), Secret(secrets.token_hex(32))),
        },
    )
    return made


def opened(repository: Repository) -> store.Repository:
    """It with its key, for the driver."""
    key = vault.unseal(context_of(repository.key, "key"), repository.key_sealed)
    return places.opened(repository.place, repository.url, key)


def oracle_key(repository: Repository) -> bytes:
    """Of the digests in its oracles."""
    return bytes.fromhex(vault.unseal(context_of(repository.key, "oracle"), repository.oracle_key_sealed).reveal())


def make(repository: Repository, *, run: store.Run) -> None:
    """Make it at its place, once. Afterwards an empty place is an error and no reason to begin anew: a disk that is
    not mounted looks the same.
    """
    if repository.made_at is None:
        wiring.store_driver().create(opened(repository), run=run)
        repository.made_at = timezone.now()
        Repository.objects.filter(pk=repository.pk, made_at=None).update(made_at=repository.made_at)


@dataclass(frozen=True, slots=True)
class HandedOut:
    """A key of the tenant's own: it is shown now, and kept nowhere. ``command``: how restic is told of it."""

    key: Secret
    key_id: str
    url: str
    command: str
    at: datetime.datetime


def hand_out_key(*, repository: Repository, principal: Principal) -> HandedOut:
    """Let a new key of the tenant's own open the repository; one that was handed out before opens it no more.

    Takes several seconds. ``WrongState`` before the first backup.
    """
    if repository.made_at is None:
        raise WrongState("There is no backup yet.", remedy="Wait for the first, or ask for one.")
    driver, there = wiring.store_driver(), opened(repository)
    key = Secret(secrets.token_urlsafe(32))
    key_id = driver.add_key(there, key, label=TENANT_LABEL, run=KEY_RUN)
    for other in driver.keys(there, run=KEY_RUN):
        if other.user == TENANT_LABEL and not other.current and not _same(other.id, key_id):
            driver.remove_key(there, other.id, run=KEY_RUN)
    now = timezone.now()
    with transaction.atomic():
        Repository.objects.filter(pk=repository.pk).update(tenant_key_id=key_id, tenant_key_at=now)
        _note(repository, principal, "backup_key.hand_out", "A key of the tenant's own was handed out")
    return HandedOut(key, key_id, repository.url, f"restic -r {repository.url} snapshots", now)


def take_back_key(*, repository: Repository, principal: Principal) -> bool:
    """No key of the tenant's opens it any more. False if there was none. A copy made before stays open to it."""
    if repository.made_at is None:
        return False
    driver, there = wiring.store_driver(), opened(repository)
    taken = False
    for other in driver.keys(there, run=KEY_RUN):
        if other.user == TENANT_LABEL and not other.current:
            taken = driver.remove_key(there, other.id, run=KEY_RUN) or taken
    with transaction.atomic():
        Repository.objects.filter(pk=repository.pk).update(tenant_key_id="", tenant_key_at=None)
        if taken:
            _note(repository, principal, "backup_key.take_back", "The tenant's own key was taken back")
    return taken


def _same(one: str, other: str) -> bool:
    """Ids are told in full or by their beginning."""
    return one.startswith(other) or other.startswith(one)


def kept() -> Q:
    """Those of instances that are gone."""
    return Q(terminated_at__isnull=False)


def context_of(key: str, what: str) -> str:
    return f"backup-{what}:{key}"


def _note(repository: Repository, principal: Principal, action: str, summary: str) -> None:
    scope = repository.organisation_slug if repository.organisation_id else ""
    audit.record(
        principal=principal,
        action=action,
        kind="BackupRepository",
        object_id=repository.key,
        organisation=scope,
        summary=f"{repository.domain}: {summary}",
    )
    history.record("Instance", repository.instance_key, "BackupKeyChanged", scope=scope, message=summary)
