"""ACME (RFC 8555) in short steps: each is one or a few requests, none sleeps, and an order survives as JSON.

On the ``acme`` library, whose own polling functions sleep; so its request methods are called one by one.
When to take which step, and what to keep, is left to the ``certificates`` room. All methods raise
``Unavailable`` (``RateLimited`` among them) and ``Rejected`` (``drivers.ca.errors`` has its kinds).
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from acme import challenges, errors, messages
from acme.client import ClientV2
from josepy.errors import DeserializationError
from josepy.errors import Error as JoseError
from josepy.interfaces import JSONDeSerializable
from josepy.jwk import JWKEC
from josepy.util import ComparableECKey

from controlplane.drivers.ca.errors import Refused, problem_text, retry_after_s
from controlplane.drivers.ca.network import Network
from controlplane.values.certificates import load_key, new_key, parse_chain, renewal_id
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.secret import Secret

DNS_01, HTTP_01 = "dns-01", "http-01"
#: Revocation reasons (RFC 5280 §5.3.1).
UNSPECIFIED, SUPERSEDED, CESSATION = 0, 4, 5
_DIRECTORY_S = 3600.0
_LIST_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove control of ``identifier``. ``status`` is the challenge's, "pending" until answered.

    dns-01: ``dns_value`` as TXT at ``dns_name`` or where a CNAME there leads (RFC 8555 §8.4).
    http-01: ``key_authorization`` at ``/.well-known/acme-challenge/<token>`` on port 80 (§8.3).
    """

    identifier: str
    kind: str
    url: str
    status: str
    token: str
    key_authorization: str
    dns_name: str
    dns_value: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """The CA's advice (RFC 9773): renew at a time in the window; ask again after so many seconds."""

    start: datetime.datetime
    end: datetime.datetime
    ask_again_s: float
    explanation: str = ""


