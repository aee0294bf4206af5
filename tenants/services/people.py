"""Who belongs to an organisation: invitations by mail, roles, leaving; and links that log a person in once.

Passwords, second factors and sessions are not kept here: who somebody is, is decided where one logs in.
"""

from __future__ import annotations

import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret
from tenants import audit, links
from tenants.errors import Taken, WrongState
from tenants.models import Invitation, LoginLink, Membership, Organisation
from tenants.principal import Principal

INVITATION_DAYS = 7
MAX_OPEN_INVITATIONS = 200
LOGIN_LINK_S, MAX_LOGIN_LINK_S = 60, 600
ROLES = tuple(role for role, _ in Membership.ROLES)


def address(text: str, *, field: str = "email") -> str:
    """A mail address in lower case, at most 150 characters, since it is the user's name too."""
    email = text.strip().lower() if isinstance(text, str) else ""
    try:
        validate_email(email)
    except ValidationError as error:
        raise InvalidInput(field, "This is not a mail address.", remedy="Give it as name@example.org.") from error
    if len(email) > 150:
        raise InvalidInput(field, "The mail address is too long.", remedy="At most 150 characters are allowed.")
    return email


def person(email: str) -> Any | None:
    """The user with this mail address, None if there is none."""
    found = get_user_model().objects.filter(Q(username__iexact=email) | Q(email__iexact=email))
    return found.order_by("pk").first()


@transaction.atomic
def create_person(*, email: str, password: Secret, name: str = "") -> Any:
    """An account that logs in by this mail address, which counts as verified: who made it vouches for it.

    ``Taken`` if there is one, ``InvalidInput`` for a password that many people use or that is too short.
    """
    from allauth.account.models import EmailAddress

    email = address(email)
    users = get_user_model()
    if person(email) is not None:
        raise Taken("email", f"There is an account of {email} already.", remedy="Log in with it.")
    user = users(username=email, email=email, first_name=name.strip()[:150])
    try:
        validate_password(password.reveal(), user)
    except ValidationError as error:
        raise InvalidInput("password", " ".join(error.messages)) from error
    user.set_password(password.reveal())
    try:
        with transaction.atomic():
            user.save()
            EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    except IntegrityError as error:  # two at once
        raise Taken("email", f"There is an account of {email} already.", remedy="Log in with it.") from error
    return user


@transaction.atomic
def add_person(*, organisation: Organisation, user: Any, role: str, principal: Principal) -> Membership:
    """Without an invitation: for the operator. Nothing changes for who belongs to it already."""
    _known(role)
    row, made = Membership.objects.get_or_create(user=user, organisation=organisation, defaults={"role": role})
    if made:
        name = user.get_username()
        _audit(organisation, "people.add", f"{name} added as {role}", name, principal, {"role": role})
    return row


@transaction.atomic
def invite(
    *, organisation: Organisation, email: str, role: str, principal: Principal, days: int = INVITATION_DAYS
) -> tuple[Invitation, Secret]:
    """The invitation and its link's text. ``Taken`` if the person belongs to it or was asked already."""
    email = address(email)
    _known(role)
    Organisation.objects.select_for_update().get(pk=organisation.pk)  # two who invite the same person
    if Membership.objects.filter(organisation=organisation, user=person(email)).exists():
        raise Taken("email", f"{email} belongs to it already.", remedy="Change the role instead.")
    open_ones = Invitation.objects.filter(organisation=organisation, accepted_at=None)
    if open_ones.filter(email=email).exists():
        raise Taken("email", f"{email} was invited already.", remedy="Send the invitation again, or withdraw it.")
    if open_ones.count() >= MAX_OPEN_INVITATIONS:
        raise InvalidInput("email", "Too many invitations are open.", remedy="Withdraw some of them first.")
    digest, text = links.new_text(links.INVITATION)
    row = Invitation.objects.create(
        organisation=organisation,
        email=email,
        role=role,
        digest=digest,
        invited_by=principal.name[:200],
        expires_at=timezone.now() + datetime.timedelta(days=days),
    )
    _audit(organisation, "people.invite", f"{email} invited as {role}", email, principal, {"role": role})
    return row, text


@transaction.atomic
def renew_invitation(*, invitation: Invitation, principal: Principal) -> tuple[Invitation, Secret]:
    """A new link with the whole time; the one before opens nothing any more."""
    row = _open(invitation)
    row.digest, text = links.new_text(links.INVITATION)
    row.expires_at = timezone.now() + datetime.timedelta(days=INVITATION_DAYS)
    row.mailed_at = None
    row.save(update_fields=["digest", "expires_at", "mailed_at"])
    _audit(row.organisation, "people.renew_invitation", f"{row.email} invited again", row.email, principal)
    return row, text


@transaction.atomic
def withdraw_invitation(*, invitation: Invitation, principal: Principal) -> None:
    """Its link opens nothing any more."""
    row = _open(invitation)
    row.delete()
    _audit(row.organisation, "people.withdraw_invitation", f"Invitation of {row.email} withdrawn", row.email, principal)


def note_mailed(invitation: Invitation) -> None:
    """The mail server took the mail with this link."""
    Invitation.objects.filter(pk=invitation.pk, digest=invitation.digest).update(mailed_at=timezone.now())


def find_invitation(text: str) -> Invitation | None:
    """One that still counts."""
    found = Invitation.objects.select_related("organisation").filter(
        digest__in=links.digests(links.INVITATION, text), accepted_at=None, expires_at__gt=timezone.now()
    )
    return found.first()


