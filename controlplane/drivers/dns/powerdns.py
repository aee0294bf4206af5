"""Writes zones through the HTTP API of the PowerDNS Authoritative Server (4.6 or later).

A batch of changes is one PATCH, which PowerDNS applies whole or not at all. The API has no precondition, so
``create`` is checked by the caller's read only; connections are kept open between calls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence, Set
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.rdata import canonical
from controlplane.values.records import Change, RecordSet
from controlplane.values.secret import Secret

TIMEOUT_S = (3.0, 20.0)  # to connect, to answer
#: PowerDNS has disabled records: they exist, are not served, and equal nothing that anybody wants.
DISABLED = "(disabled)"
#: Up to so many names are asked for one by one (about 1 ms each); beyond it the whole zone is (8 ms per 1,000 sets).
NAMES = 50


class PowerDns:
    """``url``: base of the API, with or without ``/api/v1``; ``api_key``: its X-API-Key."""

    name = "powerdns"
    can_write = True
    exact_ttl = True

    def __init__(self, url: str, api_key: Secret, *, server_id: str = "localhost") -> None:
        base = url.rstrip("/").removesuffix("/api/v1")
        self._zones = f"{base}/api/v1/servers/{server_id}/zones"
        self._shown = base
        self._api_key = api_key
        self._local = threading.local()

    def zone_exists(self, zone: DomainName) -> bool:
        answer = self._ask("GET", self._url(zone), params={"rrsets": "false"}, accept=(200, 404, 422))
        return answer.status_code == 200

    def create_zone(self, zone: DomainName, nameservers: Sequence[str]) -> bool:
        if self.zone_exists(zone):
            return False
        if not nameservers:
            raise Rejected(
                f"The zone {zone} cannot be created without name servers.", remedy="Set ROOST_DNS_NAMESERVERS."
            )
        # PowerDNS makes the SOA record itself and raises its serial with each PATCH.
        body = {
            "name": f"{zone}.",
            "kind": "Native",
            "nameservers": [f"{server.rstrip('.')}." for server in nameservers],
            "soa_edit_api": "DEFAULT",
            "rrsets": [],
        }
        return self._ask("POST", self._zones, json=body, accept=(201, 409)).status_code == 201

    def read(
        self, zone: DomainName, keys: Sequence[tuple[str, str]], *, unserved: bool = False
    ) -> dict[tuple[str, str], RecordSet]:
        wanted = set(keys)
        found: dict[tuple[str, str], RecordSet] = {}
        for rrset in self._rrsets(zone, {name for name, _ in wanted}, unserved=unserved):
            key = (rrset["name"].rstrip(".").lower(), rrset["type"])
            if key in wanted:
                found[key] = RecordSet.of(key[0], key[1], rrset["ttl"], _rdatas(key[1], rrset["records"]))
        return found

    def _rrsets(self, zone: DomainName, names: Set[str], *, unserved: bool) -> Iterator[dict[str, Any]]:
        """The sets of these names, and perhaps others'. The API's filter by name leaves out disabled records."""
        if names and (unserved or len(names) > NAMES):
            yield from self._ask("GET", self._url(zone)).json()["rrsets"]
            return
        for name in sorted(names):
            yield from self._ask("GET", self._url(zone), params={"rrset_name": f"{name}."}).json()["rrsets"]

    def apply(self, zone: DomainName, changes: Sequence[Change]) -> None:
        if not changes:
            return
        # PowerDNS checks additions against what was there before the PATCH: where a CNAME makes room for other
        # data (or the other way round), the deletion has to be a request of its own.
        written = {change.record_set.name for change in changes if change.action != "delete"}
        room = [c for c in changes if c.action == "delete" and c.record_set.name in written]
        rest = [c for c in changes if c not in room]
        for part in (room, rest):
            if part:
                body = {"rrsets": [_as_json(change) for change in part]}
                self._ask("PATCH", self._url(zone), json=body, accept=(200, 204))

    def _url(self, zone: DomainName) -> str:
        return f"{self._zones}/{quote(zone.ascii)}."

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # no proxy of the environment between us and our name server
            session.headers["X-API-Key"] = self._api_key.reveal()
            # A connection that the server closed meanwhile is tried once more: every call is safe to run twice.
            retry = Retry(total=1, status=0, redirect=0, allowed_methods=None)
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.mount("https://", HTTPAdapter(max_retries=retry))
        return session

    def _ask(self, method: str, url: str, *, accept: tuple[int, ...] = (200,), **arguments: Any) -> requests.Response:
        try:
            answer = self._session().request(method, url, timeout=TIMEOUT_S, allow_redirects=False, **arguments)
        except requests.RequestException as error:
            raise Unavailable(
                f"PowerDNS at {self._shown} does not answer ({type(error).__name__}).",
                remedy="Check that it runs and that its API listens there.",
            ) from error
        if answer.status_code in accept:
            return answer
        raise self._refusal(answer)

    def _refusal(self, answer: requests.Response) -> Rejected | Unavailable:
        status, said = answer.status_code, _what_it_says(answer)
        if status in (401, 403):
            return Rejected(
                f"PowerDNS at {self._shown} refused the API key ({status}).",
                remedy="Compare ROOST_POWERDNS_API_KEY with its api-key, and see its webserver-allow-from.",
            )
        if status == 404:
            return Rejected(f"PowerDNS at {self._shown} has no such zone: {said}.", remedy="Create the zone there.")
        if status == 429 or status >= 500:
            wait = answer.headers.get("Retry-After", "")
            return Unavailable(
                f"PowerDNS at {self._shown} answered {status}: {said}.",
                retry_after_s=float(wait) if wait.isdigit() else None,
            )
        return Rejected(f"PowerDNS at {self._shown} refused the change ({status}): {said}.")


def _as_json(change: Change) -> dict[str, Any]:
    wanted = change.record_set
    head = {"name": f"{wanted.name}.", "type": wanted.type}
    if change.action == "delete":
        return {**head, "changetype": "DELETE"}
    records = [{"content": text, "disabled": False} for text in sorted(wanted.rdatas)]
    return {**head, "changetype": "REPLACE", "ttl": wanted.ttl_s, "records": records}


def _rdatas(type: str, records: Sequence[dict[str, Any]]) -> list[str]:
    return [DISABLED if record["disabled"] else _spelled(type, record["content"]) for record in records]


def _spelled(type: str, text: str) -> str:
    try:
        return canonical(type, text)
    except ValueError:
        return text  # a foreign record that only PowerDNS understands: it still exists


def _what_it_says(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]).rstrip(".")[:500]
    except (ValueError, KeyError, TypeError):
        return answer.text.strip().rstrip(".")[:200] or "nothing"
