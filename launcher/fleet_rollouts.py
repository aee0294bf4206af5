"""``./roost rollout …``: words into requests about rollouts. What answers look like is ``fleet_shown``'s."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from launcher import fleet_shown as shown
from launcher.errors import Problem
from launcher.fleet import Words, api_of, carry_out, follow, waits
from launcher.layout import Layout
from launcher.rest import Api


def rollout(layout: Layout, words: Sequence[str]) -> int:
    return carry_out(parser(), lambda: api_of(layout), words)


def parser() -> Words:
    whole = Words(prog="./roost rollout", description="One change of many nodes, one at a time; a failure stops it.")
    of = whole.add_subparsers(metavar="COMMAND", required=True, parser_class=Words)
    listed = of.add_parser("list", help="all of them, the newest first", prog="./roost rollout list")
    listed.set_defaults(action=_list_rollouts)
    start = of.add_parser("start", help="begin one", prog="./roost rollout start")
    start.set_defaults(action=_start)
    start.add_argument("kind", choices=("upgrade", "prepare"), help="newer packages, or this release's roles")
    start.add_argument("nodes", nargs="*", metavar="NODE", help="left out: all that Roost has prepared")
    start.add_argument("--canary", metavar="NODE", help="who is first (else the first by name)")
    waits(start, "to its end")
    show = of.add_parser("show", help="how far it is", prog="./roost rollout show")
    show.set_defaults(action=_show_rollout)
    show.add_argument("number", nargs="?", help="left out: the newest")
    waits(show, "to its end")
    cancel = of.add_parser("cancel", help="go on to no other node", prog="./roost rollout cancel")
    cancel.set_defaults(action=_cancel)
    cancel.add_argument("number")
    return whole


def _list_rollouts(api: Api, _: argparse.Namespace) -> int:
    print(shown.rollouts(api.get("rollouts/")["results"]))
    return 0


def _start(api: Api, given: argparse.Namespace) -> int:
    body = {"kind": given.kind, "nodes": given.nodes or None, "canary": given.canary}
    row = api.post("rollouts/", body)
    print(shown.rollout(row), flush=True)
    return _finish(api, row, given)


def _show_rollout(api: Api, given: argparse.Namespace) -> int:
    number = given.number
    if number is None:
        listed = api.get("rollouts/?limit=1")["results"]
        if not listed:
            raise Problem("There was no rollout yet: `./roost rollout start --help` shows how to begin one.")
        number = str(listed[0]["id"])
    row = api.get(f"rollouts/{quote(number, safe='')}/")
    print(shown.rollout(row), flush=True)
    return _finish(api, row, given)


def _finish(api: Api, row: Any, given: argparse.Namespace) -> int:
    """To the end, if that is wanted; 0: it is done, or runs and is not followed."""
    path = f"rollouts/{row['id']}/"
    if row["state"] == "running" and given.wait:
        follow(api, path, given, lambda found: bool(found["state"] != "running"), shown.rollout)
        row = api.get(path)
        print(shown.rollout(row))
    return 0 if row["state"] in ("running", "done") else 1


def _cancel(api: Api, given: argparse.Namespace) -> int:
    print(shown.rollout(api.post(f"rollouts/{quote(given.number, safe='')}/cancel/")))
    return 0
