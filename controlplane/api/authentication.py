"""Who sends a request: the bearer of a token, or a person with a session (for the browsable documentation)."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from controlplane.values.secret import Secret
from tenants import tokens
from tenants.principal import Principal

MAX_TOKEN_BYTES = 200


class TokenBearer(AnonymousUser):
    """Stands where Django wants a user; what it may do says the principal."""

    @property
    def is_authenticated(self) -> bool:  # type: ignore[override]
        return True


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Bearer rst_…`` (RFC 6750 §2.1)."""

    def authenticate(self, request: Request) -> tuple[Any, Principal] | None:
        scheme, _, text = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            token = Secret(text.strip().decode("ascii"))
        except UnicodeDecodeError as error:
            raise AuthenticationFailed("The token is not valid.") from error
        row = tokens.find(token) if len(text) <= MAX_TOKEN_BYTES else None
        if row is None:
            raise AuthenticationFailed("The token is not valid: unknown, expired or revoked.")
        return row.user or TokenBearer(), tokens.principal_of_token(row, address=address_of(request))

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="roost"'


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the schema describes tokens."""

    target_class = "controlplane.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "rst_<prefix>_<secret>"}


def principal_of(request: Request) -> Principal | None:
    """None for nobody."""
    if isinstance(request.auth, Principal):
        return request.auth
    user: Any = request.user
    if not user or not user.is_authenticated or not user.is_active:
        return None
    session = getattr(request, "session", None)
    only = session.get(tokens.ONLY_ORGANISATION) if session is not None else None
    return tokens.principal_of_user(user, address=address_of(request), only=only)


def address_of(request: Any) -> str | None:
    """The peer's address; None on a unix socket."""
    text = request.META.get("REMOTE_ADDR", "")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
