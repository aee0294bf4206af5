"""Reads ROOST_* variables with a type and a clear error. ``docs/environment.md`` lists them all."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

_MISSING = object()


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
