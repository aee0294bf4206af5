"""Organisations come, change their names, and go when nothing of theirs is left."""

from __future__ import annotations

from django.db import transaction
from django.db.models import ProtectedError

from tenants import audit, validators
from tenants.errors import Taken, WrongState
from tenants.models import AuditEvent, Organisation
from tenants.principal import Principal


@transaction.atomic
def create_organisation(*, slug: str, name: str, principal: Principal, external_id: str = "") -> Organisation:
    """Raises ``Taken`` for a short name that is or was in use, ``InvalidInput`` for one that does not fit."""
    validators.slug(slug)
    row = {
        "name": validators.line(name, field="name", empty=False),
        "external_id": validators.line(external_id, field="external_id", maximum=120),
    }
    gone = AuditEvent.objects.filter(organisation=slug, action="organisation.delete")
    if gone.exists():  # audit and events are kept by this name, and are another's
        raise Taken("slug", f"{slug} was an organisation that is gone.", remedy="Choose another short name.")
    organisation, made = Organisation.objects.get_or_create(slug=slug, defaults=row)
    if not made:
        raise Taken("slug", f"There is an organisation {slug} already.", remedy="Choose another short name.")
    _audit(organisation, "organisation.create", f"Organisation {slug} created", principal, row)
    return organisation


@transaction.atomic
def change_organisation(
    *, organisation: Organisation, principal: Principal, name: str | None = None, external_id: str | None = None
) -> Organisation:
    """Only what is not None changes; the short name never does."""
    changes: dict[str, str] = {}
    if name is not None:
        changes["name"] = validators.line(name, field="name", empty=False)
    if external_id is not None:
        changes["external_id"] = validators.line(external_id, field="external_id", maximum=120)
    organisation = Organisation.objects.select_for_update().get(pk=organisation.pk)
    changes = {k: v for k, v in changes.items() if getattr(organisation, k) != v}
    if changes:
        for key, value in changes.items():
            setattr(organisation, key, value)
        organisation.save(update_fields=list(changes))
        _audit(organisation, "organisation.change", f"Organisation {organisation.slug} changed", principal, changes)
    return organisation


@transaction.atomic
def delete_organisation(*, organisation: Organisation, principal: Principal) -> None:
    """Its claims, members and tokens go with it. ``WrongState`` while it has instances, terminated ones too."""
    organisation = Organisation.objects.select_for_update().get(pk=organisation.pk)
    count = organisation.instances.count()
    if count:
        raise WrongState(
            f"{organisation.slug} still has {count} instances.", remedy="Terminate them and wait until they are gone."
        )
    try:
        organisation.domains.all().delete()
        organisation.delete()
    except ProtectedError as error:  # an upper room keeps something of it
        raise WrongState(
            f"Something of {organisation.slug} is still in use.", remedy="Wait until its instances are gone."
        ) from error
    _audit(organisation, "organisation.delete", f"Organisation {organisation.slug} deleted", principal)


def _audit(
    organisation: Organisation, action: str, summary: str, principal: Principal, data: dict[str, str] | None = None
) -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="Organisation",
        object_id=organisation.slug,
        organisation=organisation.slug,
        summary=summary,
        data=data,
    )
