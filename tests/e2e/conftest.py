"""People of organisations with a real browser (Debian's Chromium) in front of the live stack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.e2e.person import Person, watched
from tests.stack.conftest import live, tenant
from tests.stack.live import ENGINES, Live, Tenant

__all__ = ["live", "tenant"]  # fixtures
PASSWORD = "four small boats in a row"


@pytest.fixture(scope="session")
def tenants(live: Live) -> dict[str, Tenant]:
    """Engine -> a tenant that is this set's alone: others run beside it."""
    found = {engine: live.want(f"web-{engine}", engine) for engine in ENGINES}
    live.ready(*found.values())
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, live: Live) -> Iterator[Callable[..., Person]]:
    """Opens a browser of its own each time. What a page complains of on its console fails the test."""
    opened: list[tuple[BrowserContext, list[str]]] = []

    def make(width: int = 1280, height: int = 860, locale: str = "en", scheme: str = "light") -> Person:
        context = browser.new_context(
            base_url=live.layout.web_url,
            viewport={"width": width, "height": height},
            locale=locale,
            color_scheme="dark" if scheme == "dark" else "light",
        )
        context.set_default_timeout(20_000)
        page = context.new_page()
        complaints = watched(page, live.layout.web_url)
        opened.append((context, complaints))
        return Person(page, live)

    yield make
    said = []
    for context, complaints in opened:
        said += complaints
        context.close()
    assert said == []


@pytest.fixture
def owner(live: Live, tenant: Tenant) -> str:
    """The mail address of an owner of the tenant's organisation, whose password is ``PASSWORD``."""
    mail = f"owner@{tenant.slug}.example"
    done = subprocess.run(
        [sys.executable, "manage.py", "bootstrap", "--person", f"{tenant.slug}={mail}"],
        cwd=live.clone,
        env={
            **live.environment,
            "DJANGO_SETTINGS_MODULE": "controlplane.settings.local",
            "ROOST_PERSON_PASSWORD": PASSWORD,
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return mail


@pytest.fixture
def at_work(visit: Callable[..., Person], owner: str, live: Live, tenant: Tenant) -> Callable[..., Person]:
    """Somebody who came from the billing system, in a browser as ``visit`` opens it."""

    def make(**how: object) -> Person:
        person = visit(**how)
        made = live.api.post(f"organisations/{tenant.slug}/login-links/", {"user": owner})
        person.page.goto(made["url"])
        person.page.locator("main form button[type=submit]").click()
        person.page.wait_for_url(f"**/portal/o/{tenant.slug}/")
        return person

    return make
