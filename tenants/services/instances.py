"""What an instance should be: its making and the changes of its spec. Ending it is ``lifecycle``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction

from controlplane.reconcile import history, watch
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants import audit, quotas, validators
from tenants.errors import Taken, WrongState
from tenants.models import ENGINES, Instance, Organisation, Plan
from tenants.principal import Principal
from tenants.services.domains import bind
from tenants.services.plans import LIMITS

ROTATABLE = ("turn", "certificate", "probe")


@transaction.atomic
def create_instance(
    *,
    organisation: Organisation,
    domain: str,
    engine: str,
    plan: Plan,
    principal: Principal,
    display_name: str = "",
    language: str = "en",
    contacts: Iterable[Mapping[str, Any]] = (),
    admins: Iterable[str] = (),
    s2s_blocked: Iterable[str] = (),
    publish_links: bool = False,
    archive_days: int = 0,
    upload_days: int = 0,
    node_labels: Mapping[str, str] | None = None,
) -> Instance:
    """Want an XMPP server for a domain; the organisation's claim on it is made if there is none.

    Raises ``InvalidInput``, ``Taken`` (the domain) or ``QuotaExceeded`` (the plan).
    """
    if engine not in dict(ENGINES):
        raise InvalidInput("engine", "There is no such engine.", remedy=f"Use {' or '.join(dict(ENGINES))}.")
    organisation = Organisation.objects.select_for_update().get(pk=organisation.pk)
    _check_open(plan)
    quotas.check_instances(organisation, plan)
    claim, _ = bind(organisation=organisation, domain=domain)
    if Instance.objects.filter(domain=claim).exists():
        raise Taken("domain", f"There is an instance for {claim.name} already.", remedy="Change that one.")
    name = DomainName(claim.name)
    spec = _clean(
        name,
        display_name=display_name or name.unicode,
        language=language,
        contacts=list(contacts),
        admins=list(admins),
        s2s_blocked=list(s2s_blocked),
        publish_links=publish_links,
        archive_days=archive_days,
        upload_days=upload_days,
        node_labels=node_labels or {},
    )
    _check_labels(plan, spec["node_labels"])
    instance = Instance.objects.create(organisation=organisation, domain=claim, plan=plan, engine=engine, **spec)
    note(
        instance,
        "Created",
        action="instance.create",
        summary=f"{engine} for {name} created",
        principal=principal,
        data={"domain": name.ascii, "engine": engine, "plan": plan.slug, **spec},
    )
    return instance


@transaction.atomic
def change_instance(
    *,
    instance: Instance,
    principal: Principal,
    display_name: str | None = None,
    language: str | None = None,
    contacts: Iterable[Mapping[str, Any]] | None = None,
    admins: Iterable[str] | None = None,
    s2s_blocked: Iterable[str] | None = None,
    publish_links: bool | None = None,
    archive_days: int | None = None,
    upload_days: int | None = None,
    node_labels: Mapping[str, str] | None = None,
) -> Instance:
    """Change the spec; what is None stays. Nothing happens if nothing differs.

    ``node_labels`` count when a node is looked for: an instance that has one stays there.
    """
    given = {
        "display_name": display_name,
        "language": language,
        "contacts": None if contacts is None else list(contacts),
        "admins": None if admins is None else list(admins),
        "s2s_blocked": None if s2s_blocked is None else list(s2s_blocked),
        "publish_links": publish_links,
        "archive_days": archive_days,
        "upload_days": upload_days,
        "node_labels": node_labels,
    }
    instance = hold(instance)
    clean = _clean(DomainName(instance.domain.name), **{k: v for k, v in given.items() if v is not None})
    _check_labels(instance.plan, clean.get("node_labels", {}))
    changes = {k: v for k, v in clean.items() if getattr(instance, k) != v}
    if changes:
        _apply(instance, changes)
        note(
            instance,
            "SpecChanged",
            action="instance.change",
            summary=f"{', '.join(changes)} changed",
            principal=principal,
            data=changes,
        )
    return instance


@transaction.atomic
def change_plan(*, instance: Instance, plan: Plan, principal: Principal) -> Instance:
    """Put the instance on another plan, within that plan's quotas."""
    Organisation.objects.select_for_update().get(pk=instance.organisation_id)
    instance = hold(instance)
    if instance.plan_id == plan.pk:
        return instance
    _check_open(plan)
    quotas.check_instances(instance.organisation, plan, beside=instance)
    _check_labels(plan, instance.node_labels)
    before = instance.plan.slug
    _apply(instance, {"plan": plan})
    note(
        instance,
        "PlanChanged",
        action="instance.change_plan",
        summary=f"Plan changed from {before} to {plan.slug}",
        principal=principal,
        data={"from": before, "to": plan.slug},
    )
    return instance


