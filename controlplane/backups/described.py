"""What a bundle says of the instance itself: its spec as Roost's users gave it, and the moment that it is as of."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from tenants.models import Instance


def described(instance: Instance) -> dict[str, Any]:
    """The spec, fit to make the like of it again. No secret is in it."""
    return {
        "key": instance.key,
        "organisation": instance.organisation.slug,
        "plan": instance.plan.slug,
        "engine": instance.engine,
        "display_name": instance.display_name,
        "language": instance.language,
        "contacts": list(instance.contacts),
        "admins": list(instance.admins),
        "s2s_blocked": list(instance.s2s_blocked),
        "publish_links": instance.publish_links,
        "node_labels": dict(instance.node_labels),
        "archive_days": instance.archive_days,
        "upload_days": instance.upload_days,
    }


def moment_of(moments: Mapping[str, str]) -> datetime.datetime:
    """The oldest of a backup's moments: all that was done before it is in the backup."""
    return min(datetime.datetime.fromisoformat(text) for text in moments.values())
