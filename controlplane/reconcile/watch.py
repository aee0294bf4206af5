"""Which kinds exist, who reconciles them, and who wants to know when one changes.

Upper floors register here when Django starts; this room only calls what was registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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


def changed(name: str, object_id: str | int) -> None:
    """Touch everyone who watches this resource."""
    for watchers_of in _watchers.get(name, []):
        for target_kind, target_id in watchers_of(str(object_id)):
            touch(target_kind, target_id)
