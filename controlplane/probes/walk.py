"""A stranger's way through one tenant's server, from DNS to a call: nothing less sets ``Verified``.

Steps run as soon as what they need is known, those that are independent at once, and are told in a fixed
order. A fault is named by the step that finds it; what could not run because of it is marked as skipped and not
ok. The walk measures; what follows from it is left to ``provisioning``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from controlplane.probes.c2s import archive, disco, login
from controlplane.probes.clock import clock
from controlplane.probes.muc import muc
from controlplane.probes.report import Blocked, Failed, Finding, Skipped, StepResult, WalkReport
from controlplane.probes.resolve import resolve
from controlplane.probes.s2s import s2s
from controlplane.probes.subject import Journey, WalkSubject
from controlplane.probes.tls import tls
from controlplane.probes.turn import turn
from controlplane.probes.upload import upload
from controlplane.probes.web import host_meta
from controlplane.values.errors import RoostError

__all__ = ["STEPS", "WalkReport", "WalkSubject", "walk", "walk_along"]

Step = Callable[[Journey], Awaitable[Finding]]

#: Name -> step, in the order of the report; a step waits for those before it on its line of ``_PATHS``.
STEPS: dict[str, Step] = {
    "resolve": resolve,
    "tls": tls,
    "login": login,
    "disco": disco,
    "archive": archive,
    "upload": upload,
    "muc": muc,
    "turn": turn,
    "clock": clock,
    "host-meta": host_meta,
    "s2s": s2s,
}
#: First these one after the other; then each of the second row; host-meta beside all that follows tls.
_FIRST, _SESSION, _INSIDE = ("resolve", "tls"), ("login", "disco"), ("archive", "upload", "muc", "turn", "clock", "s2s")
_CLOSING_S = 2.0  # kept of the time for taking leave properly


def walk(subject: WalkSubject) -> WalkReport:
    """Walk it all within ``timeout_s`` seconds. Blocks; for callers without an event loop.

    A failing server is a report and never an exception. Raises ``InvalidInput`` for trust roots that cannot be read.
    """
    return asyncio.run(walk_along(subject))


async def walk_along(subject: WalkSubject) -> WalkReport:
    """The same within an event loop, beside others; ``cpu_s`` counts those, too."""
    journey = Journey.of(subject)
    start, cpu = time.monotonic(), time.thread_time()
    steps = await _walk(journey)
    return WalkReport(steps, time.monotonic() - start, time.thread_time() - cpu)


async def _walk(journey: Journey) -> tuple[StepResult, ...]:
    deadline = asyncio.get_running_loop().time() + max(0.1, journey.subject.timeout_s - _CLOSING_S)
    results: dict[str, StepResult] = {}

    async def take(name: str) -> None:
        results[name] = await _take(name, journey, deadline)

    async def inside() -> None:
        for name in _SESSION:
            await take(name)
        await asyncio.gather(*(take(name) for name in _INSIDE))

    try:
        for name in _FIRST:
            await take(name)
        await asyncio.gather(inside(), take("host-meta"))
    finally:
        if journey.client is not None:
            await journey.client.close()
    return tuple(results[name] for name in STEPS)


async def _take(name: str, journey: Journey, deadline: float) -> StepResult:
    """Run one step to its end, whatever that is."""
    loop = asyncio.get_running_loop()
    start = loop.time()

    def result(ok: bool, skipped: bool, message: str, details: object = None) -> StepResult:
        return StepResult(name, ok, skipped, message, loop.time() - start, details if isinstance(details, dict) else {})

    try:
        async with asyncio.timeout_at(deadline):
            finding = await STEPS[name](journey)
    except Skipped as skipped:
        return result(True, True, str(skipped))
    except Blocked as blocked:
        return result(False, True, str(blocked))
    except Failed as failed:
        return result(False, False, str(failed), failed.details)
    except RoostError as error:
        return result(False, False, str(error))
    except TimeoutError:
        return result(False, False, f"Not done within the walk's {journey.subject.timeout_s:g} s.")
    except Exception as error:  # noqa: BLE001  # whatever a server sends, the other steps' results are told
        return result(False, False, f"The check itself failed: {type(error).__name__}: {error}.")
    return result(True, False, finding.message, finding.details)
