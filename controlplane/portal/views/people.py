"""Colleagues: who belongs to the organisation and as what, and invitations by mail."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _

from controlplane.portal import forms, invited, wording
from controlplane.portal.access import PortalView
from controlplane.values.errors import RoostError
from controlplane.values.secret import Secret
from tenants import services
from tenants.models import Invitation, Membership

PAGE = 50


class PeopleView(PortalView):
    def invited(self, invitation: Invitation, text: Secret) -> HttpResponse:
        """By mail, or, where no mail goes out, as a link that is shown once for whoever invited to hand over."""
        if invited.mail(invitation, text):
            messages.success(self.request, _("%s has mail with the invitation.") % invitation.email)
            return redirect("portal:people", slug=self.organisation.slug)
        context = {"invitation": invitation, "link": invited.address_of(text), "mail": settings.ROOST["MAIL"]}
        return self.page("invited.html", context)

    def membership(self, number: int) -> Membership:
        row = Membership.objects.filter(organisation=self.organisation, pk=number).select_related("user").first()
        if row is None:
            raise Http404
        return row

    def invitation(self, number: int) -> Invitation:
        row = Invitation.objects.filter(organisation=self.organisation, pk=number, accepted_at=None).first()
        if row is None:
            raise Http404
        return row


class People(PeopleView):
    scopes = {"GET": ("read", "people")}

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        text = request.GET.get("q", "").strip()[:100]
        rows = Membership.objects.filter(organisation=self.organisation).select_related("user")
        if text:
            rows = rows.filter(user__username__icontains=text)
        page = Paginator(rows.order_by("user__username"), PAGE).get_page(request.GET.get("page"))
        open_ones = Invitation.objects.filter(organisation=self.organisation, accepted_at=None)
        context = {
            "page": page,
            "rows": [(row, wording.ROLES[row.role]) for row in page],
            "invitations": [(row, wording.ROLES[row.role]) for row in open_ones[:PAGE]],
            "q": text,
        }
        return self.page("people.html", context)


class Invite(PeopleView):
    scopes = {"GET": ("people",), "POST": ("people",)}

    def get(self, request: HttpRequest, slug: str) -> HttpResponse:
        return self.page("invite.html", {"form": forms.Invite(), "roles": wording.ROLES})

    def post(self, request: HttpRequest, slug: str) -> HttpResponse:
        form = forms.Invite(request.POST)
        if form.is_valid():
            try:
                row, text = services.invite(
                    organisation=self.organisation, principal=self.principal, **form.cleaned_data
                )
            except RoostError as error:
                form.blame(error)
            else:
                return self.invited(row, text)
        return self.page("invite.html", {"form": form, "roles": wording.ROLES}, status=422)


class RenewInvitation(PeopleView):
    scopes = {"POST": ("people",)}

    def post(self, request: HttpRequest, slug: str, number: int) -> HttpResponse:
        try:
            row, text = services.renew_invitation(invitation=self.invitation(number), principal=self.principal)
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:people", slug=slug)
        return self.invited(row, text)


class WithdrawInvitation(PeopleView):
    scopes = {"POST": ("people",)}

    def post(self, request: HttpRequest, slug: str, number: int) -> HttpResponse:
        row = self.invitation(number)
        try:
            services.withdraw_invitation(invitation=row, principal=self.principal)
            messages.success(request, _("The invitation of %s is withdrawn.") % row.email)
        except RoostError as error:
            messages.error(request, forms.said(error))
        return redirect("portal:people", slug=slug)


class OnePerson(PeopleView):
    """Role, and leaving."""

    scopes = {"GET": ("people",), "POST": ("people",)}

    def get(self, request: HttpRequest, slug: str, number: int) -> HttpResponse:
        row = self.membership(number)
        return self.page(
            "person.html", {"row": row, "form": forms.Role(initial={"role": row.role}), "roles": wording.ROLES}
        )

    def post(self, request: HttpRequest, slug: str, number: int) -> HttpResponse:
        row = self.membership(number)
        form = forms.Role(request.POST)
        if form.is_valid():
            try:
                services.change_role(membership=row, role=form.cleaned_data["role"], principal=self.principal)
                messages.success(request, _("Saved. It holds from this moment on."))
                return redirect("portal:people", slug=slug)
            except RoostError as error:
                form.blame(error)
        return self.page("person.html", {"row": row, "form": form, "roles": wording.ROLES}, status=422)


class RemovePerson(PeopleView):
    scopes = {"POST": ("people",)}

    def post(self, request: HttpRequest, slug: str, number: int) -> HttpResponse:
        row = self.membership(number)
        try:
            services.remove_person(membership=row, principal=self.principal)
            messages.success(request, _("%s belongs to the organisation no more.") % row.user.get_username())
        except RoostError as error:
            messages.error(request, forms.said(error))
            return redirect("portal:person", slug=slug, number=number)
        mine = row.user_id == request.user.pk
        return redirect("portal:home") if mine else redirect("portal:people", slug=slug)
