"""The invitation that a browser has opened, kept in its session until the person has joined; and the mail with it."""

from __future__ import annotations

import logging
import smtplib

from django.conf import settings
from django.core.mail import send_mail
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _

from controlplane.values.secret import Secret
from tenants import services
from tenants.models import Invitation
from tenants.services import people

log = logging.getLogger(__name__)
KEY = "portal_invitation"


def remember(request: HttpRequest, text: str) -> None:
    request.session[KEY] = text


def forget(request: HttpRequest) -> None:
    request.session.pop(KEY, None)


def remembered(request: HttpRequest) -> Invitation | None:
    """None if there is none, or it does not count any more."""
    text = request.session.get(KEY)
    return services.find_invitation(text) if isinstance(text, str) else None


def address_of(text: Secret) -> str:
    """The link for the person invited."""
    return settings.BASE_URL + reverse("portal:invitation", kwargs={"token": text.reveal()})


def mail(invitation: Invitation, text: Secret) -> bool:
    """Whether the mail server took it. False: no mail server is set, or it does not answer (logged)."""
    if not settings.ROOST["MAIL"]:
        return False
    context = {"invitation": invitation, "link": address_of(text)}
    subject = _("Invitation to %(organisation)s") % {"organisation": invitation.organisation.name}
    body = render_to_string("portal/mail/invitation.txt", context)
    try:
        send_mail(" ".join(subject.split()), body, None, [invitation.email])
    except (OSError, smtplib.SMTPException) as error:
        log.error("the invitation %s could not be sent: %s", invitation.pk, error)
        return False
    people.note_mailed(invitation)
    return True
