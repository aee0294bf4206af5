"""``./roost node …``: words into requests about nodes. What answers look like is ``fleet_shown``'s."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from launcher import fleet_shown as shown
from launcher.errors import Problem
from launcher.fleet import Action, Words, api_of, carry_out, follow, waits
from launcher.layout import Layout
from launcher.rest import Api

ACTIONS = {
    "cordon": "place nothing new there",
    "uncordon": "accept new instances again",
    "retire": "take it out of use; it has to be empty",
    "refresh": "have it looked at now",
}
#: Actions that take time -> the counter in the node's body that says when it is done.
LONG = {
    "rotate-key": ("key_rotations", "replace Roost's key on it"),
    "prepare": ("preparations", "apply the roles once more"),
}


def node(layout: Layout, words: Sequence[str]) -> int:
    return carry_out(parser(), lambda: api_of(layout), words)


def parser() -> Words:
    whole = Words(prog="./roost node", description="Nodes: machines with engines, an edge, or both.")
    of = whole.add_subparsers(metavar="COMMAND", required=True, parser_class=Words)

    def command(name: str, what: str, action: Action, *, named: bool = True) -> Words:
        found: Words = of.add_parser(name, help=what, description=what, prog=f"./roost node {name}")
        found.set_defaults(action=action, command=name)
        if named:
            found.add_argument("name", help="the node's name")
        return found

    command("list", "all nodes and their room", _list, named=False)
    command("show", "one node: conditions, facts, keys, room", _show)
    enrol = command("enrol", "enrol a machine that is reached by SSH", _enrol)
    enrol.add_argument("address", help="where SSH reaches it")
    enrol.add_argument("--host-key", metavar="KEY", help="«ssh-ed25519 AAAA…» or «SHA256:…»; else it is to be compared")
    waits(enrol, "until it is ready")
    change = command("change", "change what is written of it", _change)
    change.add_argument("--address")
    for each in (enrol, change):
        _fields(each)
    accept = command("accept-host-key", "believe it by a key that it shows", _accept)
    accept.add_argument("fingerprint", help="SHA256:…, compared with `ssh-keygen -lf` on the machine itself")
    for name, what in ACTIONS.items():
        command(name, what, _act)
    for name, (_, what) in LONG.items():
        waits(command(name, what, _act_long), "until it is done")
    drain = command("drain", "have it emptied: nothing new goes there; says what is on it first", _drain)
    drain.add_argument("--yes", action="store_true", help="do not ask")
    command("blast-radius", "what goes if this node goes", _blast)
    preview = command("preview", "where an instance would go now, and why", _preview, named=False)
    preview.add_argument("engine", choices=("prosody", "ejabberd"))
    preview.add_argument("plan")
    preview.add_argument("organisation", nargs="?", help="left out: a new one")
    preview.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    return whole


def _fields(parser: Words) -> None:
    """What may be said of a node: everyday things by options, all others by --set."""
    parser.add_argument("--port", type=int, dest="ssh_port", help="of SSH")
    parser.add_argument("--user", dest="ssh_user", help="who may do everything there (root)")
    parser.add_argument("--edge", choices=("own", "shared", "none"))
    parser.add_argument("--edge-only", action="store_true", help="it carries no instances")
    parser.add_argument("--public", action="append", dest="public_addresses", metavar="ADDRESS", help="of its edge")
    parser.add_argument("--private", dest="private_address", metavar="ADDRESS", help="where shared edges reach it")
    parser.add_argument("--network", dest="instance_network", help="of the instances, such as 10.8.1.0/24")
    parser.add_argument("--base-port", type=int)
    parser.add_argument("--memory", type=int, dest="memory_mib", metavar="MIB", help="for instances")
    parser.add_argument("--runtime", choices=("systemd", "supervisor"))
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="any other field of the API, such as variables"
    )


_OPTIONS = (
    *("ssh_port", "ssh_user", "edge", "public_addresses", "private_address", "instance_network", "base_port"),
    *("memory_mib", "runtime"),
)


def _body(given: argparse.Namespace) -> dict[str, Any]:
    """The request's fields from the options."""
    body = {name: getattr(given, name) for name in _OPTIONS if getattr(given, name) is not None}
    if given.edge_only:
        body["carries_instances"] = False
    if given.label:
        body["labels"] = _labels(given.label)
    for text in given.set:
        name, _, value = text.partition("=")
        try:
            body[name] = json.loads(value)
        except ValueError as error:
            raise Problem(f"The value of --set {name} has to be JSON, such as --set '{name}=\"text\"'.") from error
    return body


