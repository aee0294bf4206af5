"""``./roost node`` and ``./roost rollout``: the fleet, over the REST API, for people at a terminal.

What both share: which API, how words are refused, and following what takes time. Every rule is the API's. With
ROOST_API_URL and ROOST_API_TOKEN it is another Roost's API than that of the stack beside.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from launcher import fleet_shown as shown
from launcher import keys
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.rest import Api

#: One long poll, seconds; below the API's limit.
POLL_S = 20
#: Between two looks, where the API has no place to wait in.
LOOK_S = 0.5
WAIT_S = 900

Action = Callable[[Api, argparse.Namespace], int]


def carry_out(parser: Words, api: Callable[[], Api], words: Sequence[str]) -> int:
    """The exit code. Without words it lists. The API is looked for once the words are understood."""
    given = parser.parse_args(words or ["list"])
    action: Action = given.action
    return action(api(), given)


def api_of(layout: Layout) -> Api:
    """The stack's API, or the one that the environment names."""
    base, token = os.environ.get("ROOST_API_URL", ""), os.environ.get("ROOST_API_TOKEN", "")
    if base or token:
        if not (base and token):
            raise Problem("Set both ROOST_API_URL (without /api/v1) and ROOST_API_TOKEN, or neither.")
        return Api(base.rstrip("/"), token)
    token = keys.load(layout).token if layout.state.is_dir() else ""
    if not token:
        raise Problem("There is no stack here: run `./roost up`, or set ROOST_API_URL and ROOST_API_TOKEN.")
    return Api(layout.web_url, token)


class Words(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as the whole launcher does."""

    def error(self, message: str) -> NoReturn:
        raise Problem(f"{message[:1].upper()}{message[1:]}: `{self.prog} --help` shows what there is.")


def waits(parser: Words, until: str) -> None:
    """Options of commands that can follow what they began."""
    parser.add_argument("--wait", action="store_true", help=f"follow it {until}")
    parser.add_argument("--timeout", type=int, default=WAIT_S, metavar="SECONDS", help=f"of --wait ({WAIT_S})")


def follow(
    api: Api, path: str, given: argparse.Namespace, done: Callable[[Any], bool], show: Callable[[Any], str]
) -> None:
    """Print what happens until the resource is ``done``; ``Problem`` with how it stands if it is not in time."""
    end = time.monotonic() + given.timeout
    cursor = api.get(f"{path}events/?after=now&limit=1")["cursor"]
    while True:
        row = api.get(path)
        if done(row):
            print(shown.finished(row), flush=True)
            return
        left = end - time.monotonic()
        if left <= 0:
            raise Problem(f"It is not done after {given.timeout} s; Roost goes on by itself.", show(row))
        news = api.get(f"{path}events/?after={cursor}&wait={max(1, min(POLL_S, int(left)))}")
        cursor = news["cursor"]
        for event in news["events"]:
            print(shown.event(event), flush=True)
        if not news["events"]:
            time.sleep(LOOK_S)
