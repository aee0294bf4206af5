"""The pass over one link: a ping; and if nobody answers, that link alone is closed at its ends, dialled anew, proven.

A dead link looks like a living one in every table of an engine: only an answer counts. Where the fault is the peer's
own it is named, and dialled again after waits that grow; an address that changed meanwhile is dialled at once.
"""

from __future__ import annotations

import datetime
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from django.utils import timezone

from controlplane import wiring
from controlplane.certificates import services as certificates
from controlplane.monitoring.links import ends as engines
from controlplane.monitoring.links import sighted, told
from controlplane.monitoring.links.ends import Answers, End, pairs_of
from controlplane.monitoring.links.look import Look, addresses_of, look_at
from controlplane.monitoring.links.peers import KIND, mirror_of, rows
from controlplane.monitoring.links.told import Record
from controlplane.monitoring.models import S2sLink
from controlplane.provisioning.subject import Subject
from controlplane.reconcile import lease as leases
from controlplane.reconcile import watch
from controlplane.reconcile.lease import Lease
from controlplane.reconcile.watch import Next
from controlplane.values.names import DomainName
from tenants.models import Instance

PING_EVERY_S = 60.0
#: A link without traffic for so long is left alone until somebody writes; then it is pinged again.
IN_USE = datetime.timedelta(days=1)
IDLE_EVERY_S, RESTING_EVERY_S = 3600.0, 600.0
#: A regular ping may have to dial first; a suspect has a stream, and answers at once or not at all.
PING_S, SUSPECT_PING_S, QUICK_PING_S = 5.0, 2.0, 1.0
#: Links that answer faster than this are given ``QUICK_PING_S`` when they are suspected.
QUICK_MS = 150.0
#: What a new link needs: look-ups, two handshakes each way, perhaps dialback.
DIAL_S = 4.0
#: For so long after an address changed, the resolvers' caches are waited for; closed sooner, the old one is dialled.
STALE_DNS_S = 6.0
BACKOFF_S, BACKOFF_CAP_S, PENDING_CAP_S = 5.0, 300.0, 60.0
MOVED_BACKOFF_S = 1.0
#: An address incident waits no longer for a server of ours that does not answer for reasons of its own: about a minute.
GIVE_UP_AFTER = 6
#: While it waits, a pass looks whether DNS leads elsewhere now: so often at first, and so often later.
POLL_S, LATE_POLL_S, POLL_FOR_S = 1.0, 15.0, 90.0


def reconcile(lease: Lease) -> Next | None:
    """One pass over one link; ``object_id`` is its row's number. None: it is gone, or the other end's item does it."""
    link = rows().select_related("waiting_for__node").filter(pk=lease.object_id).first()
    if link is None:
        told.end_orphans()
        leases.forget(lease.kind, lease.object_id)
        return None
    mirror = mirror_of(link)
    if mirror is not None and mirror.pk < link.pk:
        watch.touch(KIND, mirror.pk)
        leases.forget(lease.kind, lease.object_id)
        return None
    return Healing(lease, link, mirror).run()


