"""Writes zones at hosted DNS providers through dns-lexicon's provider modules.

Lexicon knows single records, not sets, and each of its modules spells rdata in its own way. So a provider is
allowed here only if its module carries SRV records with their priority, and what was written is read back.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from lexicon.config import ConfigResolver
from lexicon.exceptions import AuthenticationError

from controlplane.values.errors import Conflict, InvalidInput, Rejected, RoostError, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.rdata import canonical, txt_value
from controlplane.values.records import Change, RecordSet, txt
from controlplane.values.secret import Secret

#: Run through the contract suite against the real server.
TRIED = ("powerdns",)
#: Their modules take and give SRV as "priority weight port target" by reading their code; not run by us.
READ_ONLY_IN_CODE = ("cloudflare", "dynu", "gehirn")
ALLOWED = TRIED + READ_ONLY_IN_CODE

TIMEOUT_S = (5.0, 30.0)
#: TXT text on whose quoting all modules agree: tokens, keys and values, without quotes and backslashes.
_PLAIN_TXT = re.compile(rb"[A-Za-z0-9 _=;:.,+/@-]{1,255}")

Key = tuple[str, str]


class Lexicon:
    """``provider``: lexicon's name of it; ``auth``: its options without the dashes, e.g. {"auth_token": …}."""

    name = "lexicon"
    can_write = True
    exact_ttl = False  # many providers raise a TTL to their own minimum

    def __init__(self, provider: str, auth: Mapping[str, Secret]) -> None:
        if provider not in ALLOWED:
            raise InvalidInput(
                "ROOST_LEXICON_PROVIDER",
                f"The provider {provider!r} is not allowed: Roost needs SRV records.",
                remedy=f"Use one of {', '.join(ALLOWED)}, or another DNS driver.",
            )
        self._provider = provider
        self._auth = dict(auth)
        # Loaded by path because lexicon's Client guesses the zone from a public list that it downloads.
        self._module = importlib.import_module(f"lexicon._private.providers.{provider}")
        self._module.requests = _TimedRequests()  # type: ignore[attr-defined]

    def zone_exists(self, zone: DomainName) -> bool:
        try:
            with _Wording(self._provider):
                self._provider_for(zone, 300)
        except _NoSuchZone:
            return False
        return True

    def create_zone(self, zone: DomainName, nameservers: Sequence[str]) -> bool:  # noqa: ARG002
        if self.zone_exists(zone):
            return False
        raise Rejected(
            f"{self._provider} has no zone {zone}, and lexicon cannot create one.", remedy="Create it at the provider."
        )

    def read(
        self,
        zone: DomainName,
        keys: Sequence[Key],
        *,
        unserved: bool = False,  # noqa: ARG002  (what is there is served)
    ) -> dict[Key, RecordSet]:
        """One listing per key; only the first of equal TTLs is looked at."""
        with _Wording(self._provider):
            provider = self._provider_for(zone, 300)
            found = {}
            for key in dict.fromkeys(keys):
                records = _listed(provider, key)
                if records:
                    found[key] = RecordSet.of(*key, int(records[0]["ttl"]), [_spelled(key[1], r) for r in records])
            return found

    def apply(self, zone: DomainName, changes: Sequence[Change]) -> None:
        for change in sorted(changes, key=lambda c: c.action != "delete"):
            wanted = change.record_set
            contents = {text: _content(wanted.type, text) for text in sorted(wanted.rdatas)}
            with _Wording(self._provider):
                provider = self._provider_for(zone, wanted.ttl_s)
                if change.action == "delete":
                    for record in _listed(provider, wanted.key):
                        _delete(provider, wanted.key, record)
                else:
                    self._write(provider, change, contents)
                self._read_back(provider, change)

    def _write(self, provider: Any, change: Change, contents: dict[str, str]) -> None:
        wanted = change.record_set
        there = {_spelled(wanted.type, record): record for record in _listed(provider, wanted.key)}
        if change.action == "create" and there and set(there) != wanted.rdatas:
            raise Conflict(
                f"{wanted.name} {wanted.type} exists at {self._provider} with other data.",
                remedy="Remove that record set, or take it out of Roost's way.",
            )
        if set(there) == wanted.rdatas:
            return  # a TTL alone is not worth a gap: the provider may have a minimum of its own
        for text, record in there.items():
            if text not in wanted.rdatas:
                _delete(provider, wanted.key, record)
        for text, content in contents.items():
            if text not in there:
                provider.create_record(wanted.type, wanted.name, content)

    def _read_back(self, provider: Any, change: Change) -> None:
        wanted = change.record_set
        seen = {_spelled(wanted.type, record) for record in _listed(provider, wanted.key)}
        if seen != (set() if change.action == "delete" else wanted.rdatas):
            raise Rejected(
                f"{self._provider} holds {sorted(seen) or 'nothing'} for {wanted.name} {wanted.type} after the change.",
                remedy="This provider's module may not fit: use another DNS driver, or report it.",
            )

    def _provider_for(self, zone: DomainName, ttl_s: int) -> Any:
        """A provider object that has logged in. Each lives for one call: they keep a zone's data and no lock."""
        options = {
            "provider_name": self._provider,
            "domain": zone.ascii,
            "ttl": ttl_s,
            self._provider: {name: secret.reveal() for name, secret in self._auth.items()},
        }
        provider = self._module.Provider(ConfigResolver().with_dict(options))  # type: ignore[no-untyped-call]
        provider.authenticate()
        return provider


