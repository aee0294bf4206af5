"""What a restore would add, change and lose, before anybody says that it is to be done.

Of a whole instance the backup's oracle is compared with what the living engine has; of parts, the backup's own elements
are. Numbers are exact (of messages, by days, where all are compared); names are listed up to a bound.
"""

from __future__ import annotations

from typing import Any

from controlplane.backups import fetching, importing, oracle, restoring, sites
from controlplane.backups.exporting import Watch
from controlplane.backups.mapping import DomainMapping, between
from controlplane.backups.models import Backup, Repository, Restore
from controlplane.backups.reading import Compared, compare, count
from controlplane.backups.selection import Selection, from_json
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import NotCarried, RoomRead, UserRead
from controlplane.portable.tally import Tally
from controlplane.values.names import DomainName
from controlplane.values.spec import Components
from tenants.models import Instance

MOST_ITEMS = 200
FILES = frozenset({"file"})


def selection_of(restore: Restore) -> Selection:
    parts = {name: value for name, value in restore.selection.items() if name not in restoring.WHERE}
    return from_json(parts, whole=restore.mode != Restore.PART)


def engine_of(restore: Restore, instance: Instance) -> str:
    """The engine that it is restored onto."""
    return str(restore.selection.get("engine") or instance.engine)


def domains_of(repository: Repository, instance: Instance) -> dict[str, str]:
    """Old domain -> new one; empty if it is the same instance's name."""
    old, new = DomainName(repository.domain), DomainName(instance.domain.name)
    if old == new:
        return {}
    return between(_kinds(old), old.ascii, _kinds(new), new.ascii)


def _kinds(domain: DomainName) -> dict[str, str]:
    found = Components.below(domain)
    return {"muc": found.muc.ascii, "upload": found.upload.ascii, "proxy": found.proxy.ascii}


def make(restore: Restore, instance: Instance, watch: Watch) -> dict[str, Any]:
    """The preview as JSON. Raises what the engine, its node and the store raise."""
    assert restore.backup is not None
    if restore.mode == Restore.PART:
        return _of_part(restore, restore.backup, instance, watch)
    return _of_whole(restore, restore.backup, instance, watch)


def _of_whole(restore: Restore, backup: Backup, instance: Instance, watch: Watch) -> dict[str, Any]:
    engine = engine_of(restore, instance)
    saved_by = str(backup.engine.get("name", ""))
    domains = domains_of(restore.repository, instance)
    with oracle.opened(backup) as saved, oracle.tally(restore.repository) as present:
        if not restore.selection.get("unseen"):
            _count(instance, present, watch)
        counts = saved.counts()
        # Names of another instance have nothing in common with these: all that is here goes, all that is there comes.
        found = compare(saved, present, most=MOST_ITEMS) if not domains else _replaced(saved, present)
    not_carried = []
    if saved_by and saved_by != engine and counts.get("file"):
        why = f"{engine} cannot have them under the addresses that {saved_by} gave them; they stay in the backup"
        not_carried.append(["uploads", f"{counts['file']} uploaded files", why])
    notes = []
    if saved_by and saved_by != engine:
        notes.append(f"{engine} insists on some settings of rooms and PEP nodes; the report names those that differ.")
    return _shown(found, backup, engine, not_carried) | {
        "counts": counts,
        "domains": domains,
        "files_carried": not not_carried,
        "notes": notes,
        "compared": not restore.selection.get("unseen"),
    }


def _replaced(saved: Tally, present: Tally) -> Compared:
    found = Compared()
    for tally, some in ((saved, found.missing), (present, found.added)):
        for kind, number in tally.counts().items():
            some.total += number
            some.kinds[kind] = number
    return found


def _count(instance: Instance, tally: Tally, watch: Watch) -> None:
    """What the instance has now."""
    site = sites.of_instance(instance)
    with site.files() as files:
        count(site.control, tally, files=files, watch=watch)


def _of_part(restore: Restore, backup: Backup, instance: Instance, watch: Watch) -> dict[str, Any]:
    wanted, domains = selection_of(restore), domains_of(restore.repository, instance)
    site = sites.of_instance(instance)
    with (
        fetching.bundle_of(backup, cancelled=watch.cancelled) as bundle,
        Tally() as saved,
        Tally() as present,
        site.files() as files,
    ):
        mapping = importing.mapping_for(bundle, domains)
        seen, not_carried = _wanted(bundle, wanted, mapping, saved)
        count(site.control, present, files=files, selection=wanted, watch=watch)
        found = compare(saved, present, most=MOST_ITEMS)
    lacking = _lacking(wanted, seen)
    shown = _shown(found, backup, instance.engine, not_carried) | {"domains": domains}
    # What is there beside stays: an import takes nothing away, but for those who are on no saved member list.
    lost = [i for i in found.added.items if wanted.exact and i["kind"] == "affiliation" and i["owner"] in lacking[1]]
    number = sum(1 for _ in lost)
    shown["kept"] = {"total": found.added.total - number}
    shown["lost"] = {"total": number, "kinds": {"affiliation": number} if number else {}, "items": lost}
    shown["not_in_backup"] = lacking[0]
    return shown


def _wanted(
    bundle: Bundle, wanted: Selection, mapping: DomainMapping | None, saved: Tally
) -> tuple[set[tuple[str, str]], list[list[str]]]:
    """Counts what is selected; which accounts and rooms there are of it, and what cannot be read."""
    seen: set[tuple[str, str]] = set()
    not_carried: list[list[str]] = []
    for item in importing.mapped(importing.selected(bundle.items(), wanted), mapping):
        if isinstance(item, NotCarried):
            not_carried.append([item.where, item.what, item.why])
            continue
        if isinstance(item, UserRead | RoomRead):
            seen.add(("account" if isinstance(item, UserRead) else "room", item.name))
        saved.add(importing.facts_of(item))
    saved.flush()
    return seen, not_carried[:MOST_ITEMS]


def _lacking(wanted: Selection, seen: set[tuple[str, str]]) -> tuple[list[str], set[str]]:
    """What was asked for by name and is not in the backup; and the rooms whose member list is."""
    named = [("account", name) for name in sorted(wanted.accounts)]
    named += [("room", name) for name in sorted(wanted.rooms | wanted.member_lists)]
    lists = {name for kind, name in seen if kind == "room" and name in wanted.member_lists}
    return [f"{kind} {name}" for kind, name in named if (kind, name) not in seen], lists


def _shown(found: Compared, backup: Backup, engine: str, not_carried: list[list[str]]) -> dict[str, Any]:
    return {
        "backup": backup.key,
        "moment": backup.moment.isoformat() if backup.moment else None,
        "engine": engine,
        "added": found.missing.as_json(),
        "changed": found.changed.as_json(),
        "lost": found.added.as_json(),
        "not_carried": {"total": len(not_carried), "items": not_carried},
    }
