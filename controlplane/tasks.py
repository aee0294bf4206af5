"""Celery: wake-ups and the clock, nothing else. What is due, when and how often is in the reconciler's table.

A message says only "this queue has work"; any message may be lost, doubled or late. The sweep, which beat sends
every few seconds, finds what was missed.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, bootsteps
from celery.signals import after_task_publish, beat_init, worker_process_init
from django.conf import settings

from controlplane import observing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings.production")

#: How often a worker's main loop says that it goes round.
BEAT_S = 5.0
#: A wake-up that waited longer than this has been overtaken by a sweep.
EXPIRES_S = 30

app = Celery("roost")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(
    task_ignore_result=True,
    task_acks_late=False,
    task_publish_retry=False,
    task_create_missing_queues=True,
    task_default_queue="reconcile",
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=3,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 3, "visibility_timeout": 3600},
    beat_schedule={
        "sweep": {
            "task": "controlplane.tasks.sweep",
            "schedule": settings.ROOST["SWEEP_S"],
            "options": {"expires": EXPIRES_S},
        },
        "housekeeping": {"task": "controlplane.tasks.housekeeping", "schedule": 600.0, "options": {"expires": 600}},
    },
)


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def reconcile(queue: str) -> int:
    """Work on everything that is due in one queue."""
    from controlplane.reconcile import loop

    return loop.drain([queue])


@worker_process_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def lay_down(**_: object) -> None:
    """The worker of backups is started by root, to become tenants' users; it works as another one."""
    from controlplane.backups import privileges

    privileges.lay_down(settings.ROOST["WORKER_USER"])


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def sweep() -> None:
    """Wake the workers of every queue that has due work: what a lost message would have done."""
    from controlplane.reconcile import lease, loop

    loop.bury_the_dead()
    for queue in lease.due_queues():
        lease.wake(queue)


@app.task  # type: ignore[untyped-decorator]  # Celery has no types
def housekeeping() -> None:
    """Take away what nobody needs any more: old events, answers to idempotency keys."""
    from controlplane.backups import clock, spool
    from controlplane.monitoring import notices
    from controlplane.provisioning.housekeeping import tidy

    tidy()
    notices.tidy()
    clock.adopt()
    spool.clear()


@after_task_publish.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _sent(sender: str | None = None, **_: object) -> None:
    """The broker took a message."""
    observing.observed("clock.message", task=str(sender))


@beat_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _is_clock(**_: object) -> None:
    """Sending is all that the clock does; others wake a queue now and then, and are well without."""
    after_task_publish.connect(_ticked, weak=False)


def _ticked(**_: object) -> None:
    observing.beat("clock")


class Alive(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The worker's main loop, which takes messages and looks after its processes, says that it goes round."""

    requires = {"celery.worker.components:Timer"}

    def start(self, worker: Any) -> None:
        worker.timer.call_repeatedly(BEAT_S, observing.beat, ("worker",))


app.steps["worker"].add(Alive)


def wake(queue: str) -> None:
    """Send the wake-up of a queue; what ROOST_WAKE names."""
    reconcile.apply_async((queue,), queue=queue, expires=EXPIRES_S, ignore_result=True)
