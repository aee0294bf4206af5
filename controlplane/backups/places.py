"""Places for repositories: the operator's rows, checked, with their secrets sealed; and what restic wants of one."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.db import transaction

from controlplane import vault
from controlplane.backups.models import Place
from controlplane.drivers.node import hostkeys
from controlplane.drivers.store import base as store
from controlplane.drivers.store.places import checked as place_of
from controlplane.values.errors import InvalidInput
from controlplane.values.secret import Secret
from tenants import audit, validators
from tenants.errors import Taken, WrongState
from tenants.principal import Principal

MAX_URL, MAX_VARIABLES, MAX_HOST_KEYS, MAX_AUTHORITIES = 400, 20, 10, 200_000
#: Name and password of a REST server, beside the variables in what is sealed.
ACCOUNT = "@"
#: field -> (smallest, largest)
LIMITS = {
    "upload_kib_s": (0, 100_000_000),
    "download_kib_s": (0, 100_000_000),
    "at_once": (1, 1000),
    "at_once_per_node": (1, 100),
}


@transaction.atomic
def create_place(*, name: str, url: str, principal: Principal, **given: Any) -> Place:
    """``given``: environment, host_keys, authorities, is_default, and any of ``LIMITS``. ``Taken``: the name is.

    The first place is the default one. For sftp a key of ours is made; its public half belongs into the place's
    ``authorized_keys``.
    """
    validators.slug(name, field="name")
    clean = _clean(url=url, **given)
    if Place.objects.filter(name=name).exists():
        raise Taken("name", f"There is a place {name} already.", remedy="Choose another name.")
    environment = clean.pop("environment", {})
    clean["url"], account = _parted(clean["url"])
    place = Place(name=name, **clean)
    place.is_default = place.is_default or not Place.objects.filter(is_default=True).exists()
    if place.url.startswith("sftp:"):
        place.public_key, place.key_sealed = _pair(name)
    place.environment_sealed = _sealed(name, {**environment, **account})
    _fits(place)
    if place.is_default:
        Place.objects.filter(is_default=True).update(is_default=False)
    place.save()
    _audit(place, principal, "backup_place.create", f"Place {name} for backups made: {place_of(bare(place))}", clean)
    return place


@transaction.atomic
def change_place(*, place: Place, principal: Principal, **given: Any) -> Place:
    """What is not given stays. Its ``url`` can be changed only while it has no repository."""
    place = Place.objects.select_for_update().get(pk=place.pk)
    clean = _clean(**{"url": place.url, **given})
    clean["url"], account = _parted(clean["url"])
    if clean["url"] != place.url and place.repositories.exists():
        raise WrongState(
            f"There are repositories at {place.name}.", remedy="Make another place; what is kept here stays readable."
        )
    kept = _kept(place)
    environment = clean.pop("environment", {k: v for k, v in kept.items() if k != ACCOUNT})
    account = account or {k: v for k, v in kept.items() if k == ACCOUNT}
    for field, value in clean.items():
        setattr(place, field, value)
    place.environment_sealed = _sealed(place.name, {**environment, **account})
    if place.url.startswith("sftp:") and not place.key_sealed:
        place.public_key, place.key_sealed = _pair(place.name)
    _fits(place)
    if place.is_default:
        Place.objects.exclude(pk=place.pk).filter(is_default=True).update(is_default=False)
    place.save()
    _audit(place, principal, "backup_place.change", f"Place {place.name} for backups changed", clean)
    return place


@transaction.atomic
def delete_place(*, place: Place, principal: Principal) -> None:
    """``WrongState`` while it has repositories, also of instances that are gone."""
    place = Place.objects.select_for_update().get(pk=place.pk)
    count = place.repositories.count()
    if count:
        raise WrongState(f"There are {count} repositories at {place.name}.", remedy="Wait until they have expired.")
    place.delete()
    _audit(place, principal, "backup_place.delete", f"Place {place.name} for backups removed", {})


def bare(place: Place, url: str = "") -> store.Repository:
    """The place without any secret, for checks and messages."""
    return store.Repository(url or place.url, Secret(""), environment=dict.fromkeys(variables(place), Secret("")))


def opened(place: Place, url: str, key: Secret) -> store.Repository:
    """A repository at ``url`` of this place, as the driver wants it. ``Rejected`` if a secret does not open."""
    kept = _kept(place)
    account = kept.pop(ACCOUNT, "")
    if account:
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{account}@{rest}"
    return store.Repository(
        url,
        key,
        environment={name: Secret(value) for name, value in kept.items()},
        private_key=vault.unseal(context_of(place.name, "key"), place.key_sealed) if place.key_sealed else None,
        host_keys=tuple(place.host_keys),
        authorities=place.authorities,
    )


def below(place: Place, key: str) -> str:
    """Where a repository of this name is made."""
    return place.url + ("" if place.url.endswith((":", "/")) else "/") + key


def run_of(place: Place, *, timeout_s: float, cancelled: Callable[[], bool] = lambda: False, **more: Any) -> store.Run:
    """What bounds a call at this place, its limits among it."""
    return store.Run(
        timeout_s=timeout_s,
        cancelled=cancelled,
        upload_kib_s=place.upload_kib_s,
        download_kib_s=place.download_kib_s,
        **more,
    )


def variables(place: Place) -> list[str]:
    """Names of what the place is given, without the values."""
    return sorted(set(_kept(place)) - {ACCOUNT})


def _kept(place: Place) -> dict[str, str]:
    if not place.environment_sealed:
        return {}
    sealed = vault.unseal(context_of(place.name, "environment"), place.environment_sealed)
    found: dict[str, str] = json.loads(sealed.reveal())
    return found


def _sealed(name: str, environment: Mapping[str, str]) -> str:
    if not environment:
        return ""
    return vault.seal(context_of(name, "environment"), Secret(json.dumps(dict(environment), sort_keys=True)))


def _parted(url: str) -> tuple[str, dict[str, str]]:
    """restic wants the account of its REST server in the URL; what is shown has none."""
    scheme, colon, rest = url.partition("://")
    account, at, host = rest.partition("@")
    if not (url.startswith("rest:") and colon and at and "/" not in account):
        return url, {}
    return f"{scheme}://{host}", {ACCOUNT: account}


def context_of(name: str, what: str) -> str:
    return f"backup-place-{what}:{name}"


def _pair(name: str) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return f"{public} roost-backups:{name}", vault.seal(context_of(name, "key"), Secret(private))


def _fits(place: Place) -> None:
    """``InvalidInput`` if the driver does not go there."""
    place_of(bare(place, below(place, "abcdefgh")))


def _clean(**given: Any) -> dict[str, Any]:
    rules: dict[str, Callable[[Any], Any]] = {
        "url": _url,
        "environment": _variables,
        "host_keys": _host_keys,
        "authorities": _authorities,
        "is_default": _flag,
        **{name: (lambda v, name=name: _number(v, name)) for name in LIMITS},  # type: ignore[misc]  # name is bound
    }
    return {name: rules[name](value) for name, value in given.items()}


def _url(value: Any) -> str:
    if not isinstance(value, str) or not 2 <= len(value) <= MAX_URL:
        raise InvalidInput("url", f"A place is named by 2 to {MAX_URL} characters.")
    if ".." in value.split("/"):
        raise InvalidInput("url", "A place has no «..» in it.", remedy="Write the path as it is.")
    if value.startswith("/"):
        clean = posixpath.normpath(value)
        if clean.count("/") < 2:
            raise InvalidInput("url", "That is no directory for backups.", remedy="Give one below another directory.")
        return clean
    if value.startswith("s3:") and "@" in value:
        raise InvalidInput(
            "url",
            "A name and a password have no place in the URL of S3.",
            remedy="Give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY as environment.",
        )
    return value.rstrip("/")


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > MAX_VARIABLES:
        raise InvalidInput("environment", f"Give up to {MAX_VARIABLES} names with their values.")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str) or len(text) > 4096:
            raise InvalidInput("environment", "Names and values are text of up to 4096 characters.")
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            raise InvalidInput("environment", f"The value of {name[:60]} has control characters in it.")
    return dict(value)


def _host_keys(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidInput("host_keys", "Give a list of keys.")
    lines = list(value)
    if len(lines) > MAX_HOST_KEYS or not all(isinstance(line, str) for line in lines):
        raise InvalidInput("host_keys", f"Give up to {MAX_HOST_KEYS} keys, as text.")
    return [hostkeys.parse(line, field="host_keys") for line in lines]


def _authorities(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_AUTHORITIES:
        raise InvalidInput("authorities", "Give certificates as PEM.")
    if not value.strip():
        return ""
    try:
        found = x509.load_pem_x509_certificates(value.encode())
    except ValueError as error:
        raise InvalidInput("authorities", "There is no certificate in it.", remedy="Give PEM.") from error
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput("is_default", "Say true or false.")
    return value


def _number(value: Any, name: str) -> int:
    low, high = LIMITS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(name, f"Give a whole number from {low} to {high}.")
    return value


def _audit(place: Place, principal: Principal, action: str, summary: str, data: Mapping[str, Any]) -> None:
    shown = {name: value for name, value in data.items() if name not in ("authorities", "environment")}
    audit.record(
        principal=principal, action=action, kind="BackupPlace", object_id=place.name, summary=summary, data=shown
    )
