"""What an instance is, for API and pages: conditions, addresses, records, certificate, TURN, use. Reads only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

from controlplane.certificates import services as certificates
from controlplane.fleet import routes
from controlplane.fleet.models import Placement
from controlplane.provisioning import order
from controlplane.provisioning.engines import control_of
from controlplane.provisioning.models import Walk
from controlplane.reconcile.models import Condition
from controlplane.turn import services as turn
from controlplane.values.errors import RoostError, Unavailable
from controlplane.zones import services as zones
from tenants.errors import WrongState
from tenants.models import Instance


def conditions_of(instance: Instance) -> list[dict[str, Any]]:
    """All conditions, in their fixed order; those that no pass has written yet are Unknown."""
    known = {c.type: c for c in Condition.objects.filter(kind="Instance", object_id=instance.key)}
    return [_condition(name, known.get(name)) for name in order.CONDITIONS]


def _condition(name: str, row: Condition | None) -> dict[str, Any]:
    if row is None:
        return {
            "type": name,
            "status": "Unknown",
            "reason": "Waiting",
            "message": "No pass has looked at it yet.",
            "remedy": "",
            "stalled": False,
            "observed_generation": 0,
            "last_transition": None,
        }
    return {
        "type": row.type,
        "status": row.status,
        "reason": row.reason,
        "message": row.message,
        "remedy": row.remedy,
        "stalled": row.stalled,
        "observed_generation": row.observed_generation,
        "last_transition": row.last_transition,
    }


def instance_status(instance: Instance) -> dict[str, Any]:
    """``ready`` also needs that the last pass saw the present generation."""
    found = conditions_of(instance)
    last = found[-1]
    ready = last["status"] == "True" and last["observed_generation"] >= instance.generation
    placement = Placement.objects.select_related("node").filter(instance=instance).first()
    return {
        "ready": ready,
        "summary": _summary(instance, found, ready=ready),
        "conditions": found,
        "node": placement.node.name if placement else None,
        "placement": placement.explanation if placement else "",
        "addresses": _addresses(placement),
    }


def _addresses(placement: Placement | None) -> list[str]:
    """Where DNS leads its clients."""
    if placement is None:
        return []
    return list(routes.addresses_of(routes.edges_of(placement.node), routes.rows_of(placement.instance)))


def _summary(instance: Instance, found: list[dict[str, Any]], *, ready: bool) -> str:
    """One sentence for people."""
    if ready:
        return f"{instance.domain.name} is up, and a client's walk proved it."
    last = found[-1]
    if last["reason"] in {"Suspended", "Terminating"}:
        return str(
            next((c["message"] for c in found if c["reason"] == last["reason"] and c["message"]), last["message"])
        )
    done = sum(c["status"] == "True" for c in found[:-1])
    waiting = next((c for c in found[:-1] if c["status"] != "True"), None)
    text = f"{done} of {len(found) - 1} conditions hold."
    return f"{text} {waiting['type']}: {waiting['message']}" if waiting else text


def dns_status(instance: Instance) -> list[dict[str, Any]]:
    """Each record set: wanted, who publishes it, whether the authoritative servers have it."""
    return zones.status(instance)


def certificate_status(instance: Instance) -> dict[str, Any]:
    return certificates.status(instance)


def turn_status(instance: Instance) -> dict[str, Any]:
    """What the instance announces by XEP-0215; never the secret."""
    announced = turn.announcement(instance)
    if announced is None:
        return {"offered": False, "host": None, "port": None, "tls_port": None, "label": None, "ttl_s": None}
    return {
        "offered": True,
        "host": announced.host.ascii,
        "port": announced.port,
        "tls_port": announced.tls_port,
        "label": announced.label,
        "ttl_s": announced.ttl_s,
    }


def turn_credentials(instance: Instance, *, ttl_s: int = 3600) -> dict[str, Any]:
    """Short-lived TURN REST credentials for a test call (draft-uberti-behave-turn-rest §2.2)."""
    if not instance.should_run:
        raise WrongState(f"{instance.domain.name} does not run.", remedy="Resume or restore it first.")
    announced = turn.announcement(instance)
    if announced is None:
        raise Unavailable(f"{instance.domain.name} has no TURN secret yet.", remedy="Wait for the condition TurnReady.")
    expires = int(time.time()) + ttl_s
    username = f"{expires}:{announced.label}"
    mac = hmac.new(announced.secret.reveal().encode(), username.encode(), hashlib.sha1)
    host, port = announced.host.ascii, announced.port
    uris = [f"turn:{host}:{port}?transport=udp", f"turn:{host}:{port}?transport=tcp", f"stun:{host}:{port}"]
    if announced.tls_port:
        uris.append(f"turns:{host}:{announced.tls_port}?transport=tcp")
    return {
        "username": username,
        "password": base64.b64encode(mac.digest()).decode(),
        "expires": expires,
        "ttl_s": ttl_s,
        "uris": uris,
    }


def walk_status(instance: Instance) -> dict[str, Any] | None:
    """The last walk of a client, step by step; None before the first."""
    row = Walk.objects.filter(instance=instance).first()
    if row is None:
        return None
    return {"at": row.at, "ok": row.ok, "duration_s": row.duration_s, "steps": row.steps}


def usage(*, instance: Instance, ask: bool = True) -> dict[str, Any]:
    """What is used of the plan. Counts are null, and ``problem`` says why, while the engine cannot be asked.

    ``ask`` False: it is not asked, for want of time.
    """
    plan = instance.plan
    limits = {
        "accounts": plan.max_accounts,
        "rooms": plan.max_rooms,
        "upload_bytes": plan.upload_quota_mib * 1024 * 1024,
        "memory_mib": plan.memory_mib,
    }
    result: dict[str, Any] = {
        "instance": instance.key,
        "domain": instance.domain.name,
        "plan": plan.slug,
        "suspended": instance.suspended_at is not None,
        "limits": limits,
        "accounts": None,
        "online": None,
        "rooms": None,
        "archive_messages": None,
        "upload_bytes": None,
        "problem": "",
    }
    if not ask:
        result["problem"] = "It was not asked: others took too long. Ask for this instance alone."
        return result
    try:
        used = control_of(instance).usage()
    except RoostError as error:
        result["problem"] = str(error)
        return result
    for name in ("accounts", "online", "rooms", "archive_messages", "upload_bytes"):
        result[name] = getattr(used, name)
    return result
