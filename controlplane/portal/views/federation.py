"""Which other servers this one talks with, how it stands, why not, and whose it is to mend."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Case, Count, IntegerField, Value, When
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _

from controlplane.monitoring import links
from controlplane.monitoring.models import S2sLink
from controlplane.portal import wording
from controlplane.portal.access import PortalView
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName

PAGE = 50
#: What is broken comes first.
_ORDER = (
    S2sLink.DOWN,
    S2sLink.PEER_PENDING,
    S2sLink.SUSPECT,
    S2sLink.UNKNOWN,
    S2sLink.UP,
    S2sLink.IDLE,
    S2sLink.BLOCKED,
)


def row_of(link: S2sLink) -> dict[str, Any]:
    """A link for the page."""
    broken = link.state in (S2sLink.DOWN, S2sLink.PEER_PENDING, S2sLink.SUSPECT)
    encrypted = all(stream.get("encrypted") for stream in link.streams) if link.streams else None
    return {
        "link": link,
        "state": wording.LINKS[link.state],
        "means": wording.LINK_MEANS[link.state],
        "fault": wording.fault_of(link.cause) if broken else None,
        "encrypted": encrypted,
        "again_at": link.retry_at if broken and link.retry_at and link.retry_at > timezone.now() else None,
    }


class Federation(PortalView):
    scopes = {"GET": ("read",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        text = request.GET.get("q", "").strip().lower()[:253]
        state = request.GET.get("state", "")
        rows = S2sLink.objects.filter(instance=self.instance)
        counts = dict(rows.order_by().values_list("state").annotate(n=Count("pk")))
        if text:
            rows = rows.filter(remote__contains=text)
        if state in wording.LINKS:
            rows = rows.filter(state=state)
        order = Case(*(When(state=s, then=Value(n)) for n, s in enumerate(_ORDER)), output_field=IntegerField())
        page = Paginator(rows.order_by(order, "remote"), PAGE).get_page(request.GET.get("page"))
        context = {
            "page": page,
            "rows": [row_of(link) for link in page],
            "q": text,
            "state": state,
            "states": wording.LINKS,
            "all": sum(counts.values()),
            "connected": counts.get(S2sLink.UP, 0) + counts.get(S2sLink.IDLE, 0),
            "broken": counts.get(S2sLink.DOWN, 0),
            "pending": counts.get(S2sLink.PEER_PENDING, 0),
            "blocked": self.instance.s2s_blocked,
            "moving": any(link.state == S2sLink.SUSPECT or link.suspect_at for link in page),
        }
        partial = request.GET.get("part") == "links"
        return self.page("parts/links.html" if partial else "federation.html", context)


class Retry(PortalView):
    """«Retry now»: the next pass looks, whatever the back-off says."""

    scopes = {"POST": ("instances",)}

    def post(self, request: HttpRequest, key: str, remote: str) -> HttpResponse:
        try:
            name = DomainName.parse(remote).ascii
        except InvalidInput as error:
            raise Http404 from error
        rows = S2sLink.objects.filter(instance=self.instance, remote=name)
        link = rows.select_related("instance__organisation", "peer").first()
        if link is None:
            raise Http404
        links.retry(link=link, principal=self.principal)
        messages.info(request, _("%s is dialled again at this moment.") % DomainName(name).unicode)
        return redirect("portal:federation", key=key)
