"""Where one arrives: one's organisations, and what an organisation has and needs."""

from __future__ import annotations

import datetime
from typing import Any, cast

from allauth.mfa.utils import is_mfa_enabled
from django.conf import settings
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import translate_url
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import check_for_language
from django.views import View

from controlplane.fleet.models import Placement
from controlplane.monitoring.models import Maintenance
from controlplane.portal import servers
from controlplane.portal.access import ANYONE, PortalView
from controlplane.portal.templatetags.portal import THEMES
from tenants.models import Instance, Organisation

PAGE = 25
YEAR_S = 365 * 86_400
AHEAD, WORKS = datetime.timedelta(days=30), 4


class Home(PortalView):
    """Somebody with one organisation goes straight there."""

    scopes = {"GET": ANYONE}

    def get(self, request: HttpRequest) -> HttpResponse:
        if not self.principal.is_operator and len(self.principal.organisations) == 1:
            return redirect("portal:organisation", slug=next(iter(self.principal.organisations)))
        text = request.GET.get("q", "").strip()[:100]
        rows = Organisation.objects.visible_to(self.principal).annotate(server_count=Count("instances"))
        if text:
            rows = rows.filter(Q(name__icontains=text) | Q(slug__icontains=text))
        page = Paginator(rows.order_by("name", "slug"), PAGE).get_page(request.GET.get("page"))
        return self.page("home.html", {"page": page, "q": text})


class OneOrganisation(PortalView):
    """A helper, who reads nothing, finds the servers whose passwords may be reset."""

    scopes = {"GET": ANYONE}

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        text = request.GET.get("q", "").strip()[:100]
        rows = cast(Any, Instance.objects.filter(organisation=self.organisation).select_related("domain", "plan"))
        page = Paginator(servers.search(rows, text).order_by("domain__name"), PAGE).get_page(request.GET.get("page"))
        if not self.may("read"):
            return self.page("helper.html", {"page": page, "q": text})
        context = {
            "page": page,
            "q": text,
            "servers": servers.shown(list(page)),
            "attention": servers.attention(self.principal, self.organisation),
            "works": _works(self.organisation),
            "protected": is_mfa_enabled(request.user),
            "alone": self.may("people") and self.organisation.memberships.count() < 2,
        }
        return self.page("organisation.html", context)


def _works(organisation: Organisation) -> list[Maintenance]:
    """Planned work that covers all or something of this organisation, under way or within a month; one query."""
    mine = Q(node=None, organisation=None, instance=None)
    mine |= Q(organisation=organisation) | Q(instance__organisation=organisation)
    mine |= Q(node__in=Placement.objects.filter(instance__organisation=organisation).values("node"))
    now = timezone.now()
    rows = Maintenance.objects.filter(mine, cancelled_at=None, ends_at__gt=now, starts_at__lte=now + AHEAD)
    return list(rows.order_by("starts_at")[:WORKS])


class Appearance(View):
    """Language and colours, in cookies: they are a browser's, and work before one is logged in."""

    def get(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect("account_login")
        return render(request, "portal/appearance.html", {"languages": settings.LANGUAGES})

    def post(self, request: HttpRequest) -> HttpResponse:
        target = request.POST.get("next", "")
        if not url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure()):
            target = request.path
        language, theme = request.POST.get("language", ""), request.POST.get("theme")
        response = redirect(translate_url(target, language) if check_for_language(language) else target)
        flags: dict[str, Any] = {"max_age": YEAR_S, "samesite": "Lax", "secure": request.is_secure(), "httponly": True}
        if language in dict(settings.LANGUAGES):
            response.set_cookie(settings.LANGUAGE_COOKIE_NAME, language, **flags)
        if theme in THEMES:
            response.set_cookie("theme", str(theme), **flags)
        elif theme == "":
            response.delete_cookie("theme")
        return response