class Healing:
    """One pass. ``ends``: the engines that can be told something; ``first`` is the link's own, if it is among them."""

    def __init__(self, lease: Lease, link: S2sLink, mirror: S2sLink | None) -> None:
        self.record = Record(lease, [link, mirror] if mirror is not None else [link])
        self.link, self.mirror = link, mirror
        self.started = time.monotonic()

    # whether there is anything to do

    def run(self) -> Next:
        record, link = self.record, self.link
        resting = self._resting()
        if resting is not None:
            return resting
        # Asked by somebody who knows better than the back-off: what it waits for may have come.
        urgent = record.asked is not None and record.by in ("address", "operator", "verify")
        if link.retry_at is not None and link.retry_at > timezone.now() and not urgent:
            if not self._leads_elsewhere():
                return self._wait()
            urgent = True
        moved = record.asked is not None and record.by == "address"
        # A control channel takes queries to open: where nothing is wrong, one end's is enough.
        self.ends = self._reachable(enough=2 if moved else 1)
        if not self.ends:
            record.write(settled=False, state=S2sLink.UNKNOWN, cause="ServerAway", message=_AWAY)
            return Next(2.0 if record.asked is not None else 15.0, failed=True)
        if moved and not self._closed_since_asked():
            if self._dns_is_stale():
                return Next(0.2)
            return self._heal(known=True)
        answers = engines.ping(self.ends, self._patience(), given_up=self._overtaken)
        if answers.ok:
            return self._up(answers)
        if self._overtaken():
            return Next(0.0)
        if link.state == S2sLink.PEER_PENDING and not urgent and not self._leads_elsewhere():
            return self._not_proven(answers, self._look()(), closed=False)
        return self._heal(known=False)

    def _resting(self) -> Next | None:
        """Nothing is pinged where nobody wants to talk, or nobody did for long."""
        link, peer = self.link, self.link.peer
        remote = DomainName(link.remote)
        state, cause, message = S2sLink.IDLE, "", ""
        if not link.instance.should_run or (peer is not None and not peer.should_run):
            cause, message = "Suspended", "One of the two servers is not to run."
        elif _blocks(link.instance, remote):
            state, cause, message = S2sLink.BLOCKED, "Blocked", "This server does not want it."
        elif peer is not None and _blocks(peer, DomainName(link.instance.domain.name)):
            state, cause, message = S2sLink.BLOCKED, "PeerRefuses", "The other server does not want it."
        elif not self._in_use() and self.record.asked is None:
            cause, message = "", "Nobody used it for a day."
        else:
            return None
        record = self.record
        if (link.state, link.cause, link.message) != (state, cause, message) or record.asked is not None:
            record.write(settled=True, state=state, cause=cause, message=message, retry_at=None, failures=0, dialled=[])
            record.end(message)
            record.release(pending=False, message=message)
        return Next(IDLE_EVERY_S if not cause else RESTING_EVERY_S)

    def _in_use(self) -> bool:
        since = timezone.now() - IN_USE
        times = [at for row in self.record.rows for at in (row.used_at, row.first_seen_at) if at is not None]
        return any(at >= since for at in times)

    def _reachable(self, *, enough: int = 2) -> list[End]:
        """Those engines that can be told something, the link's own first; ``enough`` of them."""
        pairs = pairs_of(self.link, self.mirror)
        found = []
        for row, oriented in zip(self.record.rows, (pairs, tuple(pair.turned() for pair in pairs)), strict=False):
            control = sighted.control_of(row.instance)
            if control is not None:
                found.append(End(row.instance, control, oriented))
            if len(found) == enough:
                break
        return found

    def _patience(self) -> float:
        if self.record.asked is None:
            return PING_S if not self.link.streams and not self.link.failures else SUSPECT_PING_S
        known = self.link.rtt_ms
        return QUICK_PING_S if known is not None and known < QUICK_MS else SUSPECT_PING_S

    def _closed_since_asked(self) -> bool:
        asked, closed = self.record.asked, self.link.closed_at
        return asked is not None and closed is not None and closed >= asked

    # what DNS says

    def _targets(self) -> list[str]:
        """The names that are dialled: the remote's, and where both ends are ours the other way round too."""
        return [row.remote for row in self.record.rows]

    def _dns_is_stale(self) -> bool:
        """The resolver still leads to an address that a server of ours has left. Waited for, but not for ever."""
        asked = self.record.asked
        if asked is None or (timezone.now() - asked).total_seconds() > STALE_DNS_S:
            return False
        servers = [row.peer for row in self.record.rows if row.peer is not None]
        wanted = [frozenset(Subject(server).edge_addresses) for server in servers]
        found = addresses_of([server.domain.name for server in servers], wiring.resolver(), timeout_s=1.0)
        return any(not at or not at <= right for at, right in zip(found, wanted, strict=True) if right)

    def _leads_elsewhere(self) -> bool:
        """DNS leads to an address that was not dialled in vain."""
        found = addresses_of(self._targets(), wiring.resolver(), timeout_s=1.0)
        return any(at is not None and bool(at - set(self.link.dialled)) for at in found)

    def _look(self) -> Callable[[], list[Look]]:
        """Looks at the remote and at our own side: what strangers find there. No database, for it runs in a thread."""
        own, remote = self.link.instance.domain.name, self.link.remote
        resolver, roots = wiring.resolver(), certificates.probe_roots()

        def looks() -> list[Look]:
            return look_at([(remote, own), (own, remote)], resolver=resolver, roots_pem=roots)

        return looks

    # the cure

    def _heal(self, *, known: bool) -> Next:
        """Close this link alone, at each end that is ours; dial from each; a ping proves it.

        ``known``: the link is stale for sure, so it is no fault of its own that people are told of.
        """
        record = self.record
        self.ends = self._reachable()
        record.write(settled=False, state=S2sLink.SUSPECT if known else S2sLink.DOWN, closed_at=timezone.now())
        if not known and not self.link.failures:  # else it has its name, which stays until there is a better one
            first_sign = record.asked or timezone.now() - datetime.timedelta(seconds=time.monotonic() - self.started)
            record.open(cause="LinkSilent", message="A ping over it was not answered.", started_at=first_sign)
        # Beside the dial, since both take seconds with a dead peer; a thread that is not waited for ends by itself.
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="look")
        looking: Future[list[Look]] = pool.submit(self._look())
        pool.shutdown(wait=False)
        closed = engines.close(self.ends)
        answers = self._dial()
        if answers.ok:
            return self._up(answers, closed=closed, healed=True)
        if self._overtaken():
            return Next(0.0)
        return self._not_proven(answers, looking.result(), closed=True)

    def _dial(self) -> Answers:
        """From each end; once more if it failed at once: an engine takes a moment to forget a stream that ended."""
        started = time.monotonic()
        answers = engines.ping(self.ends, DIAL_S, given_up=self._overtaken)
        if not answers.ok and time.monotonic() - started < 1.0 and not self._overtaken():
            time.sleep(0.2)
            engines.purge(self.ends)
            answers = engines.ping(self.ends, DIAL_S, given_up=self._overtaken)
        return answers

    def _overtaken(self) -> bool:
        """An address is known to have changed since this pass began: what it waits for comes from the old one."""
        if self.record.by == "address":
            return False
        ids = [row.pk for row in self.record.rows]
        return S2sLink.objects.filter(pk__in=ids, suspect_by="address").exists()

    # what came of it

    def _up(self, answers: Answers, *, closed: int = 0, healed: bool = False) -> Next:
        record, now = self.record, timezone.now()
        took_s = round(time.monotonic() - self.started, 3)
        if healed:
            said = f"{closed} streams closed, dialled anew in both directions, answered after {took_s:.1f} s."
        else:
            said = "It answers."
        # Before the state says that all is well: a link that is up has no open incident, so none is looked for.
        if self.link.state != S2sLink.UP:
            record.end(said, {"streams_closed": closed, "heal_s": took_s} if healed else {})
        record.release(pending=False, message=said)
        record.write(
            settled=True,
            state=S2sLink.UP,
            last_ping_at=now,
            last_ok_at=now,
            rtt_ms=round(answers.rtt_s * 1000, 2),
            failures=0,
            retry_at=None,
            dialled=[],
            cause="",
            message="",
        )
        if healed:
            self._see_again()
        return Next(PING_EVERY_S * random.uniform(0.75, 1.25))

    def _see_again(self) -> None:
        """The rows should show the new streams now, not in a minute: whoever maps addresses to links needs them."""
        for end, streams in zip(self.ends, engines.streams_of(self.ends), strict=True):
            if streams is not None:
                sighted.record(end.instance, streams)

    def _not_proven(self, answers: Answers, looks: list[Look], *, closed: bool) -> Next:
        """Name it. What is the other server's own is waited for, longer each time."""
        record, link, now = self.record, self.link, timezone.now()
        streams = engines.streams_of(self.ends)
        if all(found is None for found in streams):
            record.write(settled=False, state=S2sLink.UNKNOWN, cause="ServerSilent", message=_SILENT, last_ping_at=now)
            return Next(5.0, failed=True)
        state, cause, message = self._named(answers, looks, streams)
        failures = link.failures + 1
        cap = PENDING_CAP_S if state == S2sLink.PEER_PENDING else BACKOFF_CAP_S
        # What waits for an address of ours is tried sooner: its edge may take the address only a moment later.
        first_s = BACKOFF_S if link.waiting_for_id is None else MOVED_BACKOFF_S
        delay_s = min(cap, first_s * 2 ** min(failures - 1, 8)) * random.uniform(0.8, 1.2)
        record.write(
            settled=True,
            state=state,
            each=[
                {"cause": cause, "message": message},
                {"cause": turned(cause), "message": message},
            ],
            last_ping_at=now,
            failures=failures,
            retry_at=now + datetime.timedelta(seconds=delay_s),
            dialled=sorted({address for seen in looks for address in seen.addresses}),
        )
        record.open(started_at=record.asked or now)
        if closed and failures == 1:
            record.tell("Acted", "Its streams were closed and dialled anew; it is not proven.")
        if link.peer is None or failures >= GIVE_UP_AFTER:
            record.release(pending=True, message=message)
        return self._wait()

    def _named(
        self, answers: Answers, looks: list[Look], streams: Sequence[Sequence[object] | None]
    ) -> tuple[str, str, str]:
        """(state, cause, message), as it is seen from the link's own end."""
        remote, own = looks
        if remote.alive is False:
            return S2sLink.DOWN, remote.cause, remote.message
        if own.alive is False:
            return S2sLink.DOWN, turned(own.cause), own.message
        words = " ".join(answers.errors)
        if self.link.peer is None and self._own_half_is_new(streams):
            return S2sLink.PEER_PENDING, "PeerHalfStale", _PENDING
        refused = any(word in words.lower() for word in _REFUSALS)
        moved = self.record.by == "address" or self.link.cause == "PeerHalfStale"
        if self.link.peer is None and moved and remote.alive and not refused:
            # Dialback asks the peer to ask back, and it does that over its stale stream: no stream of ours comes about.
            return S2sLink.PEER_PENDING, "PeerHalfStale", _PENDING_DIALBACK
        if refused:
            return S2sLink.DOWN, "PeerRefuses", f"The other server refuses the connection: {words}"
        if remote.alive is None:
            return S2sLink.DOWN, remote.cause, remote.message
        if self.link.peer is not None and len(self.ends) < 2:
            return S2sLink.DOWN, "PeerAway", "One of the two machines is not reached by us, and nobody answers there."
        return S2sLink.DOWN, "LinkFails", words

    def _own_half_is_new(self, streams: Sequence[Sequence[object] | None]) -> bool:
        """After closing, our engine has an authenticated stream to the peer again: what is missing is its way back."""
        found = next((s for s in streams if s is not None), ())
        return any(getattr(s, "direction", "") == "out" and getattr(s, "remote", "") == self.link.remote for s in found)

    def _wait(self) -> Next:
        """Until ``retry_at``, with a look at DNS now and then: an address that changes is dialled at once."""
        link, now = self.link, timezone.now()
        left_s = max(0.0, (link.retry_at - now).total_seconds()) if link.retry_at is not None else 0.0
        young = (now - link.since).total_seconds() < POLL_FOR_S
        return Next(min(left_s, POLL_S if young else LATE_POLL_S))


_AWAY = "This server's machine is not reached at the moment."
_SILENT = "This server does not answer its control channel."
_PENDING = (
    "Our half is well. The other server's own half is not in our hands: it notices by itself, at the latest when its "
    "kernel gives up (about 15 minutes)."
)
_PENDING_DIALBACK = (
    "The other server is there, but it still uses its connection to our old address, and proves who we are over that "
    "one (dialback). It notices by itself, at the latest when its kernel gives up (about 15 minutes)."
)
_REFUSALS = ("not-authorized", "policy-violation", "forbidden", "not-allowed", "denied")


def turned(cause: str) -> str:
    """The same fault as the other end sees it: what is the peer's there is its own here."""
    for one, other in (("Peer", "Own"), ("Own", "Peer")):
        if cause.startswith(one):
            return other + cause.removeprefix(one)
    return cause


def _blocks(one: Instance, name: DomainName) -> bool:
    return any(name.is_within(DomainName(blocked)) for blocked in one.s2s_blocked)
