"""The ejabberd driver: ``driver`` is what ``wiring`` hands out.

Configuration is in ``config``, quoting in ``yaml_text`` and ``erlang_text``, the process in ``launch``, the
control channel in ``channel`` and ``control``, and what Debian's ejabberd lacks in ``modules``.
"""

from __future__ import annotations

from pathlib import Path

from controlplane.drivers.engine.base import EngineControl, EngineDriver
from controlplane.drivers.engine.ejabberd import config, launch
from controlplane.drivers.engine.ejabberd.control import EjabberdControl
from controlplane.values.bundle import ManagedFile, Program
from controlplane.values.spec import InstanceSpec


class EjabberdDriver:
    """``EngineDriver`` for ejabberd 23.01 as Debian 12 has it. Holds no state."""

    name = "ejabberd"
    reads_system_trust = False  # its ca_file is one file

    def files(self, spec: InstanceSpec) -> tuple[ManagedFile, ...]:
        return config.files(spec)

    def program(self, spec: InstanceSpec) -> Program:
        return launch.program(spec)

    def control(self, spec: InstanceSpec, socket: Path | None = None) -> EngineControl:
        return EjabberdControl(spec, socket)


driver: EngineDriver = EjabberdDriver()
