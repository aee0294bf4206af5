"""``./roost lab``: a rig of real hosts on this machine, with a control plane that manages them over SSH.

The hosts are namespaces with roots, processes, users, networks and SSH servers of their own (``launcher/rig``). What
``up`` made is gone after ``down``; nothing of a lab survives it but the Python environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

from launcher import demo, lab_network, packages, stack
from launcher.ending import down as stop_stack
from launcher.errors import Problem
from launcher.layout import Layout, lab_prefix, make_state
from launcher.progress import Progress
from launcher.rest import Api
from launcher.rig.machine import Host
from launcher.rig.processes import RigError
from launcher.rig.rig import Rig, take_down
from launcher.services import remote
from launcher.up import Up, bring_up, prepare

HELP = """\
Usage: ./roost lab COMMAND

  up [--nodes N] [--edges N] [--no-demo]
                  a lab of N nodes (3), each with an edge of its own, or with N shared edges beside them
  map             the hosts, their addresses and what is where
  status          what runs, and what is wrong
  run HOST CMD…   a command in a host (no command: a shell)
  cut HOST        pull its cables;               plug HOST   put them in again
  swallow HOST    a black hole: packets vanish;  heal HOST   no more
  loss HOST P     lose P of a hundred packets    (heal ends it)
  delay HOST MS   what goes to and comes from it takes so many milliseconds longer (0: no more)
  nat HOST        put it behind a router that translates; unnat HOST   no more
  off HOST        cut its power;                 on HOST     boot it again
  move HOST N     give it the public address …N; its old one becomes a black hole
  down            stop and remove all of it
"""
NODES, EDGES, OUTSIDE = 10, 30, 100
NODE_MEMORY_MIB = 6144
READY_LIMIT_S = 300.0
#: What survives a lab.
KEPT = {"venv", "reports"}
Action = Callable[[Layout, list[str]], int]


def lab(layout: Layout, rest: list[str]) -> int:
    """The command. ``layout``: of the lab's own state directory."""
    name, arguments = (rest[0], rest[1:]) if rest else ("help", [])
    if name in ("help", "-h", "--help"):
        print(HELP, end="")
        return 0
    action = _ACTIONS.get(name)
    if action is None:
        raise Problem(f"There is no command {name!r} for a lab: `./roost lab help` lists them.")
    try:
        return action(layout, arguments)
    except RigError as error:
        raise Problem(str(error)) from error


def _up(layout: Layout, rest: list[str]) -> int:
    nodes, edges, with_demo = _counts(rest)
    progress = Progress()
    up, _ = raise_lab(layout, progress, nodes=nodes, edges=edges)
    if with_demo:
        demo.provision(layout_of(layout), up, progress)
    show(layout_of(layout), up, progress)
    return 0


def layout_of(layout: Layout) -> Layout:
    """The same once its rig is there."""
    return Layout(layout.clone, layout.var, layout.state, layout.net, lab_prefix(layout.net))


def raise_lab(plain: Layout, progress: Progress, *, nodes: int, edges: int, with_tests: bool = False) -> tuple[Up, Rig]:
    """Rig, stack and enrolled nodes; what is there already is kept. This process is in the lab's network then."""
    with progress.step("Packages for the hosts") as say:
        packages.install([*packages.RUNTIME, *packages.LAB], say)
    prepare(plain, progress, with_tests=with_tests)
    make_state(plain)
    with progress.step("Hosts") as say:
        rig = _raise_rig(plain, nodes, edges, say)
        say(", ".join(rig.hosts))
    layout = layout_of(plain)
    lab_network.enter(layout)
    up = bring_up(layout, progress, with_tests=with_tests)
    with progress.step(f"{remote.DOMAIN}, which is nobody's tenant"):
        program = remote.prepare(layout, lab_network.outside(layout))
        stack.define(layout, "30-remote", [program])
        stack.supervisor(layout).reread()
        remote.publish(layout, up.secrets.powerdns)
        remote.account(layout)
        stack.wait_ready(layout, program)
    with progress.step("Nodes enrolled") as say:
        api = Api(layout.web_url, up.secrets.token)
        for host in _machines(rig):
            enrol(api, host, edge="shared" if host.name.startswith("e") else "none" if edges else "own")
            say(host.name)
        wait_nodes(api, [host.name for host in _machines(rig)], say)
        say(", ".join(host.name for host in _machines(rig)))
    return up, rig


