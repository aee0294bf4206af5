"""ejabberd's control channel against sockets that do not behave: every call ends, in time, with an error."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from controlplane.drivers.engine.ejabberd import channel
from controlplane.values.errors import InvalidInput, Rejected, Unavailable
from controlplane.values.names import DomainName

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


def framed(text: str) -> bytes:
    return struct.pack("!I", len(text.encode())) + text.encode()


def test_a_value_comes_through() -> None:
    with answering(framed('{"value": [1, "ü\\u0000"]}')) as path:
        assert call(path, "name", {"a": "\x00]]>&<ü"}, timeout_s=5) == [1, "ü\x00"]


@pytest.mark.parametrize(("kind", "error"), [("refused", Rejected), ("invalid", InvalidInput), ("failed", Unavailable)])
def test_refusals_keep_their_kind(kind: str, error: type[Exception]) -> None:
    with answering(framed(f'{{"error": "no", "kind": "{kind}"}}')) as path, pytest.raises(error, match="no"):
        call(path, "name", {}, timeout_s=5)


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"HTTP/1.1", framed("no json"), framed("[]"), framed("{}")[:-1]])
def test_half_answers_are_errors(answer: bytes) -> None:
    with answering(answer) as path, pytest.raises((Unavailable, Rejected)):
        call(path, "name", {}, timeout_s=5)


def test_silence_ends_in_time_and_tells_no_secret() -> None:
    with answering(b"", close=False) as path, pytest.raises(Unavailable, match=r"0\.2 s") as raised:
        call(path, "create_account", {"password": "hunter2"}, timeout_s=0.2)
    assert "hunter2" not in str(raised.value)


def test_an_endless_answer_is_refused_unread() -> None:
    with answering(b"\xff\xff\xff\xff", close=False) as path, pytest.raises(Rejected, match="too long"):
        call(path, "list_accounts", {}, timeout_s=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the directory to another user")
def test_a_link_to_another_users_socket_gets_no_call() -> None:
    with answering(framed('{"value": 1}')) as theirs, tempfile.TemporaryDirectory(prefix="ch") as directory:
        os.chown(directory, 61001, -1)
        link = Path(directory) / "control.sock"
        link.symlink_to(theirs)
        with pytest.raises(Rejected, match="Another user"):
            call(PurePosixPath(link), "set_password", {"password": "x"}, timeout_s=5)


def test_no_socket_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        call(PurePosixPath("/nowhere/control.sock"), "health", {}, timeout_s=1)
