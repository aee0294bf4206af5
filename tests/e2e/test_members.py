"""Members that somebody makes, helps, stops and deletes in a browser, as XMPP clients then see them."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable

import pytest

from controlplane.values.errors import RoostError
from tests.e2e.person import Person
from tests.stack.live import Live, Tenant, until

pytestmark = pytest.mark.stack


def refused(person: Person, tenant: Tenant, local: str, password: str) -> bool:
    try:
        person.login(tenant, local, password)
    except RoostError:
        return True
    return False


def test_a_member_from_the_first_password_to_the_end(at_work: Callable[..., Person], tenant: Tenant) -> None:
    person = at_work()
    person.go(tenant, "members/")
    person.press("New member")
    person.fill(username="browser.made")
    person.press("Make the account")
    assert person.heading() == "The account is there"
    jid, password = (one.inner_text() for one in person.page.locator(".secret .mono").all())
    assert jid == tenant.jid("browser.made")
    person.login(tenant, "browser.made", password)

    person.go(tenant, "members/browser.made/")
    assert person.heading() == "browser.made"
    person.press("Set a new password")
    assert person.heading() == "The password is set"
    second = person.page.locator(".secret .mono").last.inner_text()
    assert second != password
    assert refused(person, tenant, "browser.made", password)
    person.login(tenant, "browser.made", second)

    person.go(tenant, "members/browser.made/")
    person.press("Disable")
    assert person.page.get_by_text("cannot log in any more").is_visible()
    assert refused(person, tenant, "browser.made", second)
    person.press("Enable")
    person.login(tenant, "browser.made", second)

    person.press("Delete this member")
    person.fill(name="someone else")
    person.press("Delete for good")
    assert person.page.get_by_text("This is not the name").is_visible()
    person.fill(name="browser.made")
    person.press("Delete for good")
    person.page.wait_for_url("**/members/")
    assert person.page.get_by_text("is deleted").is_visible()
    assert refused(person, tenant, "browser.made", second)


def test_a_wrong_name_is_told_at_its_field(at_work: Callable[..., Person], tenant: Tenant) -> None:
    person = at_work(width=390)
    person.go(tenant, "new-member/")
    person.fill(username="<b>no</b>@name", password="x")
    person.press("Make the account")
    box = person.page.locator("[name=username]")
    assert box.get_attribute("aria-invalid") == "true"
    told = person.page.locator(f"#{box.get_attribute('aria-describedby').split()[-1]}")  # type: ignore[union-attr]
    assert told.is_visible()
    assert person.page.locator("main b", has_text="no").count() == 0


def test_a_list_is_looked_at_and_taken_in(at_work: Callable[..., Person], live: Live, tenant: Tenant) -> None:
    for name in ("list.one", "list.two"):
        live.api.ask("DELETE", f"{tenant.path}accounts/{name}/")  # of an earlier run against the same stack
    person = at_work()
    person.go(tenant, "import-members/")
    person.fill(text="username,password\nlist.one,\nlist.two,correct horse battery staple\nnot a name!,\n")
    person.press("Preview")
    assert person.heading() == "This would happen"
    names = {row["username"] for row in live.api.all(f"{tenant.path}accounts/")}
    assert not names & {"list.one", "list.two"}
    person.press("Make 2 accounts")
    assert person.heading() == "2 accounts were made"
    href = str(person.page.get_by_role("link", name="Save names and passwords").get_attribute("href"))
    rows = dict(csv.reader(base64.b64decode(href.partition("base64,")[2]).decode().splitlines()))
    person.login(tenant, "list.one", rows[tenant.jid("list.one")])
    person.login(tenant, "list.two", "correct horse battery staple")
    person.go(tenant, "members/?q=list.")
    until(lambda: person.page.locator("tbody tr").count() == 2, "both are found", timeout_s=10)
