"""One call to a running ejabberd: JSON over a unix socket, a 4-byte big-endian length before each message.

Speaks to ``modules/roost_control.erl``, which evaluates nothing it is sent. What the calls mean is left to
``control``.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from pathlib import PurePath
from typing import Any

from controlplane.drivers.engine import peer
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName

#: Enough for 100,000 accounts; what comes from a tenant's process must not fill our memory.
_MAX_ANSWER_BYTES = 32 * 1024 * 1024


def call(path: PurePath, name: str, arguments: dict[str, Any], *, domain: DomainName, timeout_s: float) -> Any:
    """Call ``name`` with ``arguments`` at the instance of ``domain``; its value. Another instance refuses.

    Raises ``Unavailable`` when nothing answers within ``timeout_s`` seconds, ``Rejected`` for a refusal and
    ``InvalidInput`` for a value that ejabberd could never take. Arguments may hold secrets: they are in no error.
    """
    deadline = time.monotonic() + timeout_s
    message = json.dumps({"name": name, "domain": domain.ascii, "arguments": arguments}).encode()
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(timeout_s)
            peer.connect(stream, path)
            stream.sendall(struct.pack("!I", len(message)) + message)
            (length,) = struct.unpack("!I", _receive(stream, 4, deadline))
            if length > _MAX_ANSWER_BYTES:
                raise Rejected("ejabberd's answer is too long.")
            answer = _receive(stream, length, deadline)
    except TimeoutError:
        raise Unavailable(f"ejabberd did not answer {name} within {timeout_s:g} s.") from None
    except OSError as error:
        raise Unavailable(f"ejabberd's control socket {path} does not answer: {error.strerror or error}.") from None
    return _value(name, answer)


def _receive(stream: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes."""
    received = bytearray()
    while len(received) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        stream.settimeout(left)
        chunk = stream.recv(min(size - len(received), 1 << 20))
        if not chunk:
            raise ConnectionResetError("closed without an answer")
        received += chunk
    return bytes(received)


def _value(name: str, answer: bytes) -> Any:
    try:
        result = json.loads(answer)
    except ValueError:
        raise Unavailable(f"ejabberd answered {name} with what is no JSON.") from None
    if not isinstance(result, dict):
        raise Unavailable(f"ejabberd answered {name} with what is no answer.")
    if "error" in result:
        if result.get("kind") == "invalid":
            raise InvalidInput("name", f"ejabberd refused {name}: {result['error']}.")
        if result.get("kind") == "failed":
            raise Unavailable(f"ejabberd failed at {name}: {result['error']}.")
        raise Rejected(f"ejabberd refused {name}: {result['error']}.")
    return result.get("value")
