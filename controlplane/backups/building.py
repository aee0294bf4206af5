"""A backup into a scratch, and whether it is all there: what restores of a whole instance and drills have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.backups import fetching, importing, oracle, reading
from controlplane.backups.attempt import Attempt
from controlplane.backups.importing import Taken
from controlplane.backups.models import Backup
from controlplane.backups.reading import Compared
from controlplane.backups.sites import Site
from controlplane.portable.items import Item
from controlplane.portable.tally import Tally
from controlplane.reconcile import faults


@dataclass(frozen=True, slots=True)
class Built:
    """``compared``: what the scratch has not as the backup's oracle has it (as it is mapped). ``checked``: kind -> how
    many there were to compare. ``rewritten``: where addresses got the new names, and how often.
    """

    taken: Taken
    compared: Compared
    checked: dict[str, int]
    rewritten: dict[str, int]


def build(backup: Backup, site: Site, attempt: Attempt, *, domains: Mapping[str, str] | None = None) -> Built:
    """Import all of the backup and compare. May be repeated; raises what the store, the engine and its node raise.

    ``domains``: old -> new, if it is not the same instance. Under other names the oracle cannot be compared with the
    scratch; so the bundle is with the oracle, and the scratch with what the bundle means there.
    """
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(
            fetching.bundle_of(backup, cancelled=attempt.cancelled, on_progress=attempt.fetched)
        )
        saved = stack.enter_context(oracle.opened(backup))
        files = stack.enter_context(site.files())
        faults.point("before-import")
        mapping = importing.mapping_for(bundle, domains or {})
        expected = saved
        differs = Compared()
        if mapping is not None:
            differs = _bundle_against(saved, backup, bundle.items())
            expected = stack.enter_context(oracle.tally(backup.repository))
        taken = importing.take_in(
            site.control,
            bundle.items(),
            root=bundle.root,
            mapping=mapping,
            replace=True,
            files=files,
            expected=expected if mapping is not None else None,
            watch=attempt.watch("importing"),
        )
        faults.point("after-import")
        compared = prove(expected, site, backup, attempt, saved_by=str(backup.engine.get("name", "")))
        for name in ("missing", "changed", "added"):
            _merge(getattr(compared, name), getattr(differs, name))
        return Built(taken, compared, expected.counts(), mapping.report() if mapping is not None else {})


def prove(expected: Tally, site: Site, backup: Backup, attempt: Attempt, *, saved_by: str) -> Compared:
    """What the engine has, read back and compared with what is expected of it."""
    # Each engine has settings of its own, and what it never had it has by default.
    more = reading.SETTINGS if saved_by and saved_by != site.engine else frozenset()
    with oracle.tally(backup.repository) as present, site.files() as files:
        has_files = backup.kind == Backup.FULL
        reading.count(
            site.control,
            present,
            files=files if has_files else None,
            archives=has_files,
            watch=attempt.watch("comparing"),
        )
        return reading.compare(expected, present, tolerate_added=more)


def _bundle_against(saved: Tally, backup: Backup, items: Iterable[Item]) -> Compared:
    with oracle.tally(backup.repository) as found:
        for item in items:
            found.add(importing.facts_of(item))
        return reading.compare(saved, found)


def _merge(into: reading.Counted, more: reading.Counted) -> None:
    into.total += more.total
    into.items = [*more.items, *into.items]
    for kind, number in more.kinds.items():
        into.kinds[kind] = into.kinds.get(kind, 0) + number
