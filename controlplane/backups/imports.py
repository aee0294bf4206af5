"""Taking an organisation in from elsewhere: the file is accepted, previewed, and taken in when somebody confirms.

Services only; the work is ``imports_pass``'s. A file lies in the spool under its import's key until the import ends.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from controlplane.backups.importrows import Import
from controlplane.reconcile import watch
from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants import audit
from tenants.errors import QuotaExceeded, WrongState
from tenants.models import Instance
from tenants.principal import Principal

KIND = "Import"
#: A file that nobody confirms is thrown away then.
KEPT = datetime.timedelta(days=7)
#: What a file being received is called, and what it is called when it is an import's.
RECEIVING, RECEIVED = "upload-", "import-"


def spool() -> Path:
    """The directory of received files, made if need be; Roost's alone."""
    path = Path(settings.ROOST["SPOOL_DIR"])
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def place_of(row: Import) -> Path:
    return spool() / f"{RECEIVED}{row.key}"


def largest_bytes() -> int:
    """Of a file that is sent."""
    return int(settings.ROOST["IMPORT_MAX_BYTES"])


def begin_import(
    *, instance: Instance, received: Path, name: str, sha256: str, host: str, replace: bool, principal: Principal
) -> Import:
    """``received``: the file in the spool, which gets the import's name. ``WrongState``: another one is open."""
    row = Import(
        instance=instance,
        instance_key=instance.key,
        file_name="".join(c for c in name if c.isprintable())[:200],
        file_bytes=received.stat().st_size,
        sha256=sha256,
        host=_host(host),
        replace=replace,
        requested_by=principal.name[:200],
    )
    os.link(received, place_of(row))
    try:
        with transaction.atomic():
            if not instance.should_run:
                raise WrongState("The instance is not meant to run.", remedy="Resume it first.")
            row.save(force_insert=True)
            _audit(row, principal, "begin", f"{row.file_name} ({row.file_bytes} bytes) handed in to be imported")
            watch.touch(KIND, row.key)
    except IntegrityError:
        place_of(row).unlink(missing_ok=True)
        raise WrongState(
            "Another import of this instance is open.", remedy="Confirm or cancel that one first."
        ) from None
    except BaseException:
        place_of(row).unlink(missing_ok=True)
        raise
    return row


def confirm_import(*, row: Import, principal: Principal) -> Import:
    """Take in what was previewed. ``QuotaExceeded``: it is more than the plan allows."""
    with transaction.atomic():
        row = Import.objects.select_for_update().get(pk=row.pk)
        if row.state in (Import.WAITING, Import.RUNNING, Import.DONE):
            return row
        if row.state != Import.PREVIEWED:
            raise WrongState(f"It {row.get_state_display()}.", remedy="Wait for its preview, or begin anew.")
        for blocked in row.preview.get("blocked", []):
            raise QuotaExceeded("import", blocked, remedy="Change the plan, or hand in a smaller file.")
        row.state, row.confirmed_at = Import.WAITING, timezone.now()
        row.save(update_fields=["state", "confirmed_at"])
        _audit(row, principal, "confirm", f"Import of {row.file_name} confirmed")
        watch.touch(KIND, row.key)
    return row


def cancel_import(*, row: Import, principal: Principal) -> Import:
    """It ends soon; what was taken in until then stays."""
    with transaction.atomic():
        row = Import.objects.select_for_update().get(pk=row.pk)
        if row.state in Import.OPEN and row.cancel_requested_at is None:
            row.cancel_requested_at = timezone.now()
            row.save(update_fields=["cancel_requested_at"])
            _audit(row, principal, "cancel", f"Import of {row.file_name} called off")
            watch.touch(KIND, row.key)
    return row


def shown(row: Import) -> dict[str, Any]:
    """As the API has it."""
    names = (
        *("key", "file_name", "file_bytes", "sha256", "host", "replace", "state", "progress", "preview", "report"),
        *("requested_by", "created_at", "previewed_at", "confirmed_at", "started_at", "finished_at"),
        *("cancel_requested_at", "attempts", "error", "remedy"),
    )
    return {"instance": row.instance_key, **{name: getattr(row, name) for name in names}}


def clear_left_overs() -> int:
    """Files of the spool that no open import has any more: a web process was ended while it received one."""
    kept = set(Import.objects.filter(state__in=Import.OPEN).values_list("key", flat=True))
    limit, removed = timezone.now().timestamp() - 24 * 3600, 0
    for path in spool().iterdir():
        prefix, dash, rest = path.name.partition("-")
        ours = f"{prefix}{dash}" in (RECEIVING, RECEIVED) and path.is_file() and rest not in kept
        if ours and path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _host(text: str) -> str:
    if not text:
        return ""
    try:
        return DomainName.parse(text).ascii
    except InvalidInput as error:
        raise InvalidInput("host", error.message, remedy="Give a domain of the file, such as example.org.") from error


def _audit(row: Import, principal: Principal, verb: str, summary: str) -> None:
    assert row.instance is not None
    audit.record(
        principal=principal,
        action=f"import.{verb}",
        kind="Import",
        object_id=row.key,
        organisation=row.instance.organisation.slug,
        summary=summary[:200],
        data={"instance": row.instance_key, "replace": row.replace},
    )
