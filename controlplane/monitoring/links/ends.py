"""The engines at a link's ends, those of them that are ours and answer: ping, close, dial, in parallel.

The database is not touched here, since the calls run in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from controlplane.drivers.engine.base import EngineControl, S2sConnection
from controlplane.monitoring.models import S2sLink
from controlplane.values.errors import RoostError
from controlplane.values.names import DomainName
from tenants.models import Instance

#: More pairs of names than this are not proven one by one: four names of ours with the domain and rooms of the other.
PAIRS = 8
#: What one engine takes at most to drop its streams.
CLOSE_LIMIT_S = 4.0
#: How often it is asked whether an answer is still waited for.
GIVEN_UP_S = 0.3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two names that have streams between them, as seen from one end."""

    local: DomainName
    remote: DomainName

    def turned(self) -> Pair:
        return Pair(self.remote, self.local)


@dataclass(frozen=True, slots=True)
class End:
    """An engine of ours at one end, and the names it talks with over this link."""

    instance: Instance
    control: EngineControl
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of pinging: ``rtt_s`` is the slowest of those that answered; ``errors`` the others' words."""

    rtt_s: float = 0.0
    answered: int = 0
    errors: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return self.answered > 0 and not self.errors


def pairs_of(link: S2sLink, mirror: S2sLink | None) -> tuple[Pair, ...]:
    """Which names talk over it, as seen from ``link``'s end: by the streams both ends told last."""
    found = {(s["local"], s["remote"]) for s in link.streams}
    if mirror is not None:
        found |= {(s["remote"], s["local"]) for s in mirror.streams}
    main = (link.instance.domain.name, link.remote)
    ordered = sorted(found or {main}, key=lambda pair: (pair != main, pair))
    return tuple(Pair(DomainName(local), DomainName(remote)) for local, remote in ordered[:PAIRS])


def ping(ends: Sequence[End], timeout_s: float, *, given_up: Callable[[], bool] | None = None) -> Answers:
    """An s2s ping for every pair, from each of these ends; the answer needs a stream in either direction.

    ``given_up``: asked now and then in the caller's thread; once it is true, no answer is waited for any longer.
    """
    calls = [_ping_call(end, pair, timeout_s) for end in ends for pair in end.pairs]
    results = run_all(calls, limit_s=timeout_s + 1.5, given_up=given_up)
    times = [result for result in results if isinstance(result, float)]
    errors = tuple(str(result) for result in results if not isinstance(result, float))
    return Answers(max(times, default=0.0), len(times), errors)


def _ping_call(end: End, pair: Pair, timeout_s: float) -> Callable[[], float]:
    return lambda: end.control.ping(pair.remote, timeout_s, local=pair.local)


def close(ends: Sequence[End]) -> int:
    """Close exactly these pairs' streams at each end, after the resolver's cache is emptied; how many there were."""

    def at(end: End) -> int:
        end.control.purge_dns_cache()
        return sum(end.control.close_s2s(pair.local, pair.remote) for pair in end.pairs)

    results = run_all([lambda end=end: at(end) for end in ends], limit_s=CLOSE_LIMIT_S)  # type: ignore[misc]
    return sum(result for result in results if isinstance(result, int))


def purge(ends: Sequence[End]) -> None:
    """The next look-ups ask the resolver."""
    run_all([end.control.purge_dns_cache for end in ends], limit_s=CLOSE_LIMIT_S)


def streams_of(ends: Sequence[End]) -> list[Sequence[S2sConnection] | None]:
    """What each end's engine has now; None for one that does not answer."""
    results = run_all([end.control.s2s_connections for end in ends], limit_s=2.0)
    return [None if isinstance(result, Exception) else result for result in results]


def run_all(
    calls: Sequence[Callable[[], Any]], *, limit_s: float, given_up: Callable[[], bool] | None = None
) -> list[Any]:
    """The results in order; an error of ours, or ``TimeoutError``, in the place of a call that failed."""
    if len(calls) == 1 and given_up is None:
        try:
            return [calls[0]()]
        except RoostError as error:
            return [error]
    if not calls:
        return []
    pool = ThreadPoolExecutor(max_workers=len(calls), thread_name_prefix="link")
    futures: list[Future[Any]] = [pool.submit(call) for call in calls]
    if given_up is None:
        wait(futures, timeout=limit_s)
    else:
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not wait(futures, timeout=min(GIVEN_UP_S, left_s)).not_done or given_up():
                break
    pool.shutdown(wait=False, cancel_futures=True)
    return [_result(future) for future in futures]


def _result(future: Future[Any]) -> Any:
    if not future.done() or future.cancelled():
        return TimeoutError("no answer in time")
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, RoostError):
        return error
    raise error


def elapsed_ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
