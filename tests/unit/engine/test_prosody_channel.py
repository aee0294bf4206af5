"""The control channel against sockets that do not behave: every call ends, in time, with an error that says why."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from controlplane.drivers.engine.prosody import channel
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName

HELLO = b"<?xml version='1.0'?><stream:stream xmlns='x' xmlns:stream='http://etherx.jabber.org/streams'>"

call = functools.partial(channel.call, domain=DomainName("acme.example"))


@contextlib.contextmanager
def answering(answer: bytes, *, close: bool = True) -> Iterator[PurePosixPath]:
    """A unix socket that reads a call and says ``answer``."""
    with tempfile.TemporaryDirectory(prefix="ch") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "s"
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                client.recv(65536)
                client.sendall(answer)
                if not close:
                    done.wait(10)
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield PurePosixPath(path)
        finally:
            done.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def result(text: str) -> bytes:
    return HELLO + f"<result xmlns='{channel.NAMESPACE}'>{text}</result>".encode()


def test_a_value_comes_through() -> None:
    with answering(result('{"value": [1, "&lt;&amp;"]}')) as path:
        assert call(path, "name", {"a": "\x00]]>&<ü"}, timeout_s=5) == [1, "<&"]


def test_refusals_keep_their_kind() -> None:
    with answering(result('{"error": "no", "kind": "rejected"}')) as path, pytest.raises(Rejected, match="no"):
        call(path, "name", {}, timeout_s=5)
    with answering(result('{"error": "odd", "kind": "invalid"}')) as path, pytest.raises(InvalidInput, match="odd"):
        call(path, "name", {}, timeout_s=5)


@pytest.mark.parametrize("answer", [b"", HELLO, b"HTTP/1.1 400 no\r\n", result("no json"), HELLO + b"<result"])
def test_half_answers_are_unavailable(answer: bytes) -> None:
    with answering(answer) as path, pytest.raises(Unavailable):
        call(path, "name", {}, timeout_s=5)


def test_silence_ends_in_time_and_tells_no_secret() -> None:
    with answering(b"", close=False) as path, pytest.raises(Unavailable, match=r"0\.2 s") as raised:
        call(path, "create_account", {"password": "hunter2"}, timeout_s=0.2)
    assert "hunter2" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the directory to another user")
def test_a_link_to_another_users_socket_gets_no_call() -> None:
    with answering(result('{"value": 1}')) as theirs, tempfile.TemporaryDirectory(prefix="ch") as directory:
        os.chown(directory, 61001, -1)
        link = Path(directory) / "control.sock"
        link.symlink_to(theirs)
        with pytest.raises(Rejected, match="Another user"):
            call(PurePosixPath(link), "set_password", {"password": "x"}, timeout_s=5)


def test_no_socket_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        call(PurePosixPath("/nowhere/control.sock"), "health", {}, timeout_s=1)


def test_a_server_without_the_module_says_so() -> None:
    shell = HELLO.replace(b"xmlns='x'", b"xmlns='xmpp:prosody.im/admin'") + b"<repl-result type='error'>?</repl-result>"
    with answering(shell) as path, pytest.raises(Rejected, match="without Roost's control module"):
        call(path, "health", {}, timeout_s=5)
