"""An engine's own numbers, asked over its control channel: nothing of it listens for strangers.

Both engines answer the contract's ``health``, ``usage`` and ``s2s_connections``, so the families are the same.
"""

from __future__ import annotations

from controlplane.drivers.engine.base import EngineControl
from controlplane.metrics.labels import TenantLabels
from controlplane.metrics.text import Family, gauge, written
from controlplane.provisioning.engines import control_of
from tenants.models import Instance


class NoEngine(Exception):
    """There is no such instance, or none that should run."""


def exposition(label: str) -> str:
    """The text. Raises ``NoEngine``, or ``Unavailable`` for an engine that does not answer.

    ``label``: what the label ``instance`` has, since a hashed one is all that Prometheus may know.
    """
    instance = _find(label)
    if instance is None or not instance.should_run:
        raise NoEngine
    return "".join(written(_families(control_of(instance))))


def _find(label: str) -> Instance | None:
    labels = TenantLabels.configured()
    if not labels.shown:
        return None
    whole = Instance.objects.whole()
    if labels.named:
        return whole.filter(key=label).first()
    key = next((key for key in Instance.objects.values_list("key", flat=True) if labels.of(key) == label), None)
    return whole.filter(key=key).first() if key else None


def _families(control: EngineControl) -> list[Family]:
    health, usage, links = control.health(), control.usage(), control.s2s_connections()
    counted: dict[tuple[str, str, str], int] = {}
    for one in links:
        name = (one.direction, "true" if one.encrypted else "false", one.auth)
        counted[name] = counted.get(name, 0) + 1
    return [
        gauge("xmpp_engine_info", "1, with the engine's version.", ("version",), [(health.version, 1)]),
        gauge("xmpp_engine_uptime_seconds", "Since the engine's start.", (), [(health.uptime_s,)]),
        gauge("xmpp_sessions", "Sessions of clients now.", (), [(health.sessions,)]),
        gauge("xmpp_accounts", "Accounts.", (), [(usage.accounts,)]),
        gauge("xmpp_accounts_online", "Accounts with a session now.", (), [(usage.online,)]),
        gauge("xmpp_rooms", "Rooms.", (), [(usage.rooms,)]),
        gauge("xmpp_archive_messages", "Messages in the archives.", (), _known(usage.archive_messages)),
        gauge("xmpp_upload_bytes", "Size of all uploaded files.", (), _known(usage.upload_bytes)),
        gauge(
            "xmpp_s2s_streams",
            "Streams to and from other servers.",
            ("direction", "encrypted", "auth"),
            [(*name, number) for name, number in sorted(counted.items())],
        ),
    ]


def _known(value: int | None) -> list[tuple[int]]:
    return [] if value is None else [(value,)]
