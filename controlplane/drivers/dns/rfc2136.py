"""Writes zones by DNS UPDATE (RFC 2136) signed with TSIG (RFC 8945), as BIND and Knot take it.

Reading is by signed questions over one TCP connection, no zone transfer. Because a server makes up answers
from wildcards, what a question finds is confirmed by a prerequisite, which looks at the zone's own data.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from controlplane.values.errors import Conflict, InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.rdata import of_rdata
from controlplane.values.records import Change, RecordSet
from controlplane.values.secret import Secret

TIMEOUT_S = 10.0
#: A message over TCP has at most 65,535 octets (RFC 1035 §4.2.2); a change takes some 150 at the most.
CHANGES_PER_MESSAGE = 250

Key = tuple[str, str]
Exchange = Callable[[dns.message.Message], dns.message.Message]


class Rfc2136:
    """``server``: "address" or "address@port" of the primary; ``key_secret``: base64, as BIND and Knot show it."""

    name = "rfc2136"
    can_write = True
    exact_ttl = True

    def __init__(self, server: str, *, key_name: str, key_secret: Secret, algorithm: str = "hmac-sha256") -> None:
        self._address, _, port = server.partition("@")
        self._port = int(port or 53)
        self._shown = f"{self._address}@{self._port}"
        if not self._address or not key_name:
            raise InvalidInput("ROOST_RFC2136_SERVER", "The name server or the TSIG key's name is not set.")
        try:
            self._key = dns.tsig.Key(key_name, key_secret.reveal(), algorithm)
        except Exception:  # noqa: BLE001  (whatever it is, its text may hold the secret)
            raise InvalidInput("ROOST_RFC2136_TSIG_SECRET", "The TSIG secret is not base64.") from None

    def zone_exists(self, zone: DomainName) -> bool:
        with self._connection() as exchange:
            # Unsigned: about a zone that a server does not have, it does not sign either.
            answer = exchange(self._question(zone.ascii, "SOA", signed=False))
        return answer.rcode() == dns.rcode.NOERROR and any(
            rrset.rdtype == dns.rdatatype.SOA and rrset.name == _absolute(zone.ascii) for rrset in answer.answer
        )

    def create_zone(self, zone: DomainName, nameservers: Sequence[str]) -> bool:  # noqa: ARG002
        if self.zone_exists(zone):
            return False
        raise Rejected(
            f"The name server {self._shown} has no zone {zone}, and DNS UPDATE cannot create one.",
            remedy=f"Add the zone {zone} to its configuration, with this TSIG key allowed to update it.",
        )

    def read(
        self,
        zone: DomainName,
        keys: Sequence[Key],
        *,
        unserved: bool = False,  # noqa: ARG002  (what is there is served)
    ) -> dict[Key, RecordSet]:
        with self._connection() as exchange:
            found = {}
            for key in dict.fromkeys(keys):
                record_set = self._look_up(exchange, key)
                if record_set is not None:
                    found[key] = record_set
            return self._without_wildcards(exchange, zone, found)

    def apply(self, zone: DomainName, changes: Sequence[Change]) -> None:
        ordered = sorted(changes, key=lambda change: change.action != "delete")
        with self._connection() as exchange:
            for start in range(0, len(ordered), CHANGES_PER_MESSAGE):
                part = ordered[start : start + CHANGES_PER_MESSAGE]
                if self._update(exchange, zone, part) != dns.rcode.NOERROR:
                    self._update(exchange, zone, self._left_to_create(exchange, zone, part), last=True)

    def _update(self, exchange: Exchange, zone: DomainName, changes: Sequence[Change], *, last: bool = False) -> int:
        """Send one UPDATE; its rcode, NOERROR or (``last`` False) YXRRSET. Everything else raises."""
        update = dns.update.UpdateMessage(_absolute(zone.ascii), keyring=self._key)
        for change in changes:
            wanted = change.record_set
            name = _absolute(wanted.name)
            if change.action == "delete":
                update.delete(name, wanted.type)
                continue
            if change.action == "create":
                update.absent(name, wanted.type)
            update.replace(name, wanted.ttl_s, wanted.type, *sorted(wanted.rdatas))
        rcode = exchange(update).rcode()
        if rcode == dns.rcode.YXRRSET and not last:
            return int(rcode)
        self._check(rcode, f"the update of {zone}")
        return int(rcode)

    def _left_to_create(self, exchange: Exchange, zone: DomainName, changes: Sequence[Change]) -> list[Change]:
        """The changes without the creations that are already there; ``Conflict`` if one has other data."""
        left = []
        for change in changes:
            there = self._look_up(exchange, change.record_set.key) if change.action == "create" else None
            if there is None or not self._without_wildcards(exchange, zone, {there.key: there}):
                left.append(change)
            elif not change.record_set.same_data(there):
                raise Conflict(
                    f"{there.name} {there.type} exists at {self._shown} with other data.",
                    remedy="Remove that record set, or take it out of Roost's way.",
                )
        return left

    def _look_up(self, exchange: Exchange, key: Key) -> RecordSet | None:
        answer = exchange(self._question(*key))
        if answer.rcode() == dns.rcode.NXDOMAIN:
            return None
        self._check(answer.rcode(), f"the question for {key[0]} {key[1]}")
        name, type = _absolute(key[0]), dns.rdatatype.from_text(key[1])
        for rrset in answer.answer:
            if rrset.name == name and rrset.rdtype == type:
                return RecordSet.of(key[0], key[1], rrset.ttl, (of_rdata(key[1], rdata) for rdata in rrset))
        return None

    def _without_wildcards(
        self, exchange: Exchange, zone: DomainName, found: dict[Key, RecordSet]
    ) -> dict[Key, RecordSet]:
        """Only the sets that the zone itself holds, by prerequisites alone (RFC 2136 §2.4.1: no wildcards)."""
        if not found or self._holds(exchange, zone, list(found)):
            return found
        return {key: value for key, value in found.items() if self._holds(exchange, zone, [key])}

    def _holds(self, exchange: Exchange, zone: DomainName, keys: Sequence[Key]) -> bool:
        for start in range(0, len(keys), CHANGES_PER_MESSAGE):
            update = dns.update.UpdateMessage(_absolute(zone.ascii), keyring=self._key)
            for name, type in keys[start : start + CHANGES_PER_MESSAGE]:
                update.present(_absolute(name), type)
            rcode = exchange(update).rcode()
            if rcode in (dns.rcode.NXRRSET, dns.rcode.NXDOMAIN):
                return False
            self._check(rcode, f"the prerequisites in {zone}")
        return True

    def _question(self, name: str, type: str, *, signed: bool = True) -> dns.message.QueryMessage:
        question = dns.message.make_query(_absolute(name), type)
        question.flags &= ~dns.flags.RD
        if signed:
            question.use_tsig(self._key)
        return question

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Exchange]:
        """A TCP connection; yields a function that sends one message and gives its answer."""
        try:
            with socket.create_connection((self._address, self._port), timeout=TIMEOUT_S) as stream:
                stream.setblocking(False)  # dnspython waits by itself
                yield lambda message: dns.query.tcp(message, self._address, timeout=TIMEOUT_S, sock=stream)
        except dns.tsig.PeerBadTime as error:
            raise Rejected(
                f"The name server {self._shown} finds our time wrong.", remedy="Set the clocks of both machines."
            ) from error
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadKey, dns.tsig.BadAlgorithm) as error:
            raise Rejected(
                f"The name server {self._shown} refused the TSIG key ({type(error).__name__}).",
                remedy="Compare the key's name, algorithm and secret with those in its configuration.",
            ) from error
        except dns.exception.FormError as error:  # Knot refuses unknown zones and keys without signing that
            raise Rejected(
                f"The name server {self._shown} answered without a signature.",
                remedy="Check that it has this zone and this TSIG key.",
            ) from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise Unavailable(
                f"The name server {self._shown} does not answer ({type(error).__name__}).",
                remedy="Check that it runs and takes TCP connections from here.",
            ) from error

    def _check(self, rcode: dns.rcode.Rcode, what: str) -> None:
        if rcode == dns.rcode.NOERROR:
            return
        shown = dns.rcode.to_text(rcode)
        if rcode == dns.rcode.SERVFAIL:
            raise Unavailable(f"The name server {self._shown} failed at {what} ({shown}).", remedy="See its log.")
        remedy = {
            dns.rcode.NOTAUTH: "Check that it is the primary of the zone and that the TSIG key fits.",
            dns.rcode.REFUSED: "Allow this TSIG key to update and query the zone.",
            dns.rcode.NOTZONE: "A record lies outside the zone: check ROOST_PROVIDER_ZONE.",
        }.get(rcode, "See its log.")
        raise Rejected(f"The name server {self._shown} refused {what} ({shown}).", remedy=remedy)


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name.rstrip(".") + ".")