def _raise_rig(layout: Layout, nodes: int, edges: int, say: Callable[[str], None]) -> Rig:
    try:
        rig = Rig.load(layout.rig)
    except RigError:
        take_down(layout.rig)
        rig = Rig(layout.rig, layout.net)
        rig.up()
    outside = Host(lab_network.OUTSIDE, OUTSIDE, rig.plan, rig.directory, rig.hub, full=False)
    numbers = (OUTSIDE, 3, 4, 53, 54, remote.NUMBER, remote.SECOND)
    outside.addresses = {
        "pub": [*(f"{rig.plan.public(n)}/24" for n in numbers), f"{rig.plan.public6(OUTSIDE)}/64"],
        "priv": [],
    }
    rig.hosts.setdefault(outside.name, outside)
    rig.add(lab_network.OUTSIDE, OUTSIDE, full=False)
    rig.add(lab_network.CONTROL, 1, full=False)
    # The hosts are other people's machines: this clone and its state, with all keys, are not theirs to see.
    hidden = (str(layout.clone), str(layout.state))
    for number in range(1, nodes + 1):
        say(f"n{number}")
        rig.add(f"n{number}", NODES + number, hidden=hidden)
    for number in range(1, edges + 1):
        say(f"e{number}")
        rig.add(f"e{number}", EDGES + number, hidden=hidden)
    return rig


def _machines(rig: Rig) -> list[Host]:
    """The hosts that are nodes, edges last."""
    return [host for host in rig.hosts.values() if host.full]


def enrol(api: Api, host: Host, *, edge: str) -> None:
    """Make a node of a host, as an operator would: with its host key, and our key put on it."""
    row = api.find(f"nodes/{host.name}/")
    if row is None:
        carries = edge != "shared"
        body: dict[str, Any] = {
            "name": host.name,
            "address": host.private,
            "host_key": host.host_key,
            "runtime": "supervisor",
            "runtime_dir": "/etc/supervisor/conf.d",
            "supervisor_socket": "/run/supervisor.sock",
            "carries_instances": carries,
            "edge": edge,
            "public_addresses": [] if edge == "none" else [host.public, host.plan.public6(host.number)],
            "private_address": host.private,
            "memory_mib": NODE_MEMORY_MIB if carries else 0,
            "labels": {"region": "lab", "provider": f"p{host.number % 2}"},
        }
        row = api.post("nodes/", body)
    host.authorize(str(row["authorized_key"]))
    if row.get("ready") is not True:
        api.post(f"nodes/{host.name}/refresh/")


