"""Gives out and revokes API tokens. The text is returned once and is nowhere else."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.utils import timezone

from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret
from tenants import audit, tokens, validators
from tenants.models import ApiToken, Organisation
from tenants.principal import Principal

#: Scopes that make sense only without an organisation.
OPERATOR_SCOPES = frozenset({"organisations", "admin", "logins"})


@transaction.atomic
def create_token(
    *,
    name: str,
    scopes: Iterable[str],
    principal: Principal,
    organisation: Organisation | None = None,
    user: Any = None,
    expires_at: datetime.datetime | None = None,
) -> tuple[ApiToken, Secret]:
    """The row and the token's text. Without an organisation it is an operator's token.

    ``InvalidInput`` for a scope that ``principal`` has not itself: making tokens would else grant everything.
    ``user``: the person it stands for; it stops working when that person may not log in any more.
    """
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in ApiToken.SCOPES]
    if unknown or not wanted:
        raise InvalidInput("scopes", "The scopes do not fit.", remedy=f"Use some of: {', '.join(ApiToken.SCOPES)}.")
    if organisation is not None and OPERATOR_SCOPES & set(wanted):
        raise InvalidInput(
            "scopes", "These scopes are the operator's.", remedy=f"Leave out {', '.join(sorted(OPERATOR_SCOPES))}."
        )
    lacking = [scope for scope in wanted if not principal.may(scope, organisation.slug if organisation else None)]
    if lacking or (organisation is None and not principal.is_operator):
        raise InvalidInput(
            "scopes",
            "A token may do no more than whoever makes it.",
            remedy=f"Leave out {', '.join(lacking or wanted)}, or have it made by somebody who may do that.",
        )
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidInput("expires_at", "That time is over.", remedy="Give a time in the future, or none.")
    prefix, text = tokens.new_text()
    row = ApiToken.objects.create(
        name=validators.line(name, field="name", maximum=100, empty=False),
        prefix=prefix,
        digest=tokens.digest(text),
        organisation=organisation,
        user=user,
        scopes=wanted,
        expires_at=expires_at,
    )
    data = {"scopes": wanted, "expires_at": expires_at.isoformat() if expires_at else None}
    _audit(row, "token.create", f"Token {row.name} created", principal, data)
    return row, text


@transaction.atomic
def revoke_token(*, token: ApiToken, principal: Principal) -> ApiToken:
    """From now on it opens nothing. Revoking twice changes nothing."""
    token = ApiToken.objects.select_for_update(of=("self",)).select_related("organisation").get(pk=token.pk)
    if token.revoked_at is None:
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])
        _audit(token, "token.revoke", f"Token {token.name} revoked", principal)
    return token


def _audit(row: ApiToken, action: str, summary: str, principal: Principal, data: dict[str, Any] | None = None) -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="ApiToken",
        object_id=row.prefix,
        organisation=row.organisation.slug if row.organisation else "",
        summary=summary,
        data=data,
    )
