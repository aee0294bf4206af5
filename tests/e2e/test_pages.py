"""Each page on a desk and on a phone, in both languages: it fits, says what it is, and complains of nothing.

Pictures of all of them are left in ``reports/pages`` of the tests' state.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.person import Person
from tests.stack.live import ENGINES, Live, Tenant, until

pytestmark = pytest.mark.stack
LOOKS = {
    "desk": {"width": 1280, "height": 860, "locale": "en", "scheme": "light"},
    "desk dark": {"width": 1280, "height": 860, "locale": "de", "scheme": "dark"},
    "phone": {"width": 360, "height": 740, "locale": "de", "scheme": "light"},
}
PAGES = {
    "organisation": "/portal/o/{slug}/",
    "people": "/portal/o/{slug}/people/",
    "invite": "/portal/o/{slug}/people/invite/",
    "incidents": "/portal/o/{slug}/incidents/",
    "server": "/portal/s/{key}/",
    "members": "/portal/s/{key}/members/",
    "member": "/portal/s/{key}/members/romeo/",
    "member-delete": "/portal/s/{key}/members/romeo/delete/",
    "new-member": "/portal/s/{key}/new-member/",
    "import-members": "/portal/s/{key}/import-members/",
    "rooms": "/portal/s/{key}/rooms/",
    "new-room": "/portal/s/{key}/new-room/",
    "room": "/portal/s/{key}/rooms/shown/",
    "room-people": "/portal/s/{key}/rooms/shown/people/",
    "federation": "/portal/s/{key}/federation/",
    "reliability": "/portal/s/{key}/reliability/",
    "password": "/portal/s/{key}/password/",
}
DOORS = {"sign-in": "/portal/", "not-there": "/portal/invitation/nothing/", "entry": "/"}


def looked_at(person: Person, name: str, language: str) -> None:
    """It fits the window, has one heading and a title, is in its language, and all it shows has names."""
    page = person.page
    folder = person.live.state / "reports" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window, f"{name} is {wide} wide in a window of {window}"
    assert page.locator("h1").count() == 1, name
    assert page.title() not in ("", "Roost"), name
    assert page.locator("html").get_attribute("lang") == language, name
    unnamed = page.evaluate(UNNAMED)
    assert unnamed == [], f"{name}: without a name for those who do not see: {unnamed}"


UNNAMED = """
() => [...document.querySelectorAll('button, a[href], input:not([type=hidden]), select, textarea')]
  .filter(one => one.checkVisibility())
  .filter(one => !(one.innerText || '').trim() && !one.getAttribute('aria-label') && !one.getAttribute('title')
    && !(one.labels && one.labels.length) && !one.getAttribute('aria-labelledby')
    && !one.querySelector('[aria-label], title, .visually-hidden'))
  .map(one => one.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def shown(live: Live, tenants: dict[str, Tenant]) -> Tenant:
    """A tenant with members and a room to be seen."""
    tenant = tenants[ENGINES[0]]
    owner = live.account(tenant, "romeo")
    live.account(tenant, "juliet")
    made = live.api.ask("POST", f"{tenant.path}rooms/", {"name": "shown", "owner": owner, "title": "Shown to all"})
    assert made.status in (201, 409)
    return tenant


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("tenant", ENGINES[:1], indirect=True)
def test_pages_of_an_organisation(at_work: Callable[..., Person], shown: Tenant, tenant: Tenant, look: str) -> None:
    person = at_work(**LOOKS[look])
    for name, place in PAGES.items():
        answer = person.page.goto(place.format(slug=shown.slug, key=shown.key))
        assert answer is not None
        assert answer.status == 200, name
        looked_at(person, f"{name} {look}", str(LOOKS[look]["locale"]))


@pytest.mark.parametrize("look", LOOKS)
def test_pages_for_everybody(visit: Callable[..., Person], look: str) -> None:
    person = visit(**LOOKS[look])
    for name, place in DOORS.items():
        answer = person.page.goto(place)
        assert answer is not None
        assert answer.status < 500, name
        looked_at(person, f"{name} {look}", "en" if name == "entry" else str(LOOKS[look]["locale"]))


def test_a_new_server_is_watched_until_it_is_ready(at_work: Callable[..., Person], live: Live, tenant: Tenant) -> None:
    """The page follows by itself: nobody reloads it."""
    born = live.want(tenant.slug, tenant.engine, f"born-{tenant.engine}.roost.example")
    try:
        person = at_work()
        person.go(born)
        before = int(str(person.page.locator("#progress progress").get_attribute("value") or 0))
        assert before < int(str(person.page.locator("#progress progress").get_attribute("max")))
        until(lambda: not person.page.locator("#progress progress").count(), "the page shows that it is ready")
        assert live.api.get(born.path)["ready"]
    finally:
        live.terminate(born)