def wait_nodes(api: Api, names: list[str], say: Callable[[str], None], limit_s: float = READY_LIMIT_S) -> None:
    """Until each of these nodes is Ready; ``Problem`` with what they say if they do not become so."""
    deadline = time.monotonic() + limit_s
    waiting = list(names)
    while waiting:
        for name in list(waiting):
            conditions = {c["type"]: c for c in api.get(f"nodes/{name}/")["conditions"]}
            if conditions.get("Ready", {}).get("status") == "True":
                waiting.remove(name)
                continue
            bad = next((c for c in conditions.values() if c["status"] != "True" and c["type"] != "Ready"), None)
            say(f"{name}: {bad['type']} {bad['reason']}: {bad['message'][:80]}" if bad else f"{name}: waits")
            if time.monotonic() > deadline:
                lines = [f"{name} {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in conditions.values()]
                who = ", ".join(waiting)
                raise Problem(f"The nodes {who} did not become ready within {limit_s:.0f} s.", "\n".join(lines))
        time.sleep(0.5)


def _counts(rest: list[str]) -> tuple[int, int, bool]:
    found = {"--nodes": 3, "--edges": 0}
    words, with_demo = list(rest), True
    while words:
        word = words.pop(0)
        if word == "--no-demo":
            with_demo = False
        elif word in found and words and words[0].isdigit():
            found[word] = int(words.pop(0))
        else:
            raise Problem(f"{word!r} is not understood: `./roost lab help` shows what there is.")
    if not 1 <= found["--nodes"] <= 20 or found["--edges"] > 9:
        raise Problem("A lab has 1 to 20 nodes and up to 9 edges.")
    return found["--nodes"], found["--edges"], with_demo


def show(layout: Layout, up: Up, progress: Progress) -> None:
    demo.show(layout, up, progress)
    print()
    _print_map(layout)
    print("\n`./roost lab help` lists what can be done to the hosts; `./roost lab down` removes all of it.")


def _print_map(layout: Layout) -> None:
    rig = lab_network.rig_of(layout)
    said = {
        lab_network.CONTROL: "the control plane: web, workers, clock",
        lab_network.OUTSIDE: f"the world: DNS .53 .54, CA .3, TURN .4, {remote.DOMAIN} .{remote.NUMBER}, clients",
    }
    print(f"  {'host':<10}{'public':<34}{'private':<16}")
    for host in rig.hosts.values():
        public = [text.partition("/")[0] for text in host.addresses.get("pub", [])]
        shown = [public[0], *(text for text in public if ":" in text)] if public else ["-"]
        private = next((text.partition("/")[0] for text in host.addresses.get("priv", [])), "-")
        what = said.get(host.name) or ("edge" if host.name.startswith("e") else "node")
        state = "" if host.is_on else "  (off)"
        print(f"  {host.name:<10}{' '.join(shown):<34}{private:<16}{what}{state}")


def _map(layout: Layout, _: list[str]) -> int:
    _print_map(layout)
    return 0


def _status(layout: Layout, _: list[str]) -> int:
    from launcher.status import status

    lab_network.enter(layout)
    return status(layout)


def _run(layout: Layout, rest: list[str]) -> int:
    host = _host(layout, rest)
    command = rest[1:] or ["/bin/bash", "-l"]
    argv = [*host.into(), *command]
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    return subprocess.run(argv, check=False, env={**environment, "TERM": os.environ.get("TERM", "dumb")}).returncode


def _host(layout: Layout, rest: list[str]) -> Host:
    hosts = lab_network.rig_of(layout).hosts
    if not rest or rest[0] not in hosts:
        raise Problem(f"Name one of the hosts: {', '.join(hosts)}.")
    return hosts[rest[0]]


def _to_host(verb: str) -> Action:
    def act(layout: Layout, rest: list[str]) -> int:
        name = _host(layout, rest).name
        getattr(lab_network.rig_of(layout), verb)(name)
        return 0

    return act


def _loss(layout: Layout, rest: list[str]) -> int:
    name = _host(layout, rest).name
    if len(rest) != 2 or not rest[1].isdigit() or not 0 < int(rest[1]) <= 100:
        raise Problem("Say how many of a hundred packets are to be lost: `./roost lab loss n1 30`.")
    lab_network.rig_of(layout).swallow(name, loss_percent=int(rest[1]))
    return 0


def _delay(layout: Layout, rest: list[str]) -> int:
    name = _host(layout, rest).name
    if len(rest) != 2 or not rest[1].isdigit() or not 0 <= int(rest[1]) <= 10000:
        raise Problem("Say how many milliseconds, up to 10000: `./roost lab delay n1 200`.")
    lab_network.rig_of(layout).delay(name, int(rest[1]))
    return 0


def _move(layout: Layout, rest: list[str]) -> int:
    name = _host(layout, rest).name
    if len(rest) != 2 or not rest[1].isdigit() or not 1 < int(rest[1]) < 254:
        raise Problem("Say the last number of the new address: `./roost lab move n1 61`.")
    lab_network.rig_of(layout).change_address(name, int(rest[1]))
    return 0


def _down(layout: Layout, _: list[str]) -> int:
    return end(layout)


def end(layout: Layout) -> int:
    """Stop and remove everything of a lab but the Python environment; safe to run twice."""
    if not layout.state.is_dir():
        print("Nothing runs: there is no lab here.")
        return 0
    stop_stack(layout)
    ended = take_down(layout.rig)
    for entry in layout.state.iterdir():
        if entry.name in KEPT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    print(f"The lab is gone ({ended} processes ended).")
    return 0


_ACTIONS: dict[str, Action] = {
    "up": _up,
    "down": _down,
    "map": _map,
    "status": _status,
    "run": _run,
    "loss": _loss,
    "delay": _delay,
    "move": _move,
    **{verb: _to_host(verb) for verb in ("cut", "plug", "swallow", "heal", "off", "on")},
    "nat": _to_host("put_behind_nat"),
    "unnat": _to_host("remove_nat"),
}
