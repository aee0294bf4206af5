"""What allauth asks Roost: who may have an account, where secrets of second factors are sealed, how mail is sent.

Accounts come by invitation only. A person of an OpenID Connect provider is let in if the provider verified a mail
address that belongs to an account here, or that was invited and whose link this browser opened.
"""

from __future__ import annotations

import logging
import smtplib
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.conf import settings
from django.http import HttpRequest

from controlplane import vault
from controlplane.portal import invited
from controlplane.values.secret import Secret
from tenants import tokens

log = logging.getLogger(__name__)


class Accounts(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Never by the form: an invitation's own page makes the account."""
        return False

    def post_login(self, request: HttpRequest, user: Any, **kwargs: Any) -> Any:
        """Who signs in by an own password or key is at home everywhere; a login link was for one organisation only.

        A link's session has no such record, even where a second factor was asked for after it.
        """
        records = get_authentication_records(request, user)
        if any(record.get("method") != "mfa" or record.get("passwordless") for record in records):
            request.session.pop(tokens.ONLY_ORGANISATION, None)
        return super().post_login(request, user, **kwargs)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Without a mail server nothing is sent, and a mail server that is away holds nobody up: both are logged."""
        if not settings.ROOST["MAIL"]:
            log.warning("no mail server is set (ROOST_MAIL_URL): %s was not sent", template_prefix)
            return
        try:
            super().send_mail(template_prefix, email, context)
        except (OSError, smtplib.SMTPException) as error:
            log.error("%s could not be sent: %s", template_prefix, error)


class Providers(DefaultSocialAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Only for the verified mail address of an invitation that this browser opened."""
        invitation = invited.remembered(request)
        verified = {a.email.lower() for a in sociallogin.email_addresses if a.verified}
        return invitation is not None and invitation.email in verified

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Nothing is left to ask: name and address are the invitation's."""
        return True

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: dict[str, Any]) -> Any:
        user = super().populate_user(request, sociallogin, data)
        user.username = (user.email or "").lower()[:150]
        return user


class SecondFactors(DefaultMFAAdapter):  # type: ignore[misc]
    """Secrets of authenticator apps and seeds of recovery codes are sealed as all others (``controlplane.vault``)."""

    def encrypt(self, text: str) -> str:
        return vault.seal("mfa", Secret(text))

    def decrypt(self, encrypted_text: str) -> str:
        return vault.unseal("mfa", encrypted_text).reveal()
