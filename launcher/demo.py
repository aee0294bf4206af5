"""The demonstration: two organisations with a server each, and two people in each, made through the REST API only.

What exists is found and kept, so a second run, or one after a break, makes only what is missing.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher import files, keys
from launcher.errors import Problem
from launcher.layout import ZONE, Layout
from launcher.progress import Progress
from launcher.rest import Api, Refused
from launcher.up import OPERATOR, Up, manage

READY_TIMEOUT_S = 300
POLL_S = 0.5
PLAN = "standard"


@dataclass(frozen=True, slots=True)
class Tenant:
    """``people``: local parts of the two accounts."""

    slug: str
    name: str
    engine: str
    people: tuple[str, str]

    @property
    def domain(self) -> str:
        return f"{self.slug}.{ZONE}"


TENANTS = (
    Tenant("acme", "Acme Corporation", "prosody", ("alice", "amir")),
    Tenant("globex", "Globex Incorporated", "ejabberd", ("bob", "gita")),
)


def provision(layout: Layout, up: Up, progress: Progress, tenants: Sequence[Tenant] = TENANTS) -> None:
    """Make what is missing of the tenants and wait until both are Ready."""
    api = Api(layout.web_url, up.secrets.token)
    with progress.step("Organisations and instances") as say:
        keys = {tenant: _instance(api, tenant, again=up.started) for tenant in tenants}
        say(", ".join(tenant.slug for tenant in tenants))
    _watch(api, {tenant.slug: key for tenant, key in keys.items()}, progress)
    with progress.step("Chat accounts") as say:
        made = _accounts(layout, api, keys)
        say(f"{made} made" if made else "as they are")
    with progress.step("Portal login"):
        _portal_login(layout, up, tenants[0])


def _portal_login(layout: Layout, up: Up, tenant: Tenant) -> None:
    """An owner of the first tenant. The password is kept before it counts, as those of the chat accounts are."""
    kept = portal_login_of(layout) or {"mail": f"owner@{tenant.domain}", "password": secrets.token_urlsafe(15)}
    files.write(layout.state / "portal-login", json.dumps(kept) + "\n", mode=0o600)
    person = ["bootstrap", "--person", f"{tenant.slug}={kept['mail']}"]
    manage(layout, up.environment, person, timeout_s=120, extra={"ROOST_PERSON_PASSWORD": kept["password"]})


def portal_login_of(layout: Layout) -> dict[str, str]:
    """``mail`` and ``password`` of the demonstration's person in the portal; empty before there is one."""
    try:
        stored: dict[str, str] = json.loads((layout.state / "portal-login").read_text())
    except FileNotFoundError:
        return {}
    return stored


def _instance(api: Api, tenant: Tenant, *, again: bool) -> str:
    """The key of the tenant's instance, which is created if there is none. ``again``: it has to be verified anew."""
    if api.find(f"organisations/{tenant.slug}/") is None:
        api.post("organisations/", {"slug": tenant.slug, "name": tenant.name})
    found = _of_domain(api, tenant)
    if found is not None and found["desired"] == "running" and (again or not found["ready"]):
        api.post(f"instances/{found['key']}/reverify/")  # what hindered it may be gone: no need to wait for its turn
    if found is None:
        body = {"domain": tenant.domain, "engine": tenant.engine, "plan": PLAN}
        found = api.post(f"organisations/{tenant.slug}/instances/", body)
    if found["desired"] != "running":
        raise Problem(
            f"{tenant.domain} is {found['desired']}: restore it by the API, or leave it so with `./roost up --no-demo`."
        )
    return str(found["key"])


def _of_domain(api: Api, tenant: Tenant) -> Any | None:
    listed = api.get(f"organisations/{tenant.slug}/instances/")
    return next((row for row in listed["results"] if row["domain"] == tenant.domain), None)


def _watch(api: Api, keys: dict[str, str], progress: Progress) -> None:
    """Show each condition as it becomes true; the time is since the watching began."""
    start = time.monotonic()
    shown: set[tuple[str, str]] = set()
    waiting = dict(keys)
    with progress.step("Tenants ready") as say:
        while waiting:
            for slug, key in list(waiting.items()):
                seen = api.get(f"instances/{key}/")
                _show_news(slug, seen, shown, progress, time.monotonic() - start)
                if seen["ready"]:
                    del waiting[slug]
                else:
                    say(f"{slug}: {seen['summary']}")
            if not waiting:
                break
            if time.monotonic() - start > READY_TIMEOUT_S:
                raise _not_ready(api, waiting)
            time.sleep(POLL_S)
        say(", ".join(keys))


