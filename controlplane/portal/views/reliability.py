"""How reliable it was: ninety days of each part of the service, incidents with what was done, planned work."""

from __future__ import annotations

from django.conf import settings
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone

from controlplane.monitoring import causes, status
from controlplane.monitoring.models import Incident
from controlplane.portal import servers, wording
from controlplane.portal.access import PortalView

PAGE = 25


def percent(share: float | None) -> str | None:
    """Rounded down, so that 100 % means that nothing was."""
    if share is None:
        return None
    return f"{int(share * 100_000) / 1000:.3f}".rstrip("0").rstrip(".") + " %"


class Reliability(PortalView):
    scopes = {"GET": ("read",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        found, history = status.with_parts(self.instance)
        parts = [
            {
                "name": wording.PARTS[part.name],
                "state": wording.LEVELS[part.level],
                "uptime": percent(part.uptime),
                "days": part.days,
            }
            for part in history
        ]
        rows = servers.incidents_of(self.principal, self.organisation).filter(instance=self.instance)
        name = self.instance.domain.name
        context = {
            "found": found,
            "headline": wording.HEADLINES[found.level],
            "state": wording.LEVELS[found.level],
            "uptime": percent(found.uptime),
            "measured": sum(day.level != status.NONE for day in found.days),
            "parts": parts,
            "running": found.running,
            "coming": found.coming,
            "incidents": [(row, wording.INCIDENTS[row.kind]) for row in rows[:10]],
            "public": f"{settings.ROOST['STATUS_URL']}/status/{name}/",
        }
        return self.page("reliability.html", context)


class Incidents(PortalView):
    scopes = {"GET": ("read",)}

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        text = request.GET.get("q", "").strip()[:100]
        state = request.GET.get("state", "")
        rows = servers.incidents_of(self.principal, self.organisation)
        if text:
            rows = rows.filter(Q(title__icontains=text) | Q(instance__domain__name__icontains=text))
        if state in {"open", "over"}:
            rows = rows.filter(ended_at__isnull=state == "open")
        page = Paginator(rows, PAGE).get_page(request.GET.get("page"))
        told = [(row, wording.INCIDENTS[row.kind]) for row in page]
        return self.page("incidents.html", {"page": page, "rows": told, "q": text, "state": state})


class OneIncident(PortalView):
    """With its timeline. Machines' names are the provider's own and not shown."""

    scopes = {"GET": ("read",)}

    def get(self, request: HttpRequest, slug: str, incident: str) -> HttpResponse:
        rows = servers.incidents_of(self.principal, self.organisation)
        row: Incident | None = rows.filter(key=incident).first()
        if row is None:
            raise Http404
        entries = [(entry, wording.ENTRIES.get(entry.type, entry.type)) for entry in row.entries.all()]
        context = {
            "row": row,
            "entries": entries,
            "kind": wording.INCIDENTS[row.kind],
            "cause": causes.CAUSES.get(row.cause, ""),
            "fault": wording.fault_of(row.cause) if row.kind == "link" else None,
            "now": timezone.now(),
        }
        return self.page("incident.html", context)
