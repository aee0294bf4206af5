"""Seals secrets for the database: Fernet (AES-128-CBC and HMAC-SHA256) with rotating keys.

The row's identity is sealed with the secret, so a ciphertext copied to another row does not open there.
"""

from __future__ import annotations

import json

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from controlplane.values.errors import Rejected
from controlplane.values.secret import Secret


def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.ROOST["MASTER_KEYS"]])


def seal(context: str, secret: Secret) -> str:
    """Ciphertext of ``secret``, bound to ``context`` (such as ``turn:k3v9x2ab``)."""
    return _fernet().encrypt(json.dumps([context, secret.reveal()]).encode()).decode()


def unseal(context: str, token: str) -> Secret:
    """The secret. ``Rejected`` if no key opens it or it was sealed for another row."""
    try:
        bound, value = json.loads(_fernet().decrypt(token.encode()))
    except InvalidToken as error:
        raise Rejected(
            f"The stored secret of {context} does not open.", remedy="Put the key it was sealed with into the key file."
        ) from error
    if bound != context:
        raise Rejected(f"The stored secret of {context} belongs to another row.", remedy="Restore the row.")
    return Secret(value)


def reseal(context: str, token: str) -> str:
    """The same secret under the newest key."""
    return seal(context, unseal(context, token))