class _NoSuchZone(Rejected):
    """The provider answered that it does not know what was asked for."""


class _Wording:
    """Turns what lexicon and requests raise into the drivers' errors. Their texts are left out: URLs and
    headers in them may hold credentials."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, RoostError) or not isinstance(error, Exception):
            return
        if isinstance(error, requests.HTTPError) and error.response is not None:
            status = error.response.status_code
            if status == 429 or status >= 500:
                wait = error.response.headers.get("Retry-After", "")
                raise Unavailable(
                    f"{self._provider} answered {status}.", retry_after_s=float(wait) if wait.isdigit() else None
                ) from None
            kind_of = _NoSuchZone if status in (404, 422) else Rejected
            raise kind_of(
                f"{self._provider} refused the request ({status}).",
                remedy="Check the zone and the credentials in ROOST_LEXICON_AUTH.",
            ) from None
        if isinstance(error, requests.RequestException | OSError):
            raise Unavailable(f"{self._provider} does not answer ({type(error).__name__}).") from None
        if isinstance(error, AuthenticationError):
            raise Rejected(
                f"{self._provider} refused the credentials, or has no such zone.", remedy="Check ROOST_LEXICON_AUTH."
            ) from None
        raise Rejected(
            f"Lexicon's module for {self._provider} failed ({type(error).__name__}).",
            remedy="Check ROOST_LEXICON_AUTH.",
        ) from None


class _TimedSession(requests.Session):
    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", TIMEOUT_S)
        return super().request(*args, **kwargs)


class _TimedRequests:
    """Stands for ``requests`` inside one lexicon module, because those modules wait for ever. It may go when
    lexicon sets time-outs itself."""

    Session = _TimedSession

    def __getattr__(self, name: str) -> Any:
        if name in ("request", "get", "post", "put", "patch", "delete", "head"):
            return lambda *args, **kwargs: self._send(name, *args, **kwargs)
        return getattr(requests, name)

    @staticmethod
    def _send(method: str, *args: Any, **kwargs: Any) -> requests.Response:
        with _TimedSession() as session:
            answer: requests.Response = getattr(session, method)(*args, **kwargs)
            return answer


def _listed(provider: Any, key: Key) -> list[dict[str, Any]]:
    name, type = key
    records = provider.list_records(type, name)
    return [r for r in records if r["type"] == type and str(r["name"]).rstrip(".").lower() == name]


def _delete(provider: Any, key: Key, record: dict[str, Any]) -> None:
    if provider.provider_name == "powerdns":  # its identifiers break at a slash in the content
        provider.delete_record(rtype=key[1], name=key[0], content=record["content"])
    else:
        provider.delete_record(identifier=record["id"])


def _content(type: str, text: str) -> str:
    """Canonical rdata -> what lexicon's modules take. Raises ``Rejected`` for TXT that they disagree on."""
    if type != "TXT":
        return text
    value = txt_value(text)
    if not _PLAIN_TXT.fullmatch(value):
        raise Rejected("Lexicon's modules cannot carry this TXT record.", remedy="Use another DNS driver.")
    return value.decode("ascii")


def _spelled(type: str, record: dict[str, Any]) -> str:
    """What a module lists -> canonical rdata; text that makes no sense is kept, and equals nothing wanted."""
    content = str(record["content"]).strip()
    if type == "TXT" and not content.startswith('"'):
        return txt(content)
    if type == "SRV":
        fields = content.split()
        if len(fields) == 3:  # Cloudflare tells the priority elsewhere, and lexicon leaves it out; Roost's is 0
            fields.insert(0, "0")
        content = " ".join(fields)
    if type in ("CNAME", "SRV") and not content.endswith("."):
        content += "."
    try:
        return canonical(type, content)
    except ValueError:
        return content