@transaction.atomic
def accept_invitation(*, invitation: Invitation, user: Any, principal: Principal) -> Membership:
    """Once. ``WrongState`` for one that is used, expired or withdrawn, or for somebody else's mail address."""
    row = Invitation.objects.select_for_update(of=("self",)).select_related("organisation").filter(pk=invitation.pk)
    found = row.filter(digest=invitation.digest).first()
    if found is None or found.accepted_at is not None or found.is_expired:
        raise WrongState("This invitation does not count any more.", remedy="Ask for a new one.")
    if found.email not in {user.email.lower(), user.get_username().lower()}:
        raise WrongState("This invitation is for another mail address.", remedy="Log in as the person invited.")
    found.accepted_at = timezone.now()
    found.save(update_fields=["accepted_at"])
    membership, _ = Membership.objects.get_or_create(
        user=user, organisation=found.organisation, defaults={"role": found.role}
    )
    _audit(
        found.organisation,
        "people.join",
        f"{found.email} joined as {membership.role}",
        found.email,
        principal,
        {"role": membership.role, "invited_by": found.invited_by},
    )
    return membership


@transaction.atomic
def change_role(*, membership: Membership, role: str, principal: Principal) -> Membership:
    """``WrongState`` if the last owner would be none any more."""
    _known(role)
    row = _held(membership)
    if row.role == role:
        return row
    _keep_an_owner(row)
    row.role = role
    row.save(update_fields=["role"])
    name = row.user.get_username()
    _audit(row.organisation, "people.change_role", f"{name} is {role} now", name, principal, {"role": role})
    return row


@transaction.atomic
def remove_person(*, membership: Membership, principal: Principal) -> None:
    """The person keeps the account and may belong to other organisations."""
    row = _held(membership)
    _keep_an_owner(row)
    name = row.user.get_username()
    row.delete()
    _audit(row.organisation, "people.remove", f"{name} removed", name, principal)


@transaction.atomic
def create_login_link(
    *, organisation: Organisation, email: str, principal: Principal, ttl_s: int = LOGIN_LINK_S, target: str = ""
) -> tuple[LoginLink, Secret]:
    """A link for one of the organisation's people, good once and for ``ttl_s`` seconds. Never for an operator."""
    if not 1 <= ttl_s <= MAX_LOGIN_LINK_S:
        raise InvalidInput("ttl_s", "The time does not fit.", remedy=f"Give 1 to {MAX_LOGIN_LINK_S} seconds.")
    fits = target.startswith("/portal/") and target.isascii() and target.isprintable() and "\\" not in target
    if target and not fits:
        raise InvalidInput("target", "This is no path in the portal.", remedy="Give one that begins with /portal/.")
    user = person(address(email, field="user"))
    member = Membership.objects.filter(organisation=organisation, user=user).exists() if user is not None else False
    if user is None or not member or not user.is_active or user.is_superuser or user.is_staff:
        raise InvalidInput("user", f"{email} is nobody of {organisation.slug}.", remedy="Invite the person first.")
    digest, text = links.new_text(links.LOGIN)
    row = LoginLink.objects.create(
        organisation=organisation,
        user=user,
        digest=digest,
        target=target[:300],
        created_by=principal.name[:200],
        expires_at=timezone.now() + datetime.timedelta(seconds=ttl_s),
    )
    name = user.get_username()
    _audit(organisation, "people.login_link", f"Login link for {name}", name, principal, {"ttl_s": ttl_s})
    return row, text


@transaction.atomic
def use_login_link(*, text: str, ip: str | None) -> LoginLink | None:
    """The link, used up by this call; None for one that is unknown, expired or used, or whose person left."""
    rows = LoginLink.objects.select_for_update(of=("self",)).select_related("user", "organisation")
    row = rows.filter(digest__in=links.digests(links.LOGIN, text), used_at=None, expires_at__gt=timezone.now()).first()
    if row is None:
        return None
    row.used_at = timezone.now()
    row.save(update_fields=["used_at"])
    user = row.user
    member = Membership.objects.filter(organisation=row.organisation, user=user).exists()
    if not member or not user.is_active or user.is_superuser or user.is_staff:
        return None
    name = user.get_username()
    who = Principal(name=name, address=ip)
    _audit(row.organisation, "people.login", f"{name} came in by a link of {row.created_by}", name, who)
    return row


def _known(role: str) -> None:
    if role not in ROLES:
        raise InvalidInput("role", "There is no such role.", remedy=f"Use one of {', '.join(ROLES)}.")


def _open(invitation: Invitation) -> Invitation:
    rows = Invitation.objects.select_for_update(of=("self",)).select_related("organisation")
    row = rows.filter(pk=invitation.pk, accepted_at=None).first()
    if row is None:
        raise WrongState("This invitation is used or withdrawn already.")
    return row


def _held(membership: Membership) -> Membership:
    """With its organisation locked: two owners could otherwise remove each other."""
    Organisation.objects.select_for_update().get(pk=membership.organisation_id)
    row = Membership.objects.select_related("user", "organisation").filter(pk=membership.pk).first()
    if row is None:
        raise WrongState("This person belongs to it no more.")
    return row


def _keep_an_owner(row: Membership) -> None:
    others = Membership.objects.filter(organisation=row.organisation, role="owner").exclude(pk=row.pk)
    if row.role == "owner" and not others.exists():
        raise WrongState("An organisation needs an owner.", remedy="Make somebody else owner first.")


def _audit(
    organisation: Organisation,
    action: str,
    summary: str,
    name: str,
    principal: Principal,
    data: dict[str, Any] | None = None,
) -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="Person",
        object_id=name,
        organisation=organisation.slug,
        summary=summary,
        data=data,
    )
