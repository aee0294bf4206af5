"""``./roost up``: from a bare machine to a running stack, in steps that can each be broken off and run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import files, keys, machine, packages, stack, venv
from launcher.errors import Problem
from launcher.layout import ZONE, Layout, make_state
from launcher.processes import run
from launcher.programs import Program
from launcher.progress import Progress
from launcher.services import controlplane, postgres

OPERATOR = "operator"
TOKEN_NAME = "launcher"
NODE_MEMORY_MIB = 65536


@dataclass(slots=True)
class Up:
    """What a finished ``up`` knows. ``touched``: how many programs were started, restarted or removed.

    ``started``: nothing ran before, or other code: what the database says of the tenants is from an earlier time.
    """

    secrets: keys.Secrets
    environment: dict[str, str]
    touched: int = 0
    started: bool = False


def bring_up(layout: Layout, progress: Progress, *, with_tests: bool = False) -> Up:
    """Everything but the demonstration tenants."""
    prepare(layout, progress, with_tests=with_tests)
    with stack.exclusive(layout):
        kept = keys.load(layout)
        environment = keys.write_environment(layout, kept)
        up = Up(kept, environment)
        code_files = files.tree_files(layout.clone, stack.CODE)
        code = hashlib.sha256(
            (files.digest(layout.clone, code_files) + venv.key(locks(layout, False), layout.venv)).encode()
        ).hexdigest()
        _servers(layout, progress, up, code)
        _control_plane(layout, progress, up, code)
    return up


def prepare(layout: Layout, progress: Progress, *, with_tests: bool = False) -> None:
    """What has to be installed before anything of ours can run."""
    _machine(layout, progress, with_tests)
    make_state(layout)
    with stack.exclusive(layout):
        _python(layout, progress, with_tests)


def _machine(layout: Layout, progress: Progress, with_tests: bool) -> None:
    with progress.step("Machine") as say:
        machine.check_system()
        first = not venv.is_current(layout.venv, locks(layout, with_tests or layout.is_test))
        machine.check_disk(layout.state, machine.FIRST_RUN_MIB if first else machine.LATER_RUN_MIB)
        say(f"state in {layout.var}" + (f" -> {layout.state}" if layout.state != layout.var else ""))
    with progress.step("Debian packages") as say:
        wanted = [*packages.RUNTIME, *(packages.TESTS if with_tests else ())]
        installed = packages.install(wanted, say)
        say(f"{len(installed)} installed" if installed else f"all {len(wanted)} are there")
    with progress.step("Users"):
        machine.ensure_users()


def locks(layout: Layout, with_tests: bool) -> list[Path]:
    found = [layout.clone / "requirements.lock"]
    if with_tests:
        found.append(layout.clone / "requirements-dev.lock")
    return found


def _python(layout: Layout, progress: Progress, with_tests: bool) -> None:
    wanted = locks(layout, with_tests or layout.is_test)
    with progress.step("Python environment") as say:
        if venv.is_current(layout.venv, wanted):
            say("as locked")
            return
        # The supervisor runs from the environment that is about to be replaced.
        stack.supervisor(layout).stop(stack.STOP_TIMEOUT_S)
        venv.ensure(layout.venv, wanted, say)


def _servers(layout: Layout, progress: Progress, up: Up, code: str) -> None:
    with progress.step("Configuration") as say:
        stack.prepare_supervisor(layout)
        ended = stack.end_leftovers(layout)
        programs = stack.servers(layout, up.secrets.powerdns)
        control = stack.supervisor(layout)
        web = controlplane.prepare(layout, up.environment, code)
        stack.check_ports(layout, [*programs, *web])
        up.started = not control.running() or _stamp(layout, "code") != code
        if up.started:
            # The control plane's processes start again when the new code and its tables are in place.
            stack.forget(layout, "20-control-plane")
        stack.define(layout, "10-servers", programs)
        control.start()
        up.touched += len(control.reread())
        where = layout.own_network if layout.is_lab else f"127.{layout.net}.0.0/16"
        say(f"{ended} processes of a broken-off run ended" if ended else where)
    for program in programs:
        with progress.step(program.title) as say:
            stack.wait_ready(layout, program, say)
            say("")


def _control_plane(layout: Layout, progress: Progress, up: Up, code: str) -> None:
    if _stamp(layout, "code") != code:
        with progress.step("Code for the services"):
            files.mirror(layout.clone, layout.app, stack.CODE)
            run([str(layout.python), "-m", "compileall", "-q", str(layout.app)], timeout_s=300)
    with progress.step("Database") as say:
        made = postgres.ensure_database(layout)
        if made or _stamp(layout, "migrated") != code:
            say("migrating")
            manage(layout, up.environment, ["migrate", "--no-input", "-v", "0"], timeout_s=600)
            _set_stamp(layout, "migrated", code)
            say("migrated")
        else:
            say("up to date")
    if _stamp(layout, "static") != code:
        with progress.step("Static files"):
            files.directory(layout.state / "static", owner="roost", group="roost")
            manage(layout, up.environment, ["collectstatic", "--no-input", "-v", "0"], timeout_s=300)
            _set_stamp(layout, "static", code)
    with progress.step("Operator, zone" if layout.is_lab else "Operator, zone, node") as say:
        _bootstrap(layout, up, code)
        up.secrets = keys.load(layout)
        say("account made" if up.secrets.operator_password else "")
    # The node keeps running when only code changed: its programs are the tenants' engines.
    nodes = [] if layout.is_lab else [controlplane.prepare_node(layout)]
    stack.define(layout, "15-node", nodes)
    programs = controlplane.prepare(layout, up.environment, code)
    stack.define(layout, "20-control-plane", programs)
    up.touched += len(stack.supervisor(layout).reread())
    _set_stamp(layout, "code", code)
    for program in [*nodes, *programs]:
        with progress.step(program.title) as say:
            stack.wait_ready(layout, program, say)
            say("")


def manage(
    layout: Layout,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    *,
    timeout_s: float,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Run a management command as the control plane's user; its standard output."""
    argv = [str(layout.python), "manage.py", *arguments]
    env = {**process_environment(layout, environment), **(extra or {})}
    return run(argv, timeout_s=timeout_s, env=env, user=machine.CONTROL_USER, cwd=layout.app).out


