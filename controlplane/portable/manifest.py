"""``roost.json``, the bundle's last file: what the bundle has, of which moment, and the digest of all digests.

A bundle without it was cut off. Keys that are not known are kept for later versions and not judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from controlplane.values.errors import InvalidInput

NAME = "roost.json"
SUMS = "SHA256SUMS"
FORMAT = "urn:roost:portable"
VERSION = 1
MAX_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class About:
    """What the caller knows of the instance. All times are ISO 8601 in UTC.

    ``components``: kind (muc, upload, proxy) to domain. ``engine``: name and version. ``spec``: the instance's, as
    JSON. ``scope``: which of accounts, rooms, archives, uploads were asked for. ``moments``: scope to the moment that
    it is consistent as of.
    """

    domain: str
    made_at: str
    components: Mapping[str, str] = field(default_factory=dict)
    engine: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    scope: tuple[str, ...] = ("accounts", "rooms", "archives", "uploads")
    moments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``counts``: of accounts, rooms, user_messages, room_messages, uploads, upload_bytes. ``sums``: SHA-256, hex."""

    about: About
    counts: Mapping[str, int]
    sums: str
    version: int = VERSION

    def to_json(self) -> bytes:
        body = {"format": FORMAT, "version": self.version, **asdict(self.about)}
        body |= {"counts": dict(self.counts), "sha256sums": self.sums}
        return (json.dumps(body, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def from_json(data: bytes) -> Manifest:
    """Raises ``InvalidInput`` for what is none, or of a later version than this program knows."""
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise InvalidInput("bundle", f"{NAME} is of another program.")
        version = body["version"]
        if not isinstance(version, int) or version > VERSION:
            raise InvalidInput(
                "bundle",
                f"The bundle is of version {str(version)[:20]} of the format.",
                remedy=f"This Roost reads up to version {VERSION}; use a later one.",
            )
        about = About(
            domain=_text(body["domain"]),
            made_at=_text(body["made_at"]),
            components=_texts(body.get("components", {})),
            engine=_texts(body.get("engine", {})),
            spec=dict(body.get("spec", {})),
            scope=tuple(_text(word) for word in body["scope"]),
            moments=_texts(body.get("moments", {})),
        )
        counts = {str(key): int(value) for key, value in body["counts"].items()}
        return Manifest(about, counts, _text(body["sha256sums"]), version)
    except InvalidInput:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput("bundle", f"{NAME} cannot be read: {type(error).__name__} {str(error)[:100]}.") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text wanted")
    return value


def _texts(value: Any) -> dict[str, str]:
    return {_text(key): _text(word) for key, word in value.items()}
