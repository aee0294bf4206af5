"""Texts of links that let somebody in: a random secret, signed, so that what was never ours costs no query.

Only a keyed digest of the secret is stored (as of API tokens), so a stolen table opens nothing. Whether a link still
counts (expired, used, withdrawn) is for the row that it leads to.
"""

from __future__ import annotations

import secrets

from django.core.signing import BadSignature, Signer
from django.utils.crypto import salted_hmac

from controlplane.values.secret import Secret

INVITATION, LOGIN = "roost.invitation", "roost.login"
MAX_TEXT = 200


def new_text(purpose: str) -> tuple[str, Secret]:
    """The digest to store, and the link's text."""
    secret = secrets.token_urlsafe(32)
    return _digest(purpose, secret, None), Secret(Signer(salt=purpose).sign(secret))


def digests(purpose: str, text: str) -> list[str]:
    """The digests that a row of this text may have (one for each secret key in use); none for a text of no ours."""
    from django.conf import settings

    if len(text) > MAX_TEXT:
        return []
    try:
        secret = Signer(salt=purpose).unsign(text)
    except BadSignature:
        return []
    return [_digest(purpose, secret, key) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)]


def _digest(purpose: str, secret: str, key: str | None) -> str:
    return salted_hmac(purpose, secret, secret=key, algorithm="sha256").hexdigest()
