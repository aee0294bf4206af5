"""The commands of ``./roost``. Each answers with an exit code; what went wrong is one sentence on standard error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from launcher import machine
from launcher.errors import Problem, from_os_error
from launcher.layout import LAB_NET, LAB_VAR, Layout, find

HELP = """\
Usage: ./roost COMMAND

  up                install what is missing, start everything, provision the demonstration tenants
                    (--no-demo: without the tenants; --monitoring: with Prometheus and Alertmanager)
  down              stop everything; data is kept
  status            what runs, what is wrong, and what to do about it
  logs [PART] [-f]  show the logs (of one part), -f: follow them
  send FROM TO TEXT send a chat message between two of the demonstration accounts
  run COMMAND…      run a program, such as go-sendxmpp, that resolves and trusts as a tenant's user would
  manage COMMAND…   run one of the control plane's management commands
  test [WHAT]       install what the tests need and run them (--unit, --integration, --e2e, or pytest's arguments)
  node COMMAND…     nodes: list, show, enrol, accept-host-key, cordon, drain, … (`./roost node --help`)
  rollout COMMAND…  change many nodes one by one: start, show, cancel (`./roost rollout --help`)
  lab COMMAND…      a lab of hosts on this machine, managed over SSH (`./roost lab help`)
  destroy           stop everything and remove what was made (asks first; --yes: does not)
  help              this text

State is in var/ beside this program. ROOST_NET=N puts the stack on the addresses 127.N.0.0/16 (77 if not set).
"""


def main(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command in ("help", "-h", "--help"):
        print(HELP, end="")
        return 0
    action = _COMMANDS.get(command)
    if action is None:
        print(f"roost: there is no command {command!r}: `./roost help` lists them.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)  # what was started is ended in both cases
    try:
        if not machine.is_root():
            raise Problem("This needs root (it starts services as their own users): run it with sudo or as root.")
        clone = Path(os.path.realpath(os.environ.get("PYTHONPATH", ".").split(":")[0]))
        environment = dict(os.environ)
        if command == "lab":
            environment = {"ROOST_VAR": LAB_VAR, "ROOST_NET": str(LAB_NET), **environment}
        layout = find(clone, environment)
        if layout.is_lab and command != "lab":
            from launcher import lab_network

            lab_network.enter(layout)
        return action(layout, rest)
    except Problem as problem:
        _tell(problem)
        return 1
    except KeyboardInterrupt:
        print(
            "\nroost: interrupted. The same command can be run again; it continues where it stopped.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        known = from_os_error(error)
        if known is None:
            raise
        _tell(known)
        return 1


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _tell(problem: Problem) -> None:
    if problem.detail:
        print("\n".join(f"    {line}" for line in problem.detail.splitlines()), file=sys.stderr)
    print(f"roost: {problem}", file=sys.stderr)


def _up(layout: Layout, rest: list[str]) -> int:
    from launcher import demo, monitoring
    from launcher.progress import Progress
    from launcher.up import bring_up

    _only(rest, {"--no-demo", "--monitoring", "--no-monitoring"})
    progress = Progress()
    up = bring_up(layout, progress)
    if {"--monitoring", "--no-monitoring"} & set(rest):
        monitoring.want(layout, "--monitoring" in rest)
    monitoring.bring_up(layout, up.secrets, progress)
    if "--no-demo" not in rest and not layout.is_test:
        demo.provision(layout, up, progress)
    demo.show(layout, up, progress)
    return 0


def _down(layout: Layout, rest: list[str]) -> int:
    from launcher.ending import down

    _only(rest, set())
    return down(layout)


def _destroy(layout: Layout, rest: list[str]) -> int:
    from launcher.ending import destroy

    _only(rest, {"--yes"})
    return destroy(layout, ask="--yes" not in rest)


def _status(layout: Layout, rest: list[str]) -> int:
    from launcher.status import status

    _only(rest, set())
    return status(layout)


def _logs(layout: Layout, rest: list[str]) -> int:
    from launcher.status import logs

    follow = any(word in ("-f", "--follow") for word in rest)
    parts = [word for word in rest if word not in ("-f", "--follow")]
    if len(parts) > 1:
        raise Problem("Name one part only: `./roost logs [PART] [-f]`.")
    return logs(layout, parts[0] if parts else None, follow=follow)


def _manage(layout: Layout, rest: list[str]) -> int:
    from launcher.inside import manage

    return manage(layout, rest)


def _run(layout: Layout, rest: list[str]) -> int:
    from launcher.inside import run_as_stranger

    return run_as_stranger(layout, rest)


def _send(layout: Layout, rest: list[str]) -> int:
    from launcher.inside import send

    return send(layout, rest)


def _test(layout: Layout, rest: list[str]) -> int:
    from launcher.testing import test

    return test(layout.clone, rest)


def _lab(layout: Layout, rest: list[str]) -> int:
    from launcher.lab import lab

    return lab(layout, rest)


def _node(layout: Layout, rest: list[str]) -> int:
    from launcher.fleet_nodes import node

    return node(layout, rest)


def _rollout(layout: Layout, rest: list[str]) -> int:
    from launcher.fleet_rollouts import rollout

    return rollout(layout, rest)


def _only(rest: list[str], allowed: set[str]) -> None:
    unknown = [word for word in rest if word not in allowed]
    if unknown:
        raise Problem(f"Unknown argument {unknown[0]!r}: `./roost help` shows what there is.")


_COMMANDS: dict[str, Callable[[Layout, list[str]], int]] = {
    "up": _up,
    "down": _down,
    "destroy": _destroy,
    "status": _status,
    "logs": _logs,
    "lab": _lab,
    "manage": _manage,
    "node": _node,
    "rollout": _rollout,
    "run": _run,
    "send": _send,
    "test": _test,
}
