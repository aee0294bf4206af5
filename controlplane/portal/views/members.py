"""Members of a server: list, make, disable, delete, passwords. The server itself is asked; nothing is kept here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from controlplane.portal import forms
from controlplane.portal.access import PortalView
from controlplane.provisioning import accounts
from controlplane.values.errors import InvalidInput, RoostError
from controlplane.values.secret import Secret
from tenants.errors import Missing

PAGE = 50
FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "enabled": lambda row: bool(row["enabled"]),
    "disabled": lambda row: not row["enabled"],
    "online": lambda row: bool(row["online"]),
}


def secret_of(text: str) -> Secret | None:
    """None: Roost makes one up."""
    return Secret(text) if text else None


class Members(PortalView):
    scopes = {"GET": ("read", "accounts")}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        text = request.GET.get("q", "").strip().lower()[:100]
        state = request.GET.get("state", "")
        context: dict[str, Any] = {"q": text, "state": state, "limit": self.instance.plan.max_accounts}
        try:
            rows = accounts.list_accounts(instance=self.instance)
        except RoostError as error:
            return self.page("members.html", {**context, "problem": error}, status=503)
        fits = FILTERS.get(state)
        found = [row for row in rows if text in row["username"] and (fits is None or fits(row))]
        page = Paginator(found, PAGE).get_page(request.GET.get("page"))
        return self.page("members.html", {**context, "page": page, "all": len(rows)})


class NewMember(PortalView):
    """The password is in the answer, once, and nowhere else."""

    scopes = {"GET": ("accounts",), "POST": ("accounts",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        return self.page("member_new.html", {"form": forms.NewMember()})

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        form = forms.NewMember(request.POST)
        if not form.is_valid():
            return self.page("member_new.html", {"form": form}, status=422)
        given = form.cleaned_data
        try:
            row, made = accounts.create_account(
                instance=self.instance,
                username=given["username"],
                password=secret_of(given["password"]),
                principal=self.principal,
            )
        except RoostError as error:
            form.blame(error)
            return self.page("member_new.html", {"form": form}, status=422)
        return self.page("member_made.html", {"row": row, "made": made, "is_new": True})


class MemberView(PortalView):
    """What pages of one member share; there is none of a name that the server does not know."""

    row: dict[str, Any]

    def found(self, username: str) -> dict[str, Any]:
        try:
            row = accounts.get_account(instance=self.instance, username=username)
        except InvalidInput as error:
            raise Http404 from error
        if row is None:
            raise Http404
        return row


class OneMember(MemberView):
    scopes = {"GET": ("read", "accounts")}

    def get(self, request: HttpRequest, key: str, username: str) -> HttpResponseBase:
        try:
            row = self.found(username)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:members", key=key)
        return self.page("member.html", {"row": row, "form": forms.NewPassword()})


class Enabled(MemberView):
    """«Disable» and «enable», by the name of the route."""

    scopes = {"POST": ("accounts",)}
    enabled = True

    def post(self, request: HttpRequest, key: str, username: str) -> HttpResponse:
        try:
            row = accounts.set_enabled(
                instance=self.instance, username=username, enabled=self.enabled, principal=self.principal
            )
        except (Missing, InvalidInput) as error:
            raise Http404 from error
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:members", key=key)
        if self.enabled:
            messages.success(request, _("%s may log in again.") % row["jid"])
        else:
            messages.success(request, _("%s cannot log in any more; nothing is lost.") % row["jid"])
        return redirect("portal:member", key=key, username=row["username"])


class DeleteMember(MemberView):
    scopes = {"GET": ("accounts",), "POST": ("accounts",)}

    def get(self, request: HttpRequest, key: str, username: str) -> HttpResponseBase:
        try:
            row = self.found(username)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:members", key=key)
        return self.page("member_delete.html", {"row": row, "form": forms.Sure(wanted=row["username"])})

    def post(self, request: HttpRequest, key: str, username: str) -> HttpResponseBase:
        try:
            row = self.found(username)
            form = forms.Sure(request.POST, wanted=row["username"])
            if not form.is_valid():
                return self.page("member_delete.html", {"row": row, "form": form}, status=422)
            accounts.delete_account(instance=self.instance, username=row["username"], principal=self.principal)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:members", key=key)
        messages.success(request, _("%s is deleted.") % row["jid"])
        return redirect("portal:members", key=key)


class MemberPassword(MemberView):
    """For who sees members: from the member's own page."""

    scopes = {"POST": ("accounts",)}

    def post(self, request: HttpRequest, key: str, username: str) -> HttpResponseBase:
        form = forms.NewPassword(request.POST)
        try:
            row = self.found(username)
            if form.is_valid():
                made = accounts.set_password(
                    instance=self.instance,
                    username=row["username"],
                    password=secret_of(form.cleaned_data["password"]),
                    principal=self.principal,
                )
                return self.page("member_made.html", {"row": row, "made": made, "is_new": False})
        except InvalidInput as error:
            form.blame(error)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:members", key=key)
        return self.page("member.html", {"row": row, "form": form}, status=422)


class AnyPassword(PortalView):
    """For a helper, who sees no list: the name is typed, and the new password shown once."""

    scopes = {"GET": ("passwords",), "POST": ("passwords",)}

    def get(self, request: HttpRequest, key: str) -> HttpResponse:
        return self.page("password.html", {"form": forms.HelpersPassword()})

    def post(self, request: HttpRequest, key: str) -> HttpResponse:
        form = forms.HelpersPassword(request.POST)
        if form.is_valid():
            given = form.cleaned_data
            try:
                made = accounts.set_password(
                    instance=self.instance,
                    username=given["username"].partition("@")[0].strip(),
                    password=secret_of(given["password"]),
                    principal=self.principal,
                )
            except Missing:
                form.add_error("username", _("There is nobody of this name."))
            except RoostError as error:
                form.blame(error)
            else:
                local = given["username"].partition("@")[0].strip().lower()
                row = {"username": local, "jid": f"{local}@{self.instance.domain.name}"}
                return self.page("member_made.html", {"row": row, "made": made, "is_new": False})
        return self.page("password.html", {"form": form}, status=422)
