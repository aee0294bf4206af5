"""Places where the fault tests end a worker with SIGKILL. Without ROOST_FAULT_DIR this does nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from django.conf import settings


def point(name: str) -> None:
    """If a file of this name lies in the fault directory, take it away and die at once, as in a power cut."""
    directory = settings.ROOST["FAULT_DIR"]
    if not directory:
        return
    armed = Path(directory) / name
    try:
        armed.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
