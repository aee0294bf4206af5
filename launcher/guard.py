"""Becomes the node's supervisord, after ending engines that an earlier one left behind when it was killed.

Run by the stack's supervisor: ``python -m launcher.guard SOCKET -- COMMAND…``. Two of the same engine would fight
over its ports and its data.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher import leftovers


def main(arguments: list[str]) -> None:
    socket, command = Path(arguments[0]), arguments[2:]
    # Our own parent is the stack's supervisor at another address, so what has this mark was the old one's child.
    leftovers.end([*leftovers.find([socket]), *leftovers.of_tenants(socket.parent / "instances")])
    socket.unlink(missing_ok=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