def process_environment(layout: Layout, environment: Mapping[str, str]) -> dict[str, str]:
    path = f"{layout.venv}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**environment, "PATH": path, "LANG": "C.UTF-8", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}


def node_fields(layout: Layout) -> dict[str, object]:
    """The machine itself as a node, in the words of the model."""
    return {
        "name": "local",
        "connection": "local",
        "runtime": "supervisor",
        "address": "localhost",
        "public_addresses": [layout.edge_address],
        "instance_network": layout.instance_network,
        "root": str(layout.node / "instances"),
        "state_dir": str(layout.node / "state"),
        "runtime_dir": str(layout.node / "programs"),
        "supervisor_socket": str(layout.node / "supervisor.sock"),
        "memory_mib": NODE_MEMORY_MIB,
        "edge_socket": str(layout.edge / "admin.sock"),
        "edge_map_dir": str(layout.edge),
    }


def _bootstrap(layout: Layout, up: Up, code: str) -> None:
    """Operator, token, zone, plans, node. The password and the token are kept before they count."""
    node = "" if layout.is_lab else json.dumps(node_fields(layout), sort_keys=True)
    key = hashlib.sha256(f"{code}{node}".encode()).hexdigest()
    if _stamp(layout, "bootstrapped") == key and up.secrets.token and not up.started:
        return
    arguments = ["bootstrap", "--operator", OPERATOR, "--token", TOKEN_NAME]
    arguments += ["--node", node] if node else []
    for name, address in (("ns", layout.authoritative_address), ("turn", layout.turn_address)):
        arguments += ["--address", f"{name}.{ZONE}={address}"]
    pending = up.secrets.operator_password
    password = _new_password()
    # Kept until it has been shown: this run may be broken off between the two.
    keys.keep(layout, operator_password=password)
    try:
        said = manage(layout, up.environment, arguments, timeout_s=120, extra={"ROOST_OPERATOR_PASSWORD": password})
    except Problem as problem:
        raise Problem("The control plane could not be set up.", problem.detail) from problem
    made = json.loads(said.strip().splitlines()[-1])
    if not made["operator"]:
        keys.keep(layout, operator_password=pending)
    manage(layout, up.environment, ["backup_place", "--name", "local", "--url", str(layout.backups)], timeout_s=120)
    if made["token"]:
        up.secrets = keys.keep(layout, token=made["token"])
    elif not up.secrets.token:
        up.secrets = keys.keep(layout, token=_another_token(layout, up))
    _set_stamp(layout, "bootstrapped", key)


def _another_token(layout: Layout, up: Up) -> str:
    """An earlier run made a token and was broken off before it kept it: make one under another name."""
    for number in range(2, 100):
        said = manage(layout, up.environment, ["bootstrap", "--token", f"{TOKEN_NAME}-{number}"], timeout_s=120)
        token = json.loads(said.strip().splitlines()[-1])["token"]
        if token:
            return str(token)
    raise Problem("Too many launcher tokens: revoke them in the admin (http://…/admin/), then run this again.")


def _new_password() -> str:
    import secrets

    return secrets.token_urlsafe(18)


def _stamp(layout: Layout, name: str) -> str:
    try:
        return (layout.state / "stamps" / name).read_text()
    except OSError:
        return ""


def _set_stamp(layout: Layout, name: str, value: str) -> None:
    (layout.state / "stamps").mkdir(exist_ok=True)
    files.write(layout.state / "stamps" / name, value)


def forget_stamps(layout: Layout, names: Sequence[str]) -> None:
    for name in names:
        try:
            os.unlink(layout.state / "stamps" / name)
        except FileNotFoundError:
            pass


__all__ = ["OPERATOR", "Program", "Up", "bring_up", "manage", "node_fields", "process_environment"]
