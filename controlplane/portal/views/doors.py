"""Ways in beside signing in: an invitation from a mail, and a billing system's link that is good once.

A GET changes nothing: mail scanners and previews follow links. The texts of links leave the address at once, so that
they are in no history, log or Referer.
"""

from __future__ import annotations

from typing import Any

from allauth.account.utils import perform_login
from django.contrib import messages
from django.contrib.auth import logout
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views import View

from controlplane.portal import forms, invited, wording
from controlplane.portal.access import principal_of
from controlplane.values.errors import InvalidInput, RoostError
from controlplane.values.secret import Secret
from tenants import services, tokens
from tenants.models import Invitation
from tenants.principal import Principal
from tenants.services import people

LINK = "portal_login_link"


def private(response: HttpResponse) -> HttpResponse:
    patch_cache_control(response, private=True, no_store=True)
    # Not «no-referrer»: browsers would send the form's POST with «Origin: null», which is refused as a forged one.
    response["Referrer-Policy"] = "same-origin"
    return response


class OpenInvitation(View):
    def get(self, request: HttpRequest, token: str) -> HttpResponse:
        invited.remember(request, token)
        return private(redirect("portal:join"))


class Join(View):
    """Who has an account signs in and agrees; who has none chooses a password."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.show(request, forms.Join())

    def show(self, request: HttpRequest, form: forms.Join, status: int = 200) -> HttpResponse:
        row = invited.remembered(request)
        if row is None:
            return private(render(request, "portal/invitation_gone.html", status=404))
        user: Any = request.user
        context = {
            "invitation": row,
            "role": wording.ROLES[row.role],
            "form": form,
            "known": people.person(row.email) is not None,
            "fits": user.is_authenticated and row.email in {user.email.lower(), user.get_username().lower()},
        }
        return private(render(request, "portal/invitation.html", context, status=status))

    def post(self, request: HttpRequest) -> HttpResponse:
        row = invited.remembered(request)
        if row is None:
            return self.show(request, forms.Join())
        if request.user.is_authenticated:
            return self.accept(request, row, request.user, principal_of(request))
        if people.person(row.email) is not None:
            return redirect("portal:join")
        form = forms.Join(request.POST)
        if not form.is_valid():
            return self.show(request, form, 422)
        given = form.cleaned_data
        who = Principal(name=row.email, address=request.META.get("REMOTE_ADDR") or None)
        try:
            with transaction.atomic():
                user = people.create_person(
                    email=row.email, password=Secret(given["password"]), name=given["first_name"]
                )
                services.accept_invitation(invitation=row, user=user, principal=who)
        except InvalidInput as error:
            form.blame(error)
            return self.show(request, form, 422)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:join")
        invited.forget(request)
        response: HttpResponse = perform_login(request, user, redirect_url=f"/portal/o/{row.organisation.slug}/")
        return response

    def accept(self, request: HttpRequest, row: Invitation, user: Any, principal: Principal) -> HttpResponse:
        try:
            services.accept_invitation(invitation=row, user=user, principal=principal)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:join")
        invited.forget(request)
        messages.success(request, _("You belong to %s now.") % row.organisation.name)
        return redirect("portal:organisation", slug=row.organisation.slug)


class OpenLoginLink(View):
    def get(self, request: HttpRequest, token: str) -> HttpResponse:
        request.session[LINK] = token[:200]
        return private(redirect("portal:come-in"))


class ComeIn(View):
    """«Continue» uses the link up. Whoever was signed in in this browser is signed out first."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return private(render(request, "portal/come_in.html", {"there": bool(request.session.get(LINK))}))

    def post(self, request: HttpRequest) -> HttpResponse:
        text = request.session.pop(LINK, "")
        row = services.use_login_link(text=text, ip=request.META.get("REMOTE_ADDR") or None) if text else None
        if row is None:
            return private(render(request, "portal/come_in.html", {"there": False}, status=404))
        logout(request)
        request.session[tokens.ONLY_ORGANISATION] = row.organisation.slug
        target = row.target or f"/portal/o/{row.organisation.slug}/"
        response: HttpResponse = perform_login(request, row.user, redirect_url=target)
        return response
