"""How people come in: a password, a billing system's link, an invitation; and what keeps others out."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.e2e.conftest import PASSWORD
from tests.e2e.person import Person
from tests.stack.live import Live, Tenant

pytestmark = pytest.mark.stack


def sign_in(person: Person, mail: str, password: str) -> None:
    person.page.goto("/portal/")
    assert "/login/" in person.page.url
    person.page.fill("[name=login]", mail)
    person.page.fill("[name=password]", password)
    person.page.get_by_role("button", name="Sign in", exact=True).click()
    person.page.wait_for_load_state()


def test_a_password_leads_in_and_a_wrong_one_does_not(visit: Callable[..., Person], owner: str, tenant: Tenant) -> None:
    person = visit()
    sign_in(person, owner, PASSWORD[:-1])
    assert person.page.locator("[role=alert]").first.is_visible()
    sign_in(person, owner, PASSWORD)
    person.page.wait_for_url(f"**/portal/o/{tenant.slug}/")
    assert person.heading() == f"Tests {tenant.slug}"
    assert person.page.locator("main").get_by_role("link", name=tenant.domain).first.is_visible()
    person.page.goto("/accounts/logout/")
    person.page.locator("main").get_by_role("button", name="Sign out").click()
    person.page.wait_for_load_state()
    answer = person.page.goto(f"/portal/s/{tenant.key}/")
    assert answer is not None
    assert "login" in person.page.url


def test_a_link_of_the_billing_system_is_good_once(
    visit: Callable[..., Person], owner: str, live: Live, tenant: Tenant
) -> None:
    made = live.api.post(f"organisations/{tenant.slug}/login-links/", {"user": owner})
    first, second = visit(), visit()
    first.page.goto(made["url"])
    first.page.locator("main form button[type=submit]").click()
    first.page.wait_for_url(f"**/portal/o/{tenant.slug}/")
    second.page.goto(made["url"])
    second.page.locator("main form button[type=submit]").click()
    second.page.wait_for_load_state()
    assert second.heading() == "This link does not count any more"
    second.page.goto("/portal/")
    assert "login" in second.page.url


def test_a_colleague_is_invited_and_sees_what_the_role_allows(
    at_work: Callable[..., Person], visit: Callable[..., Person], tenant: Tenant
) -> None:
    host, mail = visit(), f"reader-{os.urandom(4).hex()}@{tenant.slug}.example"
    sign_in(host, f"owner@{tenant.slug}.example", PASSWORD)
    host.page.goto(f"/portal/o/{tenant.slug}/people/invite/")
    host.fill(email=mail)
    host.page.locator("input[name=role][value=reader]").check()
    host.press("Invite")
    link = host.page.locator(".secret .mono").inner_text()

    guest = visit(width=390)
    guest.page.goto(link)
    assert guest.heading() == f"Join Tests {tenant.slug}"
    guest.page.fill("[name=first_name]", "Rita Reader")
    guest.page.fill("[name=password]", PASSWORD)
    guest.page.get_by_role("button", name="Make my account and join").click()
    guest.page.wait_for_load_state()
    assert guest.page.locator("[role=alert]").all_inner_texts() == []
    guest.page.wait_for_url(f"**/portal/o/{tenant.slug}/")
    guest.go(tenant, "members/")
    assert guest.heading() == "Members"
    assert guest.page.get_by_role("link", name="New member").count() == 0
    refused = guest.page.goto(f"/portal/s/{tenant.key}/new-member/")
    assert refused is not None
    assert refused.status == 403

    again = visit()
    again.page.goto(link)
    assert again.page.get_by_role("button", name="Make my account and join").count() == 0


def test_nobody_sees_anothers_server(
    at_work: Callable[..., Person], tenants: dict[str, Tenant], tenant: Tenant
) -> None:
    person = at_work()
    other = next(one for one in tenants.values() if one.key != tenant.key)
    for place in (f"o/{other.slug}/", f"s/{other.key}/", f"s/{other.key}/members/", f"s/{other.key}/rooms/"):
        answer = person.page.goto(f"/portal/{place}")
        assert answer is not None
        assert answer.status == 404, place
        assert other.domain not in person.page.content()
