"""One call to a running Prosody: a line of XML over its admin socket, JSON in and out.

Speaks to ``modules/mod_roost_control.lua`` (protocol ``urn:roost:control:1``), which evaluates nothing it is
sent. What the calls mean is left to ``control``.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree as ET

from controlplane.drivers.engine import peer
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName

NAMESPACE = "urn:roost:control:1"
_HEADER = "<stream:stream xmlns='xmpp:prosody.im/admin' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
#: Enough for 100,000 accounts; what comes from a tenant's process must not fill our memory.
_MAX_ANSWER_BYTES = 32 * 1024 * 1024


def call(
    path: PurePath,
    name: str,
    arguments: dict[str, Any],
    *,
    domain: DomainName,
    timeout_s: float,
    payload: bytes = b"",
) -> Any:
    """Call ``name`` with ``arguments`` at the instance of ``domain``; its value. Another instance refuses.

    ``payload``: what is long, up to half a megabyte; it goes beside the JSON, which Prosody reads slowly.
    Raises ``Unavailable`` when nothing answers within ``timeout_s`` seconds, ``Rejected`` for a refusal and
    ``InvalidInput`` for a value that Prosody could never take. Arguments may hold secrets: they are in no error.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(timeout_s)
            peer.connect(stream, path)
            stream.sendall(_HEADER.encode() + _request(name, arguments, domain, payload))
            answer = _answer(stream, deadline)
    except TimeoutError:
        raise Unavailable(f"Prosody did not answer {name} within {timeout_s:g} s.") from None
    except OSError as error:
        raise Unavailable(f"Prosody's control socket {path} does not answer: {error.strerror or error}.") from None
    return _value(name, answer)


def _request(name: str, arguments: dict[str, Any], domain: DomainName, payload: bytes) -> bytes:
    element = ET.Element("call", {"xmlns": NAMESPACE, "name": name, "domain": domain.ascii})
    element.text = json.dumps(arguments)  # ASCII, with control characters as \u escapes: fit for XML
    if payload:
        ET.SubElement(element, "payload").text = base64.b64encode(payload).decode()
    return ET.tostring(element)


def _answer(stream: socket.socket, deadline: float) -> str:
    """The text of the first ``result`` element."""
    parser: ET.XMLPullParser[Any] = ET.XMLPullParser(("end",))
    received = 0
    while received < _MAX_ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        stream.settimeout(left)
        chunk = stream.recv(65536)
        if not chunk:
            raise ConnectionResetError("closed without an answer")
        received += len(chunk)
        try:
            parser.feed(chunk)
            for event in parser.read_events():
                element: ET.Element = event[1]  # type: ignore[assignment,misc]  # typeshed has namespace events in mind
                if element.tag == f"{{{NAMESPACE}}}result":
                    return element.text or ""
                if element.tag.endswith("}repl-result"):
                    raise Rejected("Prosody runs without Roost's control module.", remedy="Restart the instance.")
        except ET.ParseError as error:
            raise Unavailable(f"Prosody's control socket sent what is no XML: {error}.") from None
    raise Rejected("Prosody's answer is too long.")


def _value(name: str, answer: str) -> Any:
    try:
        result = json.loads(answer)
    except ValueError:
        raise Unavailable(f"Prosody answered {name} with what is no JSON.") from None
    if "error" in result:
        if result.get("kind") == "invalid":
            raise InvalidInput("name", f"Prosody refused {name}: {result['error']}.")
        raise Rejected(f"Prosody refused {name}: {result['error']}.")
    return result.get("value")
