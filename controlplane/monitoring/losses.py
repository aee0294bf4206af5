"""What is missing of a roll: pure comparisons, and the words for them.

A roll's content is ``{"rooms": {name: {"settings": {…}, "subject": "…", "affiliations": {jid: …}}}, "members": {name:
{"roster": [count, digest], "bookmarks": [count, digest]}}}``. What is missing has the same shape, with only the old
values that are not there any more, and ``"gone": true`` where the whole of it is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from controlplane.drivers.engine.base import RollMember, RollRoom

Content = dict[str, dict[str, dict[str, Any]]]

#: Words for one and many, by kind of loss; the first that there is names the incident.
CAUSES = ("RoomsLost", "MembersLost", "AffiliationsLost", "RostersLost", "BookmarksLost", "RoomsDiffer")
WORDS = {
    "RoomsLost": ("room", "rooms"),
    "MembersLost": ("account", "accounts"),
    "AffiliationsLost": ("room whose member list lacks somebody", "rooms whose member lists lack somebody"),
    "RostersLost": ("contact list that lacks or has lost something", "contact lists that lack or have lost something"),
    "BookmarksLost": ("member whose bookmarks differ", "members whose bookmarks differ"),
    "RoomsDiffer": ("room with other settings or another subject", "rooms with other settings or other subjects"),
}


def content_of(rooms: Mapping[str, RollRoom], members: Mapping[str, RollMember]) -> Content:
    """As it is stored."""
    return {
        "rooms": {name: dataclasses.asdict(room) for name, room in rooms.items()},
        "members": {
            name: {
                "roster": [member.roster_items, member.roster_digest],
                "bookmarks": [member.bookmarks, member.bookmarks_digest],
            }
            for name, member in members.items()
        },
    }


def missing(before: Content, after: Content) -> Content:
    """What ``before`` (or what was missing until now) has and ``after`` has not; {} if nothing.

    What was added is no loss, and neither is a list that has grown.
    """
    found: Content = {}
    for kind, compare in (("rooms", _room), ("members", _member)):
        present = after.get(kind, {})
        for name, old in before.get(kind, {}).items():
            new = present.get(name)
            left = {**old, "gone": True} if new is None else compare(old, new)
            if left:
                found.setdefault(kind, {})[name] = left
    return found


def _room(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for part in ("settings", "affiliations"):
        differs = {key: value for key, value in old.get(part, {}).items() if new[part].get(key) != value}
        if differs:
            left[part] = differs
    if old.get("subject") and old["subject"] != new["subject"]:
        left["subject"] = old["subject"]
    return left


def _member(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        part: old[part] for part in ("roster", "bookmarks") if part in old and _has_lost(tuple(old[part]), new[part])
    }


def _has_lost(old: tuple[int, str], new: Collection[Any]) -> bool:
    """Fewer than before, or as many but not the same ones."""
    count, digest = new
    if count != old[0]:
        return bool(count < old[0])
    # Digests that are made in another way (an engine's module was changed) say nothing.
    alike = str(digest).partition(":")[0] == old[1].partition(":")[0]
    return alike and digest != old[1]


def without(content: Content, names: Mapping[str, Collection[str]]) -> Content:
    """``content`` less the named rooms and members: those that were changed on purpose."""
    return {
        kind: {name: entry for name, entry in entries.items() if name not in names.get(kind, ())}
        for kind, entries in content.items()
    }


def merged(one: Content, other: Content) -> Content:
    """Both. Of a name that both know, ``one`` counts, and what ``other`` has besides."""
    found: Content = {}
    for kind in ("rooms", "members"):
        for name in [*one.get(kind, {}), *other.get(kind, {})]:
            mine, theirs = one.get(kind, {}).get(name, {}), other.get(kind, {}).get(name, {})
            both = {**theirs, **mine}
            for part in ("settings", "affiliations"):
                if part in mine and part in theirs:
                    both[part] = {**theirs[part], **mine[part]}
            found.setdefault(kind, {})[name] = both
    return found


def counted(lost: Content) -> dict[str, int]:
    """Cause -> how many, without those that are none; in the order of ``CAUSES``."""
    rooms, members = list(lost.get("rooms", {}).values()), list(lost.get("members", {}).values())
    there = [room for room in rooms if not room.get("gone")]
    present = [member for member in members if not member.get("gone")]
    counts = {
        "RoomsLost": len(rooms) - len(there),
        "MembersLost": len(members) - len(present),
        "AffiliationsLost": sum(1 for room in there if "affiliations" in room),
        "RostersLost": sum(1 for member in present if "roster" in member),
        "BookmarksLost": sum(1 for member in present if "bookmarks" in member),
        "RoomsDiffer": sum(1 for room in there if "settings" in room or "subject" in room),
    }
    return {cause: counts[cause] for cause in CAUSES if counts[cause]}


def words(lost: Content) -> str:
    """Counts in words and no names: they are for the organisation alone."""
    parts = [f"{count} {WORDS[cause][count != 1]}" for cause, count in counted(lost).items()]
    return ", ".join(parts)
