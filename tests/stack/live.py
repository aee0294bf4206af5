"""The live stack as tests see it: its API, its database (only to look), its supervisors and its tenants.

``./roost test`` starts the stack and names it in ROOST_TEST_STATE, with the services' own ROOST_* variables. What is
asserted is left to the tests; waiting here is always for a state, never for a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from controlplane.drivers.engine.base import EngineControl
from controlplane.probes.client import ProbeClient, deliver
from controlplane.values.errors import RoostError
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret
from controlplane.values.spec import Components, InstanceSpec, Limits, Listen, Paths
from launcher import inside, stack
from launcher.layout import ZONE, Layout
from launcher.services.controlplane import node_supervisor
from launcher.supervisor import Supervisor

T = TypeVar("T")
READY_TIMEOUT_S = 150.0
POLL_S = 0.2
NOT_YET = (OSError, HTTPException, AssertionError, RoostError, psycopg.OperationalError, xmlrpc.client.Fault)
ENGINES = ("prosody", "ejabberd")


def until(question: Callable[[], T], what: str, *, timeout_s: float = READY_TIMEOUT_S) -> T:
    """The first true answer. A server that is away or refuses counts as "not yet", as a failed assertion does."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = question()
            last = f"it answered {answer!r}"
            if answer:
                return answer
        except NOT_YET as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s; {last}")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Answer:
    """What the API said. ``body``: parsed JSON, None if there was none."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Api:
    """The REST API below ``/api/v1/`` with a token. Never asks twice by itself."""

    def __init__(self, base: str, token: str) -> None:
        self._base, self.token = f"{base}/api/v1/", token
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Any answer, refusals too; header names in keywords have ``_`` for ``-``."""
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        fixed = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data=data, headers={**fixed, **named}, method=method)
        try:
            with self._opener.open(request, timeout=60) as answer:
                text = answer.read().decode()
                return Answer(answer.status, json.loads(text) if text else None, dict(answer.headers))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                return Answer(error.code, json.loads(text), dict(error.headers))
            except ValueError:
                return Answer(error.code, text, dict(error.headers))

    def do(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The body of an answer that has to be a success."""
        answer = self.ask(method, path, body, **headers)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body}"
        return answer.body

    def get(self, path: str) -> Any:
        return self.do("GET", path)

    def post(self, path: str, body: object = None, **headers: str) -> Any:
        return self.do("POST", path, {} if body is None else body, **headers)

    def all(self, path: str) -> list[Any]:
        """A list's rows, from one page that holds them all."""
        found = self.get(f"{path}{'&' if '?' in path else '?'}limit=500")
        assert found["next"] is None, path
        return list(found["results"])


@dataclass
class Tenant:
    """An instance and the passwords of the accounts that tests made on it."""

    key: str
    slug: str
    domain: str
    engine: str
    passwords: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"instances/{self.key}/"

    @property
    def user(self) -> str:
        return f"r-{self.key}"

    @property
    def muc(self) -> str:
        return f"conference.{self.domain}"

    def jid(self, local: str) -> str:
        return f"{local}@{self.domain}"


class Live:
    """One running stack. All times out; nothing here changes the database but through the API."""

    def __init__(self, state: Path, clone: Path, environment: Mapping[str, str]) -> None:
        self.state, self.clone, self.environment = state, clone, environment
        self.layout = Layout(clone, state, state, int((state / "net").read_text()))
        #: The state directory's name beside the launcher; ``state`` may be elsewhere, behind a link.
        self.var = environment.get("ROOST_TEST_VAR", state.name)
        self.api = Api(self.layout.web_url, json.loads((state / "secrets").read_text())["token"])

    @classmethod
    def from_environment(cls) -> Live:
        state = os.environ.get("ROOST_TEST_STATE")
        if not state:
            raise RuntimeError("These tests need the whole stack: run them by `./roost test tests/stack`.")
        return cls(Path(state), Path(os.environ["ROOST_TEST_CLONE"]), dict(os.environ))

    @property
    def main(self) -> Supervisor:
        """The supervisor of the stack's own programs."""
        return stack.supervisor(self.layout)

    @property
    def node(self) -> Supervisor:
        """The supervisor of the tenants' engines."""
        return node_supervisor(self.layout)

    @property
    def resolver(self) -> str:
        return f"{self.layout.resolver_address}@53"

    @property
    def roots(self) -> str:
        """What strangers trust at this moment: Pebble makes a new root at each start."""
        return inside.roots(self.layout)

    @cached_property
    def fault_dir(self) -> Path:
        return Path(self.environment["ROOST_FAULT_DIR"])

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environment["ROOST_DATABASE_URL"], autocommit=True, connect_timeout=5) as database:
            return database.execute(sql, values).fetchall()  # type: ignore[arg-type]  # constants of the tests

    def pid(self, name: str, supervisor: Supervisor | None = None) -> int:
        """Process number of a program, 0 while it does not run."""
        return next((part.pid for part in (supervisor or self.main).parts() if part.name == name), 0)

    def engine_program(self, tenant: Tenant) -> str:
        """Its name at the node's supervisor."""
        names = [part.name for part in self.node.parts() if tenant.key in part.name]
        assert len(names) == 1, names
        return names[0]

    def engine_pid(self, tenant: Tenant) -> int:
        return self.pid(self.engine_program(tenant), self.node)

    # tenants

    def want(self, slug: str, engine: str, domain: str = "", **spec: object) -> Tenant:
        """An organisation with one instance, made if they are not there; not yet waited for."""
        domain = domain or f"{slug}.{ZONE}"
        answer = self.api.ask("POST", "organisations/", {"slug": slug, "name": f"Tests {slug}"})
        assert answer.status in (201, 409), answer
        found = [row for row in self.api.all(f"organisations/{slug}/instances/") if row["domain"] == domain]
        body = {"domain": domain, "engine": engine, "plan": "small", **spec}
        row = found[0] if found else self.api.post(f"organisations/{slug}/instances/", body)
        assert row["engine"] == engine
        return Tenant(row["key"], slug, domain, engine)

    def ready(self, *tenants: Tenant, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until all of them are Ready in their present generation."""
        for tenant in tenants:

            def is_ready(tenant: Tenant = tenant) -> bool:
                seen = self.api.get(tenant.path)
                assert seen["ready"], describe(seen["conditions"])
                return True

            until(is_ready, f"{tenant.domain} ({tenant.engine}, {tenant.key}) is Ready", timeout_s=timeout_s)

    def condition(self, tenant: Tenant, name: str) -> Any:
        return next(c for c in self.api.get(tenant.path)["conditions"] if c["type"] == name)

    def account(self, tenant: Tenant, local: str) -> str:
        """The JID of an account whose password is in ``tenant.passwords``; made if it is not there."""
        if local not in tenant.passwords:
            password = f"pw-{os.urandom(9).hex()}"
            answer = self.api.ask("POST", f"{tenant.path}accounts/", {"username": local, "password": password})
            if answer.status == 409:
                self.api.post(f"{tenant.path}accounts/{local}/password/", {"password": password})
            else:
                assert answer.status == 201, answer
            tenant.passwords[local] = password
        return tenant.jid(local)

    def secret(self, tenant: Tenant, local: str) -> Secret:
        return Secret(tenant.passwords[local])

    def client(self, tenant: Tenant, local: str, **more: Any) -> ProbeClient:
        """A stranger's client for one of the accounts, made if needed; use it as an asynchronous context."""
        jid = self.account(tenant, local)
        return ProbeClient(
            jid, self.secret(tenant, local), resolver=self.resolver, trust_roots=self.roots, timeout_s=15, **more
        )

    def login(self, tenant: Tenant, local: str) -> None:
        """Log in and out again; ``Unavailable`` or ``Rejected`` says why not."""
        client = self.client(tenant, local)

        async def run() -> None:
            async with client:
                pass

        asyncio.run(run())

    def deliver(self, sender: Tenant, receiver: Tenant, body: str) -> None:
        """One chat message between two tenants' accounts, as two strangers' clients see it."""
        one, other = self.account(sender, "romeo"), self.account(receiver, "juliet")
        deliver(
            one,
            self.secret(sender, "romeo"),
            other,
            self.secret(receiver, "juliet"),
            body,
            resolver=self.resolver,
            trust_roots=self.roots,
            timeout_s=20,
        )

    def control(self, tenant: Tenant) -> EngineControl:
        """The engine's control channel, opened as the control plane opens it."""
        domain = DomainName.parse(tenant.domain)
        ((address, base_port, proxy65_port),) = self.rows(
            "SELECT host(address), base_port, proxy65_port FROM fleet_placement p "
            "JOIN tenants_instance i ON i.id = p.instance_id WHERE i.key = %s",
            tenant.key,
        )
        spec = InstanceSpec(
            key=tenant.key,
            engine=tenant.engine,
            domain=domain,
            components=Components.below(domain),
            listen=Listen(address, base_port, proxy65_port),
            paths=Paths(self.layout.node / "instances" / tenant.key),
            turn=None,
            limits=Limits(),
            display_name="",
        )
        from controlplane import wiring

        return wiring.engine_driver(tenant.engine).control(spec)

    def terminate(self, *tenants: Tenant) -> None:
        """Without grace; waits until the instances are gone from the API."""
        for tenant in tenants:
            self.api.post(f"{tenant.path}terminate/", {"grace_s": 0})
        for tenant in tenants:
            until(
                lambda tenant=tenant: self.api.ask("GET", tenant.path).status == 404,  # type: ignore[misc]
                f"{tenant.domain} is gone",
            )

    # the world around

    def records(self) -> dict[tuple[str, str], list[str]]:
        """Everything in the provider's zone, as PowerDNS tells it: (name, type) -> data, names without final dots."""
        zone = self.powerdns("GET", f"zones/{ZONE}.")
        return {
            (entry["name"].rstrip("."), entry["type"]): sorted(record["content"] for record in entry["records"])
            for entry in zone["rrsets"]
        }

    def powerdns(self, method: str, path: str, body: object = None) -> Any:
        """PowerDNS' own API (below ``/servers/localhost/``), where tests are the customer with a zone of his own."""
        request = urllib.request.Request(
            f"{self.layout.powerdns_url}/api/v1/servers/localhost/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self.environment["ROOST_POWERDNS_API_KEY"], "Content-Type": "application/json"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            text = answer.read().decode()
        return json.loads(text) if text else None

    def roost(self, *arguments: str, input: str = "", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """``./roost`` with this stack's state."""
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}
        environment |= {"ROOST_VAR": self.var, "ROOST_NET": str(self.layout.net)}
        return subprocess.run(
            [str(self.clone / "roost"), *arguments],
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def describe(conditions: Iterable[Any]) -> str:
    """Those that are not true, one a line."""
    return "\n".join(f"{c['type']}: {c['reason']}: {c['message']}" for c in conditions if c["status"] != "True")
