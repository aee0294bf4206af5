"""The admin's login form with a limit on guesses: so many failures from one address, then a pause.

Counted in the process's cache, so with several web processes the limit is that many times as high; a flood
is what it stops, and passwords of 12 characters and more do the rest.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.cache import cache
from django.core.exceptions import ValidationError

MAX_FAILURES = 10
PAUSE_S = 900


class LimitedLogin(AdminAuthenticationForm):
    """By address and not by name: else anybody could lock the operator out."""

    def clean(self) -> dict[str, Any]:
        key = f"login-failures:{_network(self.request)}"
        if cache.get(key, 0) >= MAX_FAILURES:
            raise ValidationError(
                f"Too many failed logins from your address. Try again in {PAUSE_S // 60} minutes.", code="limited"
            )
        try:
            return super().clean()
        except ValidationError:
            cache.add(key, 0, PAUSE_S)
            try:
                cache.incr(key)
            except ValueError:
                pass  # it ran out between the two
            raise

    def confirm_login_allowed(self, user: Any) -> None:
        """This form knows passwords only: who has a second factor goes where it is asked for."""
        super().confirm_login_allowed(user)
        if is_mfa_enabled(user):
            raise ValidationError(
                "This account has a second factor. Sign in at /accounts/login/, then open the admin.",
                code="second-factor",
            )


def _network(request: Any) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address there has all."""
    text = request.META.get("REMOTE_ADDR", "") if request is not None else ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
