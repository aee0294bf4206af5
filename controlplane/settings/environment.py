"""Reads ROOST_* variables with a type and a clear error. ``docs/environment.md`` lists them all."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_MISSING = object()
_MAIL_PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


def text(name: str, default: Any = _MISSING) -> str:
    """The variable's text; without a default it has to be set."""
    value = os.environ.get(name, "")
    if value:
        return value
    if default is _MISSING:
        raise ImproperlyConfigured(f"{name} is not set. See docs/environment.md for what it holds.")
    return str(default)


def number(name: str, default: float) -> float:
    value = text(name, str(default))
    try:
        return float(value)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} has to be a number, not {value!r}.") from error


def integer(name: str, default: int) -> int:
    return int(number(name, default))


def flag(name: str, default: bool) -> bool:
    value = text(name, "1" if default else "0").lower()
    if value not in {"0", "1", "true", "false", "yes", "no"}:
        raise ImproperlyConfigured(f"{name} has to be 1 or 0, not {value!r}.")
    return value in {"1", "true", "yes"}


def choice(name: str, known: tuple[str, ...]) -> str:
    """One of ``known``; the first of them if it is not set."""
    value = text(name, known[0])
    if value not in known:
        raise ImproperlyConfigured(f"{name} has to be one of {', '.join(known)}, not {value!r}.")
    return value


def words(name: str, default: str = "") -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def mapping(name: str) -> dict[str, Any]:
    raw = text(name, "{}")
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} has to be a JSON object.") from error
    if not isinstance(value, dict):
        raise ImproperlyConfigured(f"{name} has to be a JSON object.")
    return value


def port_range(name: str, default: str) -> tuple[int, int]:
    value = text(name, default)
    low, _, high = value.partition("-")
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) < 65536):
        raise ImproperlyConfigured(f"{name} has to be a range of ports such as {default}, not {value!r}.")
    return int(low), int(high)


def database(name: str) -> dict[str, Any]:
    """A libpq connection URI or string as Django's settings want it."""
    from psycopg.conninfo import conninfo_to_dict

    value = text(name)
    try:
        parts = conninfo_to_dict(value)
    except Exception as error:
        raise ImproperlyConfigured(f"{name} is not a PostgreSQL connection URI: {error}") from error
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.get("dbname", "roost"),
        "USER": parts.get("user", ""),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": str(parts.get("port", "")),
        "OPTIONS": {"connect_timeout": 5},
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }


def mail(name: str) -> dict[str, Any]:
    """``smtp://USER:PASSWORD@HOST:PORT`` (STARTTLS), ``smtps://…`` (TLS at once) or ``smtp+plain://…`` (neither)."""
    value = text(name, "")
    if not value:
        return {}
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: the port has to be a number.") from error
    if parts.scheme not in _MAIL_PORTS or not parts.hostname:
        raise ImproperlyConfigured(f"{name} has to be smtp://, smtps:// or smtp+plain:// with a host.")
    return {
        "HOST": parts.hostname,
        "PORT": port or _MAIL_PORTS[parts.scheme],
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "TLS": parts.scheme == "smtp",
        "SSL": parts.scheme == "smtps",
    }


def providers(name: str) -> list[dict[str, Any]]:
    """OpenID Connect providers, a JSON list of ``{"id", "name", "server_url", "client_id", "secret"}``, for allauth."""
    wanted = {"id", "name", "server_url", "client_id", "secret"}
    try:
        rows = json.loads(text(name, "[]"))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} has to be a JSON list.") from error
    found = []
    given: list[Any] = rows if isinstance(rows, list) else [None]
    for row in given:
        fits = isinstance(row, dict) and set(row) == wanted and all(isinstance(v, str) and v for v in row.values())
        if not fits or not row["id"].replace("-", "").isalnum():
            raise ImproperlyConfigured(f"{name} has to be a JSON list of objects with {', '.join(sorted(wanted))}.")
        found.append(
            {
                "provider_id": row["id"],
                "name": row["name"],
                "client_id": row["client_id"],
                "secret": row["secret"],
                "settings": {"server_url": row["server_url"], "oauth_pkce_enabled": True},
            }
        )
    return found


def key_lines(name: str) -> list[str]:
    """The lines of a key file. The first key seals, all of them open."""
    path = Path(text(name))
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ImproperlyConfigured(f"{name}: {path} cannot be read: {error.strerror}.") from error
    if not lines:
        raise ImproperlyConfigured(f"{name}: {path} holds no key. docs/deployment.md has the command that makes one.")
    for number, line in enumerate(lines, 1):
        if not _is_fernet_key(line):
            raise ImproperlyConfigured(f"{name}: line {number} of {path} is no key: 32 bytes in URL-safe base64.")
    return lines


def _is_fernet_key(line: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(line)) == 32
    except ValueError:
        return False
