"""What a person does and sees in a browser, and what the browser says of the pages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Response

from tests.stack.live import Live, Tenant


def watched(page: Page, base: str) -> list[str]:
    """Fills with what goes wrong: errors of scripts, breaches of the policy, missing files, calls elsewhere."""
    found: list[str] = []

    def console(message: ConsoleMessage) -> None:
        # A page that is refused on purpose is told of here, too; tests look at its status themselves.
        if message.type == "error" and "the server responded with a status of 4" not in message.text:
            found.append(f"{page.url}: {message.text}")

    def response(answer: Response) -> None:
        if not answer.url.startswith(("data:", base)):
            found.append(f"{page.url} asks {urlsplit(answer.url).netloc}")
        elif answer.status >= 500 or (answer.status >= 400 and "/static/" in answer.url):
            found.append(f"{answer.url}: {answer.status}")

    page.on("console", console)
    page.on("pageerror", lambda error: found.append(f"{page.url}: {error}"))
    page.on("response", response)
    return found


def aside(work: Callable[[], Any]) -> None:
    """Do it in a thread of its own: this one is the browser's, with a loop of events that runs."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (told to the test below)
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@dataclass
class Person:
    page: Page
    live: Live

    def go(self, tenant: Tenant, place: str = "") -> None:
        """To a page of the tenant's server."""
        self.page.goto(f"/portal/s/{tenant.key}/{place}")

    def press(self, name: str) -> None:
        """A button, or a link that looks like one, of the page itself."""
        button = self.page.locator("main").get_by_role("button", name=name)
        (button if button.count() else self.page.locator("main").get_by_role("link", name=name)).first.click()

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.locator(f"main [name={name}]").first.fill(value)

    def heading(self) -> str:
        return self.page.locator("h1").inner_text()

    def login(self, tenant: Tenant, local: str, password: str) -> None:
        """Into XMPP, as a stranger's client does."""
        tenant.passwords[local] = password
        aside(lambda: self.live.login(tenant, local))
