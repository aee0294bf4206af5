"""Events: written inside the transaction of what they tell, read from a cursor without gaps."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connection
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from controlplane.reconcile.models import Event
from controlplane.values.errors import InvalidInput

_INSERT = "INSERT INTO reconcile_event (at, txid, kind, object_id, scope, type, reason, message) VALUES "
_VALUES = "(clock_timestamp(), pg_current_xact_id()::text::bigint, %s, %s, %s, %s, %s, %s)"


def record(kind: str, object_id: str, type: str, *, scope: str = "", reason: str = "", message: str = "") -> None:
    """Append one event; visible to followers after the transaction's commit."""
    record_all(kind, object_id, [(type, reason, message)], scope=scope)


def record_all(kind: str, object_id: str, events: Sequence[tuple[str, str, str]], *, scope: str = "") -> None:
    """Append several of one resource, (type, reason, message) each, in this order."""
    if not events:
        return
    with connection.cursor() as cursor:
        cursor.execute(*insert(kind, object_id, events, scope=scope))


def insert(
    kind: str, object_id: str, events: Sequence[tuple[str, str, str]], *, scope: str = ""
) -> tuple[str, list[str]]:
    """The statement of ``record_all`` and its parameters, for whoever sends it with others."""
    values = [value for event in events for value in (kind, object_id, scope, *event)]
    return _INSERT + ", ".join([_VALUES] * len(events)), values


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the history: everything up to and including it was seen. Text form ``txid-id``."""

    txid: int = 0
    id: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        if not text:
            return cls()
        txid, dash, id_ = text.partition("-")
        if not (dash and text.isascii() and txid.isdigit() and id_.isdigit() and len(text) < 60):
            raise InvalidInput("after", "That is no cursor of this history.", remedy="Use a `cursor` from an answer.")
        return cls(int(txid), int(id_))

    @classmethod
    def of(cls, event: Event) -> Cursor:
        return cls(event.txid, event.pk)

    def __str__(self) -> str:
        return f"{self.txid}-{self.id}"


def after(cursor: Cursor, events: QuerySet[Event] | None = None) -> QuerySet[Event]:
    """The events behind the cursor that no running transaction can still precede, oldest first."""
    base = Event.objects.all() if events is None else events
    settled = RawSQL("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", [])
    return (
        base.filter(txid__gte=cursor.txid, txid__lt=settled)
        .exclude(txid=cursor.txid, pk__lte=cursor.id)
        .order_by("txid", "id")
    )


def forget_before(time: datetime.datetime) -> int:
    """Delete the events older than ``time``; how many there were."""
    deleted, _ = Event.objects.filter(at__lt=time).delete()
    return deleted
