"""Opens an instance's control socket, and makes sure that the instance itself is at its other end.

The socket lies in a directory that the tenant's process may write. A hostile process could put a link there to
another tenant's socket, and an order for the one would be carried out by the other. Whoever listens is known by
its unix user; the protocol spoken is the engine's own. On another machine it is our own end of the line that listens
here, so each call names its domain besides, and an engine refuses those of others.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import PurePath

from controlplane.values.errors import Rejected

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group (unix(7), SO_PEERCRED)


def connect(stream: socket.socket, path: PurePath) -> None:
    """Connect ``stream``, whose time-out is set. ``OSError`` as ever; ``Rejected`` if somebody else listens there.

    The directory's owner is the instance's user: it is made by root in a directory of root's.
    """
    stream.connect(str(path))
    found = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(found)
    owner = os.stat(path.parent).st_uid
    if user != owner:
        raise Rejected(
            f"Another user's process ({user}, not {owner}) answers on {path}.",
            remedy="The instance's process may be compromised: look who made that socket, and restart the instance.",
        )
