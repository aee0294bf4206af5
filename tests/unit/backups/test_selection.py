"""What of a backup is wanted: judged once, kept as JSON, and applied to what the reader gives."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.backups.importing import selected
from controlplane.backups.selection import affiliations, as_json, from_json
from controlplane.portable.items import ArchivePage, FileRead, Item, NotCarried, RoomRead, UserRead
from controlplane.portable.writer import StoredFile
from controlplane.values.errors import InvalidInput

ROOM = (
    "<room xmlns='urn:roost:portable:1' name='lobby'><subject>Words</subject><affiliations>"
    "<item jid='ann@a.example' affiliation='owner'/><item jid='bob@a.example' affiliation='member'/>"
    "</affiliations></room>"
)


def result(day: int) -> str:
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='{day}'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<delay xmlns='urn:xmpp:delay' stamp='2026-05-{day:02}T12:00:00Z'/>"
        "<message xmlns='jabber:client'/></forwarded></result>"
    )


def file(user: str) -> FileRead:
    return FileRead("upload.a.example", StoredFile(user, "", "x", 1, "text/plain", user, "2026-05-01T00:00:00Z"))


ITEMS: list[Item] = [
    UserRead("a.example", "ann", "<user/>"),
    ArchivePage("a.example", "ann", None, tuple(map(result, range(1, 6)))),
    UserRead("a.example", "bob", "<user/>"),
    ArchivePage("a.example", "bob", None, tuple(map(result, range(1, 6)))),
    RoomRead("conference.a.example", "lobby", ROOM),
    ArchivePage("conference.a.example", None, "lobby", tuple(map(result, range(1, 6)))),
    file("ann@a.example"),
    file("bob@a.example"),
    NotCarried("user x", "something", "since"),
]


def taken(**wanted: Any) -> list[Item]:
    return [item for item in selected(ITEMS, from_json(wanted, whole=False)) if not isinstance(item, NotCarried)]


def test_all() -> None:
    assert list(selected(ITEMS, from_json({}, whole=True))) == ITEMS


def test_an_account_has_its_archive_and_its_files() -> None:
    assert taken(accounts=["Ann"]) == [ITEMS[0], ITEMS[1], ITEMS[6]]


def test_a_room_has_its_archive() -> None:
    assert taken(rooms=["lobby"]) == ITEMS[4:6]


def test_a_member_list_has_nothing_else_of_the_room() -> None:
    (found,) = taken(member_lists=["lobby"])
    assert isinstance(found, RoomRead)
    assert affiliations(found.xml) == {"ann@a.example": "owner", "bob@a.example": "member"}
    assert "Words" not in found.xml


def test_a_time_of_the_archives() -> None:
    bounds = {"from": "2026-05-02T00:00:00Z", "to": "2026-05-03T23:59:59+00:00"}
    found = taken(archives=bounds)
    assert [(page.owner, page.room) for page in found] == [("ann", None), ("bob", None), (None, "lobby")]  # type: ignore[union-attr]
    assert all(page.items == (result(2), result(3)) for page in found)  # type: ignore[union-attr]
    assert [page.owner for page in taken(archives={**bounds, "accounts": ["bob"]})] == ["bob"]  # type: ignore[union-attr]


def test_a_time_of_others_archives_leaves_a_whole_account_whole() -> None:
    found = taken(accounts=["ann"], archives={"from": "2026-05-05", "rooms": ["lobby"]})
    assert [len(page.items) for page in found if isinstance(page, ArchivePage)] == [5, 1]


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("selection", {}),
        ("selection.everything", {"everything": True}),
        ("selection.accounts", {"accounts": "ann"}),
        ("selection.accounts", {"accounts": [7]}),
        ("selection.rooms", {"rooms": ["a@b"]}),
        ("selection.rooms", {"rooms": ["x"] * 501}),
        ("selection.exact", {"member_lists": ["lobby"], "exact": "yes"}),
        ("selection.archives", {"archives": []}),
        ("selection.archives", {"archives": {"when": "today"}}),
        ("selection.archives.from", {"archives": {"from": "yesterday"}}),
        ("selection.archives.to", {"archives": {"from": "2026-05-02", "to": "2026-05-01"}}),
    ],
)
def test_what_does_not_fit_is_named(field: str, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_json(wanted, whole=False)
    assert caught.value.field == field


def test_what_is_kept_means_the_same() -> None:
    wanted = {
        "accounts": ["ann"],
        "member_lists": ["lobby"],
        "exact": True,
        "archives": {"from": "2026-05-01T00:00:00+00:00", "rooms": []},
    }
    first = from_json(wanted, whole=False)
    assert from_json(as_json(first), whole=False) == first
