"""API tokens as text: ``rst_<prefix>_<secret>``. Only a keyed digest is stored; the text is shown once.

The key is derived from SECRET_KEY (a pepper that is not in the database), so a stolen table opens nothing.
"""

from __future__ import annotations

import datetime
import secrets
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from controlplane.values.secret import Secret
from tenants.models import ApiToken, Membership
from tenants.principal import ALL_SCOPES, ROLE_SCOPES, Principal

_ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
#: Key in a session: the slug of the one organisation that it is for.
ONLY_ORGANISATION = "roost_organisation"
_PREFIX_LENGTH, _SECRET_LENGTH = 10, 40  # 40 of 56 characters: 232 bits
#: The time of last use is written at most this often: a busy token is no write per request.
_USED_EVERY = datetime.timedelta(minutes=1)


def new_text() -> tuple[str, Secret]:
    """A fresh prefix and the whole token."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    return prefix, Secret(f"rst_{prefix}_{secret}")


def digest(token: Secret, *, key: str | None = None) -> str:
    """HMAC-SHA256 of the whole token, hexadecimal."""
    return salted_hmac("roost.api-token", token.reveal(), secret=key, algorithm="sha256").hexdigest()


def find(token: Secret) -> ApiToken | None:
    """The valid token with this text; None for an unknown, expired or revoked one. Notes the use."""
    parts = token.reveal().split("_")
    if len(parts) != 3 or parts[0] != "rst" or len(parts[1]) != _PREFIX_LENGTH or len(parts[2]) != _SECRET_LENGTH:
        return None
    row = ApiToken.objects.select_related("organisation", "user").filter(prefix=parts[1]).first()
    stored = row.digest if row is not None else "0" * 64
    known = [constant_time_compare(stored, digest(token, key=k)) for k in _keys()]
    if row is None or not any(known) or not is_valid(row):
        return None
    now = timezone.now()
    if row.last_used_at is None or now - row.last_used_at > _USED_EVERY:
        ApiToken.objects.filter(pk=row.pk).update(last_used_at=now)
    return row


def is_valid(row: ApiToken) -> bool:
    """Neither revoked nor expired, and its person, if it has one, may still log in and belongs there."""
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= timezone.now()):
        return False
    if row.user is None:
        return True
    if not row.user.is_active or row.user.is_superuser:
        return row.user.is_active
    return Membership.objects.filter(user=row.user, organisation=row.organisation).exists()


def principal_of_token(row: ApiToken, *, address: str | None = None) -> Principal:
    """An operator's token acts with its scopes everywhere, an organisation's only there."""
    scopes = frozenset(row.scopes) & ALL_SCOPES
    name = f"token {row.name} ({row.prefix})"
    if row.organisation is None:
        return Principal(name=name, is_operator=True, scopes=scopes, address=address)
    return Principal(name=name, organisations={row.organisation.slug: scopes}, address=address)


def principal_of_user(user: Any, *, address: str | None = None, only: str | None = None) -> Principal:
    """A superuser is an operator; anybody else acts by roles in organisations.

    ``only``: the slug of the one organisation that the session is for, since a login link made it.
    """
    name = str(user.get_username())
    if user.is_superuser and only is None:
        return Principal(name=name, is_operator=True, scopes=ALL_SCOPES, address=address)
    rows = Membership.objects.select_related("organisation").filter(user_id=user.pk)
    if only is not None:
        rows = rows.filter(organisation__slug=only)
    roles = {row.organisation.slug: ROLE_SCOPES[row.role] for row in rows}
    return Principal(name=name, organisations=roles, address=address)


def _keys() -> list[Any]:
    return [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
