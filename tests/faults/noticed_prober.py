"""A prober of the tests' own in the place of the stack's, which can be cut off from the network alone.

It runs with a group number that nothing else on the machine has, by which the packet filter knows its packets. The
database is reached by a unix socket and stays.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from launcher import keys
from launcher.up import process_environment
from tests.faults.noticed_faults import Wall
from tests.faults.noticed_story import now_of
from tests.stack.live import Live, until

#: More than any group that a machine has; with the stack's network, since several stacks may be tested at once.
GROUPS = 47_000
PLACE = "here"


@contextlib.contextmanager
def own_prober(live: Live) -> Iterator[Wall]:
    """While it lasts it is the only one; returns the wall around it, which is not built yet."""
    group = GROUPS + live.layout.net
    wall = Wall(live, "prober", f"meta skgid {group} ip daddr 127.0.0.0/8")
    environment = process_environment(live.layout, keys.read_environment(live.layout))
    argv = ["setpriv", "--reuid=roost", f"--regid={group}", "--init-groups", "--pdeathsig=TERM", "--"]
    argv += [str(live.layout.python), "manage.py", "prober", "--place", PLACE]
    live.main.stop_part("prober")
    began = now_of(live)
    with (live.state / "log" / "own-prober.log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=live.layout.app, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        until(
            lambda: live.rows("SELECT 1 FROM monitoring_sample WHERE at > %s AND place = %s LIMIT 1", began, PLACE),
            "the tests' own prober looks",
            timeout_s=60,
        )
        yield wall
    finally:
        wall.remove()
        process.terminate()
        process.wait(30)
        live.main.start_part("prober")


def looks(live: Live) -> int:
    """How many of its looks were kept."""
    ((count,),) = live.rows("SELECT count(*) FROM monitoring_sample")
    return int(count)
