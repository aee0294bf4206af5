"""Which kinds exist, who reconciles them, and who wants to know when one changes.

Upper floors register here when Django starts; this room only calls what was registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.module_loading import import_string

from controlplane.reconcile import lease as leases
from controlplane.reconcile.lease import Lease


@dataclass(frozen=True, slots=True)
class Next:
    """When to look at the resource again; ``failed`` makes the next failure wait longer."""

    after_s: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource. ``reconcile`` runs one pass; None from it means that the resource is gone."""

    name: str
    queue: str
    reconcile: Callable[[Lease], Next | None]
    lease_s: float = leases.LEASE_S


_kinds: dict[str, Kind] = {}
_queues: dict[str, str] = {}
_watchers: dict[str, list[Callable[[str], Iterable[tuple[str, str]]]]] = {}


def declare(name: str, queue: str) -> None:
    """Name a kind and its queue, for those who touch it and must not know who reconciles it."""
    _queues[name] = queue


def register(name: str, reconcile: str, *, lease_s: float = leases.LEASE_S) -> None:
    """Say who reconciles a declared kind: the dotted path of a function, imported when the first pass needs it."""

    def call(lease: Lease) -> Next | None:
        function: Callable[[Lease], Next | None] = import_string(reconcile)
        return function(lease)

    _kinds[name] = Kind(name, _queues[name], call, lease_s)


def kind(name: str) -> Kind | None:
    return _kinds.get(name)


def watch(name: str, watchers_of: Callable[[str], Iterable[tuple[str, str]]]) -> None:
    """When a resource of kind ``name`` changes, touch the (kind, id) pairs that ``watchers_of(id)`` gives."""
    _watchers.setdefault(name, []).append(watchers_of)


def touch(name: str, object_id: str | int, *, after_s: float = 0.0) -> None:
    """Make a resource due; see ``lease.touch``."""
    leases.touch(name, str(object_id), _queues[name], after_s=after_s)


def touch_all(name: str, object_ids: Sequence[str], *, spread_s: float = 0.0) -> None:
    """Make many due, over ``spread_s`` seconds; see ``lease.touch_all``."""
    leases.touch_all(name, object_ids, _queues[name], spread_s=spread_s)


def touch_now(name: str, object_ids: Iterable[str]) -> None:
    """Make these due at once in one statement; see ``lease.touch_now``."""
    leases.touch_now((name, object_id, _queues[name]) for object_id in object_ids)


def changed(name: str, object_id: str | int, *, along_with: Sequence[tuple[str, Sequence[Any]]] = ()) -> None:
    """Touch everyone who watches this resource, in one statement; ``along_with``: as ``lease.touch_now`` takes it."""
    targets = [target for watchers_of in _watchers.get(name, []) for target in watchers_of(str(object_id))]
    leases.touch_now([(kind, id, _queues[kind]) for kind, id in targets], along_with=along_with)
