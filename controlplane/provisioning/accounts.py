"""Accounts of an instance: straight over the engine's control channel, with the plan's quota and the audit.

The engine is the one place where accounts are kept; nothing of them is stored in Roost's database.
"""

from __future__ import annotations

import secrets
from typing import Any

from controlplane.drivers.engine.base import Account, EngineControl
from controlplane.provisioning.engines import control_of
from controlplane.values.errors import InvalidInput
from controlplane.values.names import Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import PROBE_ACCOUNT
from tenants import audit
from tenants.errors import Missing, QuotaExceeded, Taken
from tenants.models import Instance
from tenants.principal import Principal

MIN_PASSWORD, MAX_PASSWORD = 8, 512


def list_accounts(*, instance: Instance) -> list[dict[str, Any]]:
    """Sorted by name; Roost's own probe account is left out."""
    found = control_of(instance).list_accounts()
    return [_shown(instance, account) for account in sorted(found, key=lambda a: a.local)]


def get_account(*, instance: Instance, username: str) -> dict[str, Any] | None:
    """One account, None if there is none of this name."""
    local = _parse(username)
    account = _find(control_of(instance), local)
    return None if account is None else _shown(instance, account)


def create_account(
    *, instance: Instance, username: str, password: Secret | None, principal: Principal
) -> tuple[dict[str, Any], Secret | None]:
    """The account, and the password if Roost made one up. ``Taken`` if the name is taken."""
    local = _parse(username)
    generated = None if password is not None else _generate()
    chosen = password if password is not None else generated
    assert chosen is not None
    check_password(chosen)
    control = control_of(instance)
    accounts = control.list_accounts()
    if any(account.local == local for account in accounts):
        raise _taken(local)
    limit = instance.plan.max_accounts
    if len(accounts) >= limit:
        raise QuotaExceeded(
            "username",
            f"The plan {instance.plan.slug} allows {limit} accounts, and {len(accounts)} exist.",
            remedy="Delete accounts or change the plan.",
        )
    if not control.create_account(local, chosen):
        raise _taken(local)
    _audit(instance, principal, "account.create", local)
    return _shown(instance, Account(local=local, enabled=True)), generated


def set_password(*, instance: Instance, username: str, password: Secret | None, principal: Principal) -> Secret | None:
    """The password if Roost made one up."""
    local = _parse(username)
    generated = None if password is not None else _generate()
    chosen = password if password is not None else generated
    assert chosen is not None
    check_password(chosen)
    control = control_of(instance)
    _require(control, local)
    control.set_password(local, chosen)
    _audit(instance, principal, "account.set_password", local)
    return generated


def set_enabled(*, instance: Instance, username: str, enabled: bool, principal: Principal) -> dict[str, Any]:
    """A disabled account keeps its data; its sessions are closed and logins refused."""
    local = _parse(username)
    control = control_of(instance)
    _require(control, local)
    control.set_account_enabled(local, enabled)
    _audit(instance, principal, "account.enable" if enabled else "account.disable", local)
    return _shown(instance, Account(local=local, enabled=enabled))


def delete_account(*, instance: Instance, username: str, principal: Principal) -> bool:
    """Account, roster, archive, uploads and the rest. False if there was none."""
    local = _parse(username)
    deleted = control_of(instance).delete_account(local)
    if deleted:
        _audit(instance, principal, "account.delete", local)
    return deleted


def _parse(username: str) -> Localpart:
    local = Localpart.parse(username, field="username")
    if local.text == PROBE_ACCOUNT:
        raise InvalidInput("username", f"{PROBE_ACCOUNT} is reserved for Roost's own checks.", remedy="Take another.")
    return local


def _find(control: EngineControl, local: Localpart) -> Account | None:
    return next((account for account in control.list_accounts() if account.local == local), None)


def _require(control: EngineControl, local: Localpart) -> Account:
    account = _find(control, local)
    if account is None:
        raise Missing(f"There is no account {local}.", remedy="Create it first.")
    return account


def _taken(local: Localpart) -> Taken:
    return Taken("username", f"The account {local} exists already.", remedy="Take another name, or set its password.")


#: Without those that look alike; no sign either, which a spreadsheet would take for the beginning of a formula.
_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def _generate() -> Secret:
    """117 bits, to be read out or typed off."""
    return Secret("".join(secrets.choice(_LETTERS) for _ in range(20)))


def check_password(password: Secret) -> None:
    """``InvalidInput`` for one that is too short or too long, or has controls: SASLprep (RFC 4013) would refuse those,
    engines differ, so they are refused here."""
    text = password.reveal()
    if not MIN_PASSWORD <= len(text) <= MAX_PASSWORD:
        raise InvalidInput("password", f"The password needs {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    if any(not character.isprintable() for character in text):
        raise InvalidInput("password", "The password has characters that cannot be typed.", remedy="Remove them.")


def _shown(instance: Instance, account: Account) -> dict[str, Any]:
    return {
        "username": account.local.text,
        "jid": f"{account.local}@{instance.domain.name}",
        "enabled": account.enabled,
        "online": account.online,
        "last_active": account.last_active,
    }


def _audit(instance: Instance, principal: Principal, action: str, local: Localpart) -> None:
    audit.record(
        principal=principal,
        action=action,
        kind="Account",
        object_id=f"{instance.key}/{local}",
        organisation=instance.organisation.slug,
        summary=f"{action.partition('.')[2].replace('_', ' ')} {local}@{instance.domain.name}",
    )