def _labels(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    bad = next((name for name, equals, _ in pairs if not equals), None)
    if bad is not None:
        raise Problem(f"A label is NAME=VALUE, such as region=eu-north, and not {bad!r}.")
    return {name: value for name, _, value in pairs}


def _path(given: argparse.Namespace, *rest: str) -> str:
    return "/".join(["nodes", quote(given.name, safe=""), *rest, ""])


def _list(api: Api, _: argparse.Namespace) -> int:
    print(shown.nodes(_all(api, "nodes/")))
    return 0


def _all(api: Api, path: str) -> list[Any]:
    """Every page."""
    rows: list[Any] = []
    while True:
        page = api.get(f"{path}?limit=500&offset={len(rows)}")
        rows += page["results"]
        if not page["next"]:
            return rows


def _show(api: Api, given: argparse.Namespace) -> int:
    print(shown.node(api.get(_path(given))))
    return 0


def _enrol(api: Api, given: argparse.Namespace) -> int:
    body = {"name": given.name, "address": given.address, **_body(given)}
    if given.host_key:
        body["host_key"] = given.host_key
    row = api.post("nodes/", body)
    print(shown.enrolled(row), flush=True)
    if given.wait:
        follow(api, _path(given), given, lambda found: bool(found["ready"]), shown.conditions)
    return 0


def _change(api: Api, given: argparse.Namespace) -> int:
    body = _body(given)
    if given.address:
        body["address"] = given.address
    if not body:
        raise Problem("Say what to change: `./roost node change --help` shows what there is.")
    print(shown.node(api.ask("PATCH", _path(given), body)))
    return 0


def _accept(api: Api, given: argparse.Namespace) -> int:
    row = api.post(_path(given, "accept-host-key"), {"fingerprint": given.fingerprint})
    print(f"{row['name']} is believed by {given.fingerprint} now.")
    return 0


def _act(api: Api, given: argparse.Namespace) -> int:
    row = api.post(_path(given, given.command))
    print(shown.standing(row))
    return 0


def _act_long(api: Api, given: argparse.Namespace) -> int:
    counter, what = LONG[given.command]
    row = api.post(_path(given, given.command))
    wanted = row[counter]["asked"]
    print(f"{row['name']}: asked to {what}.", flush=True)
    if given.wait:
        follow(api, _path(given), given, lambda found: bool(found[counter]["done"] >= wanted), shown.conditions)
    return 0


def _drain(api: Api, given: argparse.Namespace) -> int:
    if not given.yes:
        print(shown.blast(api.get(_path(given, "blast-radius"))), flush=True)
        try:
            said = input(f"Have {given.name} emptied? [y/N] ").strip().lower()
        except EOFError:
            raise Problem("Nobody is there to answer: use --yes.") from None
        if said not in ("y", "yes"):
            print("Nothing was changed.")
            return 1
    print(api.post(_path(given, "drain"))["message"])
    return 0


def _blast(api: Api, given: argparse.Namespace) -> int:
    print(shown.blast(api.get(_path(given, "blast-radius"))))
    return 0


def _preview(api: Api, given: argparse.Namespace) -> int:
    body = {"engine": given.engine, "plan": given.plan, "node_labels": _labels(given.label)}
    if given.organisation:
        body["organisation"] = given.organisation
    found = api.post("placements/preview/", body)
    print(shown.preview(found))
    return 0 if found["node"] else 1
