"""The Prosody driver: ``driver`` is what ``wiring`` hands out.

Configuration is in ``config``, quoting in ``lua``, the control channel in ``channel`` and ``control``, and
what Debian's Prosody lacks in ``modules``.
"""

from __future__ import annotations

from pathlib import Path

from controlplane.drivers.engine.base import EngineControl, EngineDriver
from controlplane.drivers.engine.prosody import config
from controlplane.drivers.engine.prosody.control import ProsodyControl
from controlplane.values.bundle import ManagedFile, Program
from controlplane.values.spec import InstanceSpec


class ProsodyDriver:
    """``EngineDriver`` for Prosody 0.12 with Debian's prosody-modules. Holds no state."""

    name = "prosody"
    reads_system_trust = True

    def files(self, spec: InstanceSpec) -> tuple[ManagedFile, ...]:
        return config.files(spec)

    def program(self, spec: InstanceSpec) -> Program:
        return Program(
            argv=("/usr/bin/prosody", "--config", str(spec.paths.root / config.CONFIG_FILE), "-F"),
            env=(("HOME", str(spec.paths.root)), ("LANG", "C.UTF-8")),
            umask=0o007,
            memory_bytes=spec.limits.memory_bytes,
            open_files=spec.limits.open_files,
        )

    def control(self, spec: InstanceSpec, socket: Path | None = None) -> EngineControl:
        return ProsodyControl(spec, socket)


driver: EngineDriver = ProsodyDriver()
