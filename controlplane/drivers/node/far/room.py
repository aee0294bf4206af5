"""How much room a tenant's directories have left. Asks the kernel; changes nothing."""

from __future__ import annotations

import os
from typing import Any


def main(argument: dict[str, Any]) -> list[dict[str, Any]]:
    """``{"paths": [directories]}`` -> for each that is there: path, free and total bytes, and free inodes.

    What counts is what others than root may use; -1 inodes: the file system does not count them.
    """
    found = []
    for path in argument["paths"]:
        try:
            said = os.statvfs(path)
        except OSError:
            continue
        found.append(
            {
                "path": path,
                "free": said.f_bavail * said.f_frsize,
                "total": said.f_blocks * said.f_frsize,
                "inodes": said.f_favail if said.f_files else -1,
            }
        )
    return found