@dataclass(frozen=True)
class Order:
    """An order as the CA last told it. ``to_json`` and ``from_json`` are inverse."""

    resource: messages.OrderResource
    retry_after_s: float | None = None

    @property
    def url(self) -> str:
        return str(self.resource.uri)

    @property
    def status(self) -> str:
        """ "pending", "ready", "processing", "valid" or "invalid" (RFC 8555 §7.1.6)."""
        return str(self.resource.body.status.name)

    @property
    def identifiers(self) -> frozenset[str]:
        return frozenset(i.value for i in self.resource.body.identifiers)

    @property
    def problem(self) -> str:
        """Why it failed, in the CA's words: of the order, and of each challenge that did."""
        found = [_text(self.resource.body.error)]
        for authorization in self.resource.authorizations:
            name = authorization.body.identifier.value
            found += [f"{name}: {_text(c.error)}" for c in authorization.body.challenges if c.error is not None]
        return "; ".join(dict.fromkeys(t for t in found if t))

    def to_json(self) -> str:
        return str(self.resource.json_dumps())

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Raises ``InvalidInput`` for anything that ``to_json`` did not make."""
        try:
            return cls(messages.OrderResource.json_loads(text))
        except (DeserializationError, ValueError, TypeError) as error:
            raise InvalidInput("state_json", "This is not a stored ACME order.") from error


class Acme:
    """One account at one ACME directory. Not for several threads at once: make one in each.

    ``key``: the account's EC P-256 key, PEM. ``account_uri``: empty until ``register`` was called.
    ``ca_file``: PEM file with the roots of the directory's own HTTPS (empty: the system's).
    """

    def __init__(
        self, directory_url: str, key: Secret, *, account_uri: str = "", ca_file: str = "", timeout_s: float = 15.0
    ) -> None:
        self.directory_url = directory_url
        self._jwk = JWKEC(key=ComparableECKey(load_key(key, field="account_key")))
        self._network = Network(self._jwk, ca_file=ca_file, timeout_s=timeout_s)
        self._known: ClientV2 | None = None
        self._known_until = 0.0
        if account_uri:
            self._use(account_uri)

    def _use(self, uri: str) -> None:
        self._network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())

    @property
    def _client(self) -> ClientV2:
        """The library's client with the directory, which is fetched again now and then."""
        if self._known is None or time.monotonic() > self._known_until:
            with self._speaking():
                directory = ClientV2.get_directory(self.directory_url, self._network)
                _ = directory.newOrder, directory.newNonce  # AttributeError: it is something else
            self._known, self._known_until = ClientV2(directory, self._network), time.monotonic() + _DIRECTORY_S
        return self._known

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Answers that break the protocol are taken as an outage: somebody else may be answering there."""
        try:
            yield
        except InvalidInput:
            raise
        except (errors.Error, JoseError, AttributeError, KeyError, ValueError) as error:
            raise Unavailable(
                f"{self.directory_url} does not answer as an ACME server ({type(error).__name__}).",
                remedy="Check ROOST_ACME_DIRECTORY.",
            ) from error

    def register(self, *, contact: str = "", eab_kid: str = "", eab_hmac: Secret | None = None) -> str:
        """Create the account for this key, or find it (RFC 8555 §7.3). Returns its URI; safe to run twice.

        ``contact``: a mail address. ``eab_*``: external account binding (§7.3.4), the key in base64url.
        """
        client = self._client
        binding = None
        if eab_kid and eab_hmac:
            try:
                binding = messages.ExternalAccountBinding.from_data(
                    self._jwk.public_key(), eab_kid, eab_hmac.reveal(), client.directory
                )
            except (JoseError, ValueError) as error:
                raise Rejected("ROOST_ACME_EAB_HMAC is not base64url.", remedy="Copy it as the CA gave it.") from error
        elif client.external_account_required():
            raise Rejected(
                f"{self.directory_url} wants an external account binding.",
                remedy="Set ROOST_ACME_EAB_KID and ROOST_ACME_EAB_HMAC.",
            )
        self._network.account = None
        with self._speaking():
            wanted = messages.NewRegistration.from_data(
                email=contact or None, terms_of_service_agreed=True, external_account_binding=binding
            )
            try:
                uri = client.new_account(wanted).uri
            except errors.ConflictError as known:
                uri = known.location
        self._use(uri)
        return str(uri)

    def new_order(self, csr_pem: str) -> Order:
        """Ask for a certificate with the names of this request (RFC 8555 §7.4)."""
        client = self._client
        with self._speaking():
            return Order(client.new_order(csr_pem.encode()))

    def find_order(self, csr_pem: str, names: Collection[str], *, known: Collection[str]) -> Order | None:
        """An unfinished order of ours for exactly these names that is not among the ``known`` URLs.

        For the case that we died after making one and before writing it down. None too if the CA keeps no
        list of orders (RFC 8555 §7.1.2.1; several do not).
        """
        client, wanted = self._client, frozenset(names)
        with self._speaking():
            account = client._post_as_get(self._network.account.uri).json()  # type: ignore[union-attr]
            page, seen = account.get("orders"), 0
            while page and seen < _LIST_LIMIT:
                answer = client._post_as_get(page)
                for url in answer.json().get("orders", []):
                    seen += 1
                    if url in known:
                        continue
                    body = messages.Order.from_json(client._post_as_get(url).json())
                    found = Order(messages.OrderResource(uri=url, body=body, csr_pem=csr_pem.encode()))
                    if found.status in {"pending", "ready"} and found.identifiers == wanted:
                        return self.refresh(found, deep=True)
                page = next(iter(client._get_links(answer, "next")), None)
        return None

    def refresh(self, order: Order, *, deep: bool = False) -> Order:
        """The order as it is now; ``deep`` (and always if it failed): with its authorizations and challenges."""
        client = self._client
        with self._speaking():
            response = client._post_as_get(order.url)
            resource = order.resource.update(body=messages.Order.from_json(response.json()))
            fresh = Order(resource, retry_after_s(response))
            if deep or fresh.status == "invalid":
                found = [
                    messages.AuthorizationResource(
                        uri=url, body=messages.Authorization.from_json(client._post_as_get(url).json())
                    )
                    for url in resource.body.authorizations
                ]
                fresh = replace(fresh, resource=resource.update(authorizations=found))
        return fresh

    def challenges(self, order: Order, kind: str) -> tuple[Challenge, ...]:
        """The challenges of that kind of all authorizations that are pending. No request is made.

        Raises ``Rejected`` if the CA does not offer the kind for one of them.
        """
        found = []
        for authorization in order.resource.authorizations:
            if authorization.body.status != messages.STATUS_PENDING:
                continue
            name = authorization.body.identifier.value
            body = next((c for c in authorization.body.challenges if c.chall.typ == kind), None)
            if body is None:
                raise Rejected(f"The CA offers no {kind} challenge for {name}.", remedy="Set ROOST_ACME_CHALLENGE.")
            found.append(self._challenge(name, kind, body))
        return tuple(found)

    def _challenge(self, name: str, kind: str, body: messages.ChallengeBody) -> Challenge:
        chall: Any = body.chall
        return Challenge(
            identifier=name,
            kind=kind,
            url=str(body.uri),
            status=str(body.status.name),
            token=str(chall.encode("token")),
            key_authorization=str(chall.key_authorization(self._jwk)),
            dns_name=f"_acme-challenge.{name}",
            dns_value=str(chall.validation(self._jwk)) if isinstance(chall, challenges.DNS01) else "",
        )

    def answer(self, challenge: Challenge) -> None:
        """Tell the CA to look (RFC 8555 §7.5.1). One that it already looks at is left alone."""
        client = self._client
        with self._speaking():
            # The body of an answer is an empty object (§8.3, §8.4); the library's own call wants a header
            # that not every CA sends.
            try:
                client._post(challenge.url, _EmptyObject())
            except Refused as refusal:
                if refusal.kind != "malformed":
                    raise

    def finalize(self, order: Order) -> Order:
        """Hand in the request; the order becomes "processing" or "valid". "Not ready yet" changes nothing."""
        client = self._client
        with self._speaking():
            try:
                return Order(client.begin_finalization(order.resource))
            except Refused as refusal:
                if refusal.kind != "orderNotReady":
                    raise
        return self.refresh(order)

    def chain(self, order: Order) -> str:
        """The certificate chain of a valid order, leaf first, PEM (RFC 8555 §7.4.2)."""
        client = self._client
        with self._speaking():
            text = str(client._post_as_get(order.resource.body.certificate).text)
        try:
            return parse_chain(text).pem
        except InvalidInput as error:
            raise Unavailable(f"{self.directory_url} gave something that is no certificate: {error.message}") from error

    def renewal_info(self, chain_pem: str) -> Renewal | None:
        """When the CA would have this certificate renewed (RFC 9773); None if it gives no such advice."""
        client, leaf = self._client, parse_chain(chain_pem).leaf
        base = client.directory.to_json().get("renewalInfo")
        if not base:
            return None
        with self._speaking():
            response = self._network.get(f"{str(base).rstrip('/')}/{renewal_id(leaf)}")
            info = messages.RenewalInfo.from_json(response.json())
            window = info.suggested_window
            if window is None or window.end <= window.start:
                return None
            said = response.json().get("explanationURL")
        return Renewal(window.start, window.end, retry_after_s(response) or 21600.0, str(said or ""))

    def revoke(self, chain_pem: str, *, reason: int = UNSPECIFIED) -> None:
        """Revoke the leaf (RFC 8555 §7.6). One that is revoked already is no error."""
        client = self._client
        with self._speaking():
            try:
                client.revoke(parse_chain(chain_pem).leaf, reason)
            except Refused as refusal:
                if refusal.kind != "alreadyRevoked":
                    raise


class _EmptyObject(JSONDeSerializable):
    """``{}``, which is not the same as the empty body of a POST-as-GET."""

    def to_partial_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, jobj: Any) -> _EmptyObject:  # noqa: ARG003  (the library's signature)
        return cls()


def new_account_key() -> Secret:
    """A key for a new account: EC P-256, PKCS#8 PEM."""
    return new_key()


def _text(error: Any) -> str:
    return "" if error is None else problem_text(error.to_json() if hasattr(error, "to_json") else error)
