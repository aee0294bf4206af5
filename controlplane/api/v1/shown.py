"""Rows as bodies. No secrets, and only what the row's readers may see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.urls import reverse

from controlplane.drivers.engine.base import Room
from controlplane.reconcile.history import Cursor
from controlplane.reconcile.models import Condition, Event
from controlplane.values.names import DomainName
from controlplane.values.records import txt
from tenants.models import ApiToken, AuditEvent, Domain, Instance, Organisation, Plan
from tenants.services.plans import LIMITS


def url(view: str, /, **kwargs: Any) -> str:
    return reverse(f"v1:{view}", kwargs=kwargs)


def organisation(row: Organisation) -> dict[str, Any]:
    count = getattr(row, "instance_count", None)
    slug = row.slug
    return {
        "slug": slug,
        "name": row.name,
        "external_id": row.external_id,
        "instances": row.instances.count() if count is None else count,
        "created_at": row.created_at,
        "links": {
            "self": url("organisation", slug=slug),
            "instances": url("organisation-instances", slug=slug),
            "domains": url("organisation-domains", slug=slug),
            "usage": url("organisation-usage", slug=slug),
            "audit": f"{url('audit')}?organisation={slug}",
        },
    }


def desired(row: Instance) -> str:
    if row.deletion_requested_at is not None:
        return "terminated"
    return "suspended" if row.suspended_at is not None else "running"


def ready_keys(rows: Iterable[Instance]) -> set[str]:
    """Keys of those that are ready in their present generation, in one query."""
    generations = {row.key: row.generation for row in rows}
    found = Condition.objects.filter(kind="Instance", type="Ready", status="True", object_id__in=generations)
    return {c.object_id for c in found if c.observed_generation >= generations[c.object_id]}


def instance_listed(row: Instance, *, ready: bool) -> dict[str, Any]:
    key = row.key
    parts = ("events", "accounts", "rooms", "dns", "certificate", "turn", "usage", "verification")
    return {
        "key": key,
        "organisation": row.organisation.slug,
        "domain": row.domain.name,
        "domain_unicode": DomainName(row.domain.name).unicode,
        "engine": row.engine,
        "plan": row.plan.slug,
        "desired": desired(row),
        "ready": ready,
        "display_name": row.display_name,
        "language": row.language,
        "contacts": row.contacts,
        "admins": row.admins,
        "s2s_blocked": row.s2s_blocked,
        "publish_links": row.publish_links,
        "archive_days": row.archive_days,
        "upload_days": row.upload_days,
        "node_labels": row.node_labels,
        "generation": row.generation,
        "suspended_at": row.suspended_at,
        "suspended_reason": row.suspended_reason,
        "deletion_requested_at": row.deletion_requested_at,
        "delete_after": row.delete_after,
        "created_at": row.created_at,
        "links": {
            "self": url("instance", key=key),
            "organisation": url("organisation", slug=row.organisation.slug),
            **{part: url(f"instance-{part}", key=key) for part in parts},
            "audit": f"{url('audit')}?object_id={key}",
        },
    }


def instance(row: Instance) -> dict[str, Any]:
    """With the conditions, and a sentence on how far it is."""
    from controlplane.provisioning import status  # late: it reaches into every room

    found = status.instance_status(row)
    return {
        **instance_listed(row, ready=found["ready"]),
        "summary": found["summary"],
        "conditions": found["conditions"],
        "backups": conditions_of("Backups", row.key),
        "node": found["node"],
        "placement": found["placement"],
        "addresses": list(found["addresses"]),
        "domain_proof": proof(row.domain),
    }


def conditions_of(kind: str, object_id: str) -> list[dict[str, Any]]:
    """What is so of something beside the instance itself, in the order in which people should see it."""
    fields = ("type", "status", "reason", "message", "remedy", "stalled", "observed_generation", "last_transition")
    rows = Condition.objects.filter(kind=kind, object_id=object_id).order_by("position", "type")
    return [{name: getattr(row, name) for name in fields} for row in rows]


def proof(row: Domain) -> dict[str, Any]:
    """What has to be published; nothing once it is proven."""
    needed = row.proven_at is None
    records: list[dict[str, Any]] = []
    if needed:
        from controlplane.zones import plan as names

        where = names.proof_name(DomainName(row.name))
        records = [{"name": str(where), "type": "TXT", "rdata": txt(row.proof_token)}]
    return {
        "needed": needed,
        "token": row.proof_token if needed else None,
        "records": records,
        "method": row.proof_method,
    }


def domain(row: Domain) -> dict[str, Any]:
    return {
        "name": row.name,
        "unicode": DomainName(row.name).unicode,
        "organisation": row.organisation.slug,
        "mode": row.mode,
        "proven": row.proven_at is not None,
        "proven_at": row.proven_at,
        "proof": proof(row),
        "instance": row.instance.key if hasattr(row, "instance") else None,
    }


def room_listed(row: Room, muc: DomainName) -> dict[str, Any]:
    return {
        "name": row.local.text,
        "jid": f"{row.local}@{muc}",
        "occupants": row.occupants,
        "subject": row.subject,
        **asdict(row.settings),
    }


def room(row: Room, muc: DomainName) -> dict[str, Any]:
    return {**room_listed(row, muc), "affiliations": dict(row.affiliations)}


def plan(row: Plan) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("slug", "name", "open", "node_labels", *LIMITS)}


def token(row: ApiToken) -> dict[str, Any]:
    fields = ("prefix", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {
        **{name: getattr(row, name) for name in fields},
        "organisation": row.organisation.slug if row.organisation else None,
    }


def event(row: Event) -> dict[str, Any]:
    fields = ("at", "kind", "object_id", "type", "reason", "message")
    return {
        "cursor": str(Cursor.of(row)),
        **{name: getattr(row, name) for name in fields},
        "organisation": row.scope,
    }


def audit(row: AuditEvent) -> dict[str, Any]:
    fields = ("id", "at", "actor", "address", "organisation", "action", "kind", "object_id", "summary", "data")
    return {name: getattr(row, name) for name in fields}
