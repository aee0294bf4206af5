"""The side bar: what leads where from this page, and what of it this person may open.

A section is a list of entries; later pages (invitations, calls, backups, rating, bridges) are a line here each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from controlplane.values.names import DomainName
from tenants.models import Instance, Organisation
from tenants.principal import Principal

#: More servers than this are found on the organisation's page.
SERVERS = 6


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    icon: str
    href: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    entries: list[Entry]


def of(context: dict[str, Any]) -> dict[str, Any]:
    """``sections`` and the place that one is at, from a page's context."""
    organisation: Organisation | None = context.get("organisation")
    instance: Instance | None = context.get("instance")
    principal: Principal | None = context.get("principal")
    request = context["request"]
    path = request.path
    sections: list[Section] = []
    several = principal is not None and (principal.is_operator or len(principal.organisations) > 1)
    if organisation is not None and principal is not None:
        sections += _organisation(
            organisation, principal, path, with_servers=instance is None and "servers" not in context
        )
        if instance is not None:
            sections.append(_server(instance, principal, path))
    elif principal is None:
        sections.append(_account(path))
    return {"sections": sections, "place": organisation, "several": several, "user": request.user}


def _entry(name: str, icon: str, view: str, path: str, *, exact: bool = False, **kwargs: str) -> Entry:
    href = reverse(view, kwargs=kwargs)
    return Entry(name, icon, href, path == href if exact else path.startswith(href))


def _organisation(row: Organisation, principal: Principal, path: str, *, with_servers: bool) -> list[Section]:
    slug = row.slug
    entries = [_entry(_("Overview"), "house", "portal:organisation", path, exact=True, slug=slug)]
    if not principal.may("read", slug):
        return [Section(_("Organisation"), entries)]
    entries.append(_entry(_("Incidents"), "activity", "portal:incidents", path, slug=slug))
    entries.append(_entry(_("Colleagues"), "users", "portal:people", path, slug=slug))
    found = [Section(_("Organisation"), entries)]
    if with_servers:
        rows = list(row.instances.select_related("domain").order_by("domain__name")[: SERVERS + 1])
        servers = [_entry(_unicode(one), "server", "portal:instance", path, key=one.key) for one in rows[:SERVERS]]
        if servers:
            found.append(Section(_("Servers"), servers))
    return found


def _server(row: Instance, principal: Principal, path: str) -> Section:
    slug, key = row.organisation.slug, row.key
    entries: list[Entry] = []
    if principal.may("read", slug):
        entries.append(_entry(_("Overview"), "server", "portal:instance", path, exact=True, key=key))
    if principal.may("read", slug) or principal.may("accounts", slug):
        entries.append(_entry(_("Members"), "user", "portal:members", path, key=key))
    elif principal.may("passwords", slug):
        entries.append(_entry(_("Reset a password"), "key-round", "portal:password", path, key=key))
    if principal.may("read", slug) or principal.may("rooms", slug):
        entries.append(_entry(_("Rooms"), "messages-square", "portal:rooms", path, key=key))
    if principal.may("read", slug):
        entries.append(_entry(_("Federation"), "globe", "portal:federation", path, key=key))
        entries.append(_entry(_("Reliability"), "activity", "portal:reliability", path, key=key))
    return Section(_unicode(row), entries)


def _unicode(row: Instance) -> str:
    return DomainName(row.domain.name).unicode


def _account(path: str) -> Section:
    """The person's own pages, most of them allauth's."""
    return Section(
        _("Your account"),
        [
            _entry(_("Password"), "lock", "account_change_password", path),
            _entry(_("Second factor"), "shield-check", "mfa_index", path),
            _entry(_("Sessions"), "monitor", "usersessions_list", path),
            _entry(_("E-mail address"), "at-sign", "account_email", path),
            _entry(_("Other logins"), "plug", "socialaccount_connections", path),
            _entry(_("Language and colours"), "languages", "portal:appearance", path),
        ],
    )