def _show_news(slug: str, seen: Any, shown: set[tuple[str, str]], progress: Progress, at_s: float) -> None:
    first = not any(who == slug for who, _ in shown)
    for condition in seen["conditions"]:
        mark = (slug, condition["type"])
        now = condition["observed_generation"] >= seen["generation"]  # what an earlier start saw is no news
        if condition["status"] == "True" and now and mark not in shown:
            shown.add(mark)
            if not (first and seen["ready"]):  # it was ready before: nothing is news
                progress.line(f"       {slug:<8} {condition['type']:<20} {at_s:6.1f} s")


def _not_ready(api: Api, waiting: dict[str, str]) -> Problem:
    lines = []
    for slug, key in waiting.items():
        for condition in api.get(f"instances/{key}/")["conditions"]:
            if condition["status"] != "True":
                lines.append(f"{slug} {condition['type']}: {condition['reason']}: {condition['message']}")
    return Problem(
        f"{', '.join(waiting)} did not become ready within {READY_TIMEOUT_S} s; the stack goes on trying: "
        "see `./roost status`, and `./roost logs worker`.",
        "\n".join(lines),
    )


def _accounts(layout: Layout, api: Api, keys: dict[Tenant, str]) -> int:
    """The people's accounts with random passwords, kept for ``send``; a password nobody knows is set anew."""
    passwords = passwords_of(layout)
    made = 0
    for tenant, key in keys.items():
        listed = {row["username"] for row in api.get(f"instances/{key}/accounts/")["results"]}
        for person in tenant.people:
            jid = f"{person}@{tenant.domain}"
            if person in listed and jid in passwords:
                continue
            passwords[jid] = passwords.get(jid) or secrets.token_urlsafe(12)
            # Kept before it counts: after a break the account has the password that the file tells.
            files.write(layout.state / "demo", json.dumps(passwords, indent=1) + "\n", mode=0o600)
            _make_account(api, key, person, passwords[jid])
            made += 1
    return made


def _make_account(api: Api, key: str, person: str, password: str) -> None:
    try:
        api.post(f"instances/{key}/accounts/", {"username": person, "password": password})
    except Refused as refused:
        if refused.status != 409:
            raise
        api.post(f"instances/{key}/accounts/{person}/password/", {"password": password})


def passwords_of(layout: Layout) -> dict[str, str]:
    """JID -> password of the demonstration's accounts."""
    try:
        stored: dict[str, str] = json.loads((layout.state / "demo").read_text())
    except FileNotFoundError:
        return {}
    return stored


def show(layout: Layout, up: Up, progress: Progress) -> None:
    """Addresses, logins, accounts and the one-liner."""
    line = progress.line
    line()
    line(f"Roost runs ({time.monotonic() - progress.started:.0f} s).")
    line(f"  API, browsable       {layout.web_url}/api/v1/docs/")
    line(f"  Portal               {layout.web_url}/portal/")
    person = portal_login_of(layout)
    if person:
        line(f"                       {person['mail']} / {person['password']}")
    line(f"  Administration       {layout.web_url}/admin/")
    if up.secrets.operator_password:
        line(f"  Operator             {OPERATOR} / {up.secrets.operator_password}")
        line("                       (shown this once; another one: ./roost manage changepassword operator)")
        keys.keep(layout, operator_password="")
    else:
        line(f"  Operator             {OPERATOR} (its password was shown when it was made)")
    line(f'  API token            in {layout.var}/secrets, as "token"')
    passwords = passwords_of(layout)
    if passwords:
        line("  Chat accounts")
        for jid, password in passwords.items():
            line(f"    {jid:<28} {password}")
        line()
        first, other = f"{TENANTS[0].people[0]}@{TENANTS[0].domain}", f"{TENANTS[1].people[0]}@{TENANTS[1].domain}"
        line("Send a message from one tenant to the other:")
        prefix = "" if layout.var.name == "var" else f"ROOST_VAR={layout.var.name} "
        line(f"  {prefix}./roost send {first} {other} 'Hello'")
