"""What the pages read of servers: which are ready, and what needs attention first. A handful of queries each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from controlplane.monitoring.models import Incident
from controlplane.portal import wording
from controlplane.reconcile.models import Condition
from controlplane.values.names import DomainName
from tenants.models import Instance, Organisation
from tenants.principal import Principal

#: So many things that need attention are shown of each kind.
FIRST = 5


@dataclass(frozen=True, slots=True)
class Server:
    row: Instance
    state: wording.State
    message: str


@dataclass(frozen=True, slots=True)
class Attention:
    """One line of «needs attention»: what, why, and where the next action is."""

    level: str
    icon: str
    title: str | Promise
    why: str | Promise
    href: str
    action: str | Promise


def shown(rows: Sequence[Instance]) -> list[Server]:
    """With their states, by one query."""
    found = Condition.objects.filter(kind="Instance", type="Ready", object_id__in=[row.key for row in rows])
    ready = {condition.object_id: condition for condition in found}
    return [
        Server(row, wording.state_of(row, ready.get(row.key)), ready[row.key].message if row.key in ready else "")
        for row in rows
    ]


def unready(organisation: Organisation) -> QuerySet[Instance]:
    """Those that should run and are not ready in their present generation; those that need somebody first.

    ``stalled`` and ``why`` are what their condition of that name says.
    """
    mine = Condition.objects.filter(kind="Instance", type="Ready", object_id=OuterRef("key"))
    ready = mine.filter(status="True", observed_generation__gte=OuterRef("generation"))
    rows = Instance.objects.filter(organisation=organisation, suspended_at=None, deletion_requested_at=None)
    rows = rows.filter(~Exists(ready))
    rows = rows.annotate(stalled=Exists(mine.filter(stalled=True)), why=Subquery(mine.values("message")[:1]))
    found: QuerySet[Instance] = rows.select_related("domain").order_by("-stalled", "domain__name")
    return found


def incidents_of(principal: Principal, organisation: Organisation) -> QuerySet[Incident]:
    """Those of the organisation; the caller has checked that the principal may read it."""
    assert principal.may("read", organisation.slug)
    return Incident.objects.filter(scope=organisation.slug).select_related("instance__domain")


def attention(principal: Principal, organisation: Organisation) -> list[Attention]:
    """What is wrong, the worst first: servers that need somebody, open incidents, servers that are being worked on."""
    lines: list[Attention] = []
    waiting: list[Attention] = []
    rows: list[Any] = list(unready(organisation)[: FIRST + 1])
    for row in rows:
        state = wording.STALLED if row.stalled else wording.CHANGING
        line = Attention(
            "bad" if row.stalled else "info",
            state.icon,
            DomainName(row.domain.name).unicode,
            row.why or _("It is being set up."),
            reverse("portal:instance", kwargs={"key": row.key}),
            _("See what to do") if row.stalled else _("Watch"),
        )
        (lines if row.stalled else waiting).append(line)
    for row in incidents_of(principal, organisation).filter(ended_at=None)[:FIRST]:
        href = reverse("portal:incident", kwargs={"slug": organisation.slug, "incident": row.key})
        why = DomainName(row.instance.domain.name).unicode if row.instance else ""
        lines.append(Attention("warn", "triangle-alert", row.title, why, href, _("See what is done")))
    return [*lines, *waiting]


def search(rows: QuerySet[Instance], text: str) -> QuerySet[Instance]:
    """By domain or display name."""
    return rows.filter(Q(domain__name__icontains=text) | Q(display_name__icontains=text)) if text else rows


def facts(instance: Instance) -> dict[str, Any]:
    """What a person needs to connect: addresses, ports, DNS records, days of the certificate."""
    from controlplane.provisioning import status  # late: it reaches into every room

    found = status.instance_status(instance)
    certificate = status.certificate_status(instance)
    dns = status.dns_status(instance)
    return {
        "status": found,
        "certificate": certificate,
        "turn": status.turn_status(instance),
        "dns": dns,
        "published": sum(bool(row["published"]) for row in dns if row["wanted"]),
        "records": sum(bool(row["wanted"]) for row in dns),
    }
