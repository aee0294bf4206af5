"""The one place where the portal decides who sees a page and who may press its buttons.

Each view names, per method, the scopes of which one is needed in the organisation that its address leads to. What a
person cannot see is not there (404); what one sees but may not do is refused (403), with a page that says whom to ask.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import patch_cache_control
from django.views import View

from tenants import tokens
from tenants.models import Instance, Organisation
from tenants.principal import Principal

Scopes = dict[str, tuple[str, ...]]
#: Of those whom a login link let in: what is about signing in itself is not theirs to change.
ANYONE: tuple[str, ...] = ("read", "instances", "accounts", "passwords", "rooms", "people")


def principal_of(request: HttpRequest) -> Principal:
    """Of somebody who is logged in; a session that a login link made is for one organisation."""
    only = request.session.get(tokens.ONLY_ORGANISATION)
    return tokens.principal_of_user(request.user, address=request.META.get("REMOTE_ADDR") or None, only=only)


class PortalView(View):
    """Base of all pages of people who are logged in. ``scopes``: method -> scopes of which one is needed.

    With ``key`` in the address there is ``self.instance``, with ``slug`` or ``key`` there is ``self.organisation``;
    both are found before any method runs, so that no view can forget to look.
    """

    scopes: ClassVar[Scopes] = {}
    principal: Principal
    organisation: Organisation
    instance: Instance

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if any("\0" in str(value) for value in (*kwargs.values(), *request.GET.values(), *request.GET)):
            raise Http404
        self.principal = principal_of(request)
        slug = self._find(kwargs)
        wanted = self.scopes.get("GET" if request.method == "HEAD" else str(request.method), ())
        if not wanted and request.method in {"GET", "HEAD", "POST"}:
            return self.http_method_not_allowed(request)
        if not any(self.principal.may(scope, slug) for scope in wanted):
            raise PermissionDenied
        response = super().dispatch(request, *args, **kwargs)
        patch_cache_control(response, private=True, no_store=True)
        return response

    def _find(self, kwargs: dict[str, Any]) -> str | None:
        """The slug of the organisation that the address leads to."""
        if "key" in kwargs:
            rows = Instance.objects.visible_to(self.principal).whole()
            instance = rows.filter(key=kwargs["key"]).first()
            if instance is None:
                raise Http404
            self.instance = cast(Instance, instance)
            self.organisation = self.instance.organisation
        elif "slug" in kwargs:
            organisation = Organisation.objects.visible_to(self.principal).filter(slug=kwargs["slug"]).first()
            if organisation is None:
                raise Http404
            self.organisation = cast(Organisation, organisation)
        else:
            return None
        return self.organisation.slug

    def may(self, scope: str) -> bool:
        """In the organisation of this page."""
        return self.principal.may(scope, self.organisation.slug)

    def page(self, template: str, context: dict[str, Any] | None = None, *, status: int = 200) -> HttpResponse:
        """``template`` below ``portal/``, with what every page shows."""
        organisation = getattr(self, "organisation", None)
        can = {scope: self.principal.may(scope, organisation.slug if organisation else None) for scope in ANYONE}
        shared = {
            "principal": self.principal,
            "organisation": organisation,
            "instance": getattr(self, "instance", None),
            "can": can,
        }
        return render(self.request, f"portal/{template}", {**shared, **(context or {})}, status=status)
