"""Rooms that somebody makes and changes in a browser, as the engine tells them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.person import Person
from tests.stack.live import Live, Tenant

pytestmark = pytest.mark.stack


def test_a_room_its_settings_and_its_list(at_work: Callable[..., Person], live: Live, tenant: Tenant) -> None:
    live.account(tenant, "romeo")
    live.account(tenant, "juliet")
    person, room = at_work(), f"{tenant.path}rooms/garden/"
    person.go(tenant, "new-room/?preset=private")
    assert person.page.locator("input[name=preset][value=private]").is_checked()
    person.fill(name="garden", title="Der Garten & <Hof>", owner="romeo")
    person.press("Make the room")
    person.page.wait_for_url("**/rooms/garden/**")
    made = live.api.get(room)
    assert (made["title"], made["access"], made["listed"]) == ("Der Garten & <Hof>", "members", False)
    assert made["affiliations"] == {tenant.jid("romeo"): "owner"}

    person.go(tenant, "rooms/garden/")
    assert person.heading() == "Der Garten & <Hof>"
    person.page.locator("[name=moderated]").check()
    person.page.locator("[name=listed]").check()
    person.page.select_option("[name=access]", "open")
    person.fill(language="de")
    person.press("Save")
    person.page.wait_for_load_state()
    changed = live.api.get(room)
    told = (changed["moderated"], changed["listed"], changed["access"], changed["language"], changed["persistent"])
    assert told == (True, True, "open", "de", True)

    person.go(tenant, "rooms/garden/people/")
    person.fill(jid="juliet")
    person.page.select_option("[name=affiliation]", "member")
    person.press("Add")
    person.page.wait_for_load_state()
    assert live.api.get(room)["affiliations"][tenant.jid("juliet")] == "member"
    person.page.locator(f"input[name='as:{tenant.jid('juliet')}'][value=outcast]").check(force=True)
    person.press("Save changes")
    person.page.wait_for_load_state()
    assert live.api.get(room)["affiliations"][tenant.jid("juliet")] == "outcast"

    person.go(tenant, "rooms/garden/delete/")
    person.fill(name="garden")
    person.page.locator("main form button[type=submit]").click()
    person.page.wait_for_url("**/rooms/")
    assert live.api.ask("GET", room).status == 404
