"""How a tenant is named in labels: by its key, by a keyed hash of it, or not at all (ROOST_METRICS_TENANTS)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from django.conf import settings

KEY, HASH, NONE = "key", "hash", "none"
MODES = (KEY, HASH, NONE)


@dataclass(frozen=True, slots=True)
class TenantLabels:
    """``NONE``: no series of single tenants is given, only sums."""

    mode: str

    @classmethod
    def configured(cls) -> TenantLabels:
        return cls(settings.ROOST["METRICS_TENANTS"])

    @property
    def shown(self) -> bool:
        return self.mode != NONE

    @property
    def named(self) -> bool:
        """Whether the tenant's organisation and domain may be said, too."""
        return self.mode == KEY

    def of(self, key: str) -> str:
        """The value of the label ``instance``."""
        if self.mode != HASH:
            return key
        secret = settings.SECRET_KEY.encode()
        return hmac.new(secret, b"metrics:" + key.encode(), hashlib.sha256).hexdigest()[:12]
