"""Seals every stored secret anew under the first key of the key file, so that earlier keys can be taken out of it.

Runs beside everything else: a row that changes meanwhile was sealed with the new key by whoever changed it. Answers
to idempotency keys are left alone; they are gone within a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from allauth.mfa.models import Authenticator
from django.core.management.base import BaseCommand
from django.db.models import Model

from controlplane import vault
from controlplane.backups import places, repositories
from controlplane.backups.models import Place, Repository
from controlplane.certificates import accounts, orders
from controlplane.certificates.models import AcmeAccount, Certificate, Order
from controlplane.fleet import keys
from controlplane.fleet.models import Node
from controlplane.monitoring.models import Subscription
from controlplane.provisioning.models import ProbeAccount
from controlplane.turn.models import TurnCredential

Sealed = tuple[type[Model], str, str, Callable[[Any], str]]
#: model, sealed field, what else to load, and what a row's secret is bound to.
SEALED: tuple[Sealed, ...] = (
    (TurnCredential, "secret_sealed", "instance", lambda row: f"turn:{row.instance.key}"),
    (TurnCredential, "previous_sealed", "instance", lambda row: f"turn:{row.instance.key}"),
    (Certificate, "key_sealed", "instance", lambda row: orders.key_context(row.instance.key)),
    (Order, "key_sealed", "certificate__instance", lambda row: orders.key_context(row.certificate.instance.key)),
    (ProbeAccount, "password_sealed", "instance", lambda row: f"probe:{row.instance.key}"),
    (Node, "key_sealed", "", keys.context_of),
    (Node, "next_key_sealed", "", keys.context_of),
    (Subscription, "secret_sealed", "", lambda row: f"subscription:{row.pk}"),
    (AcmeAccount, "key_sealed", "", accounts.key_context),
    (Place, "key_sealed", "", lambda row: places.context_of(row.name, "key")),
    (Place, "environment_sealed", "", lambda row: places.context_of(row.name, "environment")),
    (Repository, "key_sealed", "", lambda row: repositories.context_of(row.key, "key")),
    (Repository, "oracle_key_sealed", "", lambda row: repositories.context_of(row.key, "oracle")),
)

#: Sealed fields in the JSON of a second factor.
FACTORS = ("secret", "seed")


class Command(BaseCommand):
    help = "Seal all stored secrets with the first key of ROOST_MASTER_KEY_FILE; then the others can be removed."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"{sum(1 for _ in reseal())} secrets are sealed with the first key.")


def reseal() -> Iterator[str]:
    """Reseal one after the other; yields what each is bound to. Raises ``Rejected`` for one that no key opens."""
    for model, field, related, context_of in SEALED:
        rows = model._default_manager.exclude(**{field: ""})
        for row in rows.select_related(related) if related else rows:
            context, before = context_of(row), getattr(row, field)
            unchanged = model._default_manager.filter(pk=row.pk, **{field: before})
            unchanged.update(**{field: vault.reseal(context, before)})
            yield context
    yield from _second_factors()


def _second_factors() -> Iterator[str]:
    """Secrets of authenticator apps and seeds of recovery codes, in JSON that allauth keeps (``portal.adapters``)."""
    for row in Authenticator.objects.filter(data__has_any_keys=list(FACTORS)):
        before = dict(row.data)
        fresh = {name: vault.reseal("mfa", before[name]) for name in FACTORS if name in before}
        Authenticator.objects.filter(pk=row.pk, data=before).update(data={**before, **fresh})
        yield "mfa"
