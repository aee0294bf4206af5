"""Seals every stored secret anew under the first key of the key file, so that earlier keys can be taken out of it.

Runs beside everything else: a row that changes meanwhile was sealed with the new key by whoever changed it. Answers
to idempotency keys are left alone; they are gone within a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import Model

from controlplane import vault
from controlplane.certificates import accounts, orders
from controlplane.certificates.models import AcmeAccount, Certificate, Order
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
    (AcmeAccount, "key_sealed", "", accounts.key_context),
)


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
