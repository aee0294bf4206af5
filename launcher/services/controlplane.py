"""The control plane's own processes: web, workers, clock; and the node's supervisor, whose programs are the engines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from launcher import checks, files
from launcher.layout import Layout
from launcher.programs import Program, render_supervisord
from launcher.supervisor import Supervisor

MAIN_QUEUES = "reconcile,probe,default"


def prepare(layout: Layout, environment: Mapping[str, str], code: str) -> list[Program]:
    """``environment``: the ROOST_* variables. ``code``: digest of the code and libraries that these run."""
    files.directory(layout.state / "run", owner="roost", group="roost", mode=0o750)
    files.directory(layout.state / "run" / "metrics", owner="roost", group="roost")
    files.directory(layout.state / "run" / "health", owner="roost", group="roost", mode=0o750)
    files.directory(layout.state / "ansible", mode=0o700)
    for private in (layout.backups, layout.state / "spool", layout.state / "restic"):
        files.directory(private, owner="roost", group="roost", mode=0o700)
    # Root's worker and roost's make a private directory each below it.
    files.directory(layout.state / "ssh", mode=0o1777)
    if layout.is_test:
        files.directory(layout.state / "faults", owner="roost", group="roost", mode=0o770)
    python = str(layout.python)
    path = f"{layout.venv}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    variables = {
        **environment,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
    }
    celery = [python, "-m", "celery", "-A", "controlplane.tasks"]
    worker = [*celery, "worker", "-l", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    gunicorn = [python, "-m", "gunicorn", "controlplane.wsgi", "--bind", layout.web_address, "--workers", "2"]

    def program(
        name: str,
        title: str,
        argv: list[str],
        user: str = "roost",
        own: Mapping[str, str] | None = None,
        **more: object,
    ) -> Program:
        return Program(
            name=name,
            title=title,
            argv=argv,
            user=user,
            directory=layout.app,
            environment={
                **variables,
                "HOME": "/root" if user == "root" else str(layout.state / "run"),
                "ROOST_HEALTH_LISTEN": f"unix:{health_socket(layout, name)}",
                **(own or {}),
            },
            digest=code,
            stop_wait_s=30,
            remedy=f"see `./roost logs {name}`",
            **more,  # type: ignore[arg-type]  # priority, ready, ports: the callers below pass them right
        )

    return [
        program(
            "web",
            "web (API, admin)",
            [*gunicorn, "--threads", "24", "--timeout", "60", "--worker-tmp-dir", "/dev/shm", "--access-logfile", "-"],
            ready=lambda: checks.http_ok(f"{layout.web_url}/readyz"),
            ports=[("tcp", layout.edge_address, 8000)],
            priority=60,
        ),
        program(
            "worker",
            "worker (reconcile, probe)",
            [*worker, "-Q", MAIN_QUEUES, "-c", "4", "-n", "main@roost"],
            ready=lambda: True,
            priority=70,
        ),
        program(
            "heal-worker",
            "worker (heal)",
            # A link that is dead must not wait behind walks and new instances, nor behind others that wait for a peer.
            [*worker, "-Q", "heal", "-c", "6", "-n", "heal@roost"],
            ready=lambda: True,
            priority=70,
        ),
        program(
            "prober",
            "prober (looks from outside)",
            [python, "manage.py", "prober", "--place", "here"],
            ready=lambda: True,
            priority=75,
        ),
        program(
            "watcher",
            "watcher (listens to the nodes)",
            [python, "manage.py", "watcher"],
            ready=lambda: True,
            priority=75,
        ),
        program(
            "node-worker",
            "worker of the node (root)",
            # A node that is being prepared, or not reached, takes a process for minutes: the others need theirs.
            [*worker, "-Q", "node", "--autoscale=10,2", "-n", "node@roost"],
            user="root",
            ready=lambda: True,
            priority=70,
        ),
        program(
            "backup-worker",
            "worker (backups)",
            # Started by root, it works as roost: what it keeps is the right to read tenants' files as their own users.
            [*worker, "-Q", "backup", "-c", "2", "-n", "backup@roost"],
            user="root",
            own={"ROOST_WORKER_USER": "roost"},
            ready=lambda: True,
            priority=80,
        ),
        program(
            "beat",
            "clock (sweeps)",
            [*celery, "beat", "-l", "INFO", "-s", str(layout.state / "run" / "beat-schedule"), "--pidfile="],
            ready=lambda: True,
            priority=70,
        ),
    ]


def health_socket(layout: Layout, name: str) -> Path:
    """Where a process without a web server answers /healthz."""
    return layout.state / "run" / "health" / f"{name}.sock"


def prepare_node(layout: Layout) -> Program:
    """The node's supervisord. It starts after the edge and ends before it, with all engines below it."""
    base = files.directory(layout.node)
    for name in ("programs", "state", "instances"):
        files.directory(base / name, mode=0o711 if name == "instances" else 0o700)
    text = render_supervisord(
        base / "supervisor.sock", layout.log, base / "supervisord.pid", base / "programs" / "*.conf", "node"
    )
    files.write(base / "supervisord.conf", text)
    return Program(
        name="node",
        title="node (tenants' engines)",
        argv=[
            *("/usr/bin/python3.11", "-B", "-m", "launcher.guard", str(base / "supervisor.sock"), "--"),
            *(str(layout.venv / "bin" / "supervisord"), "--nodaemon", "-c", str(base / "supervisord.conf")),
        ],
        user="root",
        directory=layout.app,
        environment={"PATH": os.defpath.lstrip(":"), "LANG": "C.UTF-8", "HOME": "/root"},
        ready=lambda: checks.unix_socket(base / "supervisor.sock"),
        digest=hashlib.sha256(text.encode()).hexdigest(),
        stop_wait_s=90,
        priority=50,
        remedy="see `./roost logs node`",
    )


def node_supervisor(layout: Layout) -> Supervisor:
    base = layout.node
    return Supervisor(
        base / "supervisor.sock", base / "supervisord.conf", base / "supervisord.pid", layout.venv / "bin/supervisord"
    )