@transaction.atomic
def rotate(*, instance: Instance, what: str, principal: Principal) -> Instance:
    """A new TURN secret, certificate or password of Roost's own account. ``what``: one of ``ROTATABLE``."""
    if what not in ROTATABLE:
        raise InvalidInput("what", "That cannot be rotated.", remedy=f"Use one of: {', '.join(ROTATABLE)}.")
    instance = hold(instance)
    field = f"rotate_{what}"
    _apply(instance, {field: getattr(instance, field) + 1})
    note(
        instance,
        "RotationRequested",
        action="instance.rotate",
        summary=f"Rotation of the {what} requested",
        principal=principal,
        data={"what": what},
    )
    return instance


@transaction.atomic
def reverify_instance(*, instance: Instance, principal: Principal) -> Instance:
    """Have a client's walk through the instance done again."""
    instance = hold(instance)
    _apply(instance, {"verify_generation": instance.verify_generation + 1})
    note(
        instance,
        "VerificationRequested",
        action="instance.reverify",
        summary="Verification requested",
        principal=principal,
    )
    return instance


def hold(instance: Instance, *, terminated: bool = False) -> Instance:
    """The row as it is now, locked; ``WrongState`` if it is on its way out and the caller cannot have that."""
    row: Instance = (
        Instance.objects.select_for_update(of=("self",))
        .select_related("organisation", "domain", "plan")
        .get(pk=instance.pk)
    )
    if row.deletion_requested_at is not None and not terminated:
        raise WrongState(f"{row.domain.name} is being terminated.", remedy="Restore it first, if it still can be.")
    return row


def note(instance: Instance, event: str, *, action: str, summary: str, principal: Principal, data: Any = None) -> None:
    """What every change ends with: audit, history, touch."""
    scope = instance.organisation.slug
    audit.record(
        principal=principal,
        action=action,
        kind="Instance",
        object_id=instance.key,
        organisation=scope,
        summary=f"{instance.domain.name}: {summary}",
        data=data,
    )
    history.record("Instance", instance.key, event, scope=scope, message=f"{summary}, by {principal.name}.")
    watch.touch("Instance", instance.key)


def _apply(instance: Instance, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        setattr(instance, key, value)
    instance.generation += 1
    instance.save(update_fields=[*changes, "generation"])


def _check_open(plan: Plan) -> None:
    if not plan.open:
        raise InvalidInput("plan", f"The plan {plan.slug} is closed.", remedy="Choose an open plan.")


def _clean(name: DomainName, **given: Any) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "display_name": lambda v: validators.line(v, field="display_name"),
        "language": validators.language,
        "contacts": validators.contacts,
        "admins": lambda v: validators.admins(v, domain=name),
        "s2s_blocked": lambda v: validators.blocked(v, domain=name),
        "publish_links": bool,
        "archive_days": lambda v: _days(v, field="archive_days"),
        "upload_days": lambda v: _days(v, field="upload_days"),
        "node_labels": lambda v: validators.labels(v, field="node_labels"),
    }
    return {key: rules[key](value) for key, value in given.items()}


def _days(value: int, *, field: str) -> int:
    """What is more than the plan's counts as the plan's; 0 is the plan's too."""
    longest = LIMITS[field][1]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= longest:
        raise InvalidInput(field, f"Give a whole number of days from 0 to {longest}; 0 is what the plan says.")
    return value


def _check_labels(plan: Plan, wanted: Mapping[str, str]) -> None:
    """No node has two values of one label."""
    for name, value in wanted.items():
        if plan.node_labels.get(name, value) != value:
            raise InvalidInput(
                "node_labels",
                f"The plan {plan.slug} wants {name}={plan.node_labels[name]}, and the instance {name}={value}.",
                remedy="Leave that label out, or choose another plan.",
            )
