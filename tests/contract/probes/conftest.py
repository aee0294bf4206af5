"""Starts the probes' small world once for the session."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.probes import world as w
from tests.contract.probes.ca import Authority
from tests.contract.probes.ejabberd import ejabberd


@pytest.fixture(scope="session")
def world() -> Iterator[w.World]:
    # Not pytest's tmp_path: unix socket paths have to stay below 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="probes"))
    try:
        good, rogue = Authority("good root"), Authority("rogue root")
        result = w.World(directory, good.pem)
        for engine in ("prosody", "ejabberd"):
            (directory / engine / "certs").mkdir(parents=True)
            (directory / engine / "certs" / "ca.pem").write_text(good.pem)
        for host in w.HOSTS:
            authority = rogue if host.issuer == "rogue" else good
            engine = "prosody" if host.engine == w.PROSODY else "ejabberd"
            result.serials[host.domain] = authority.issue(
                directory / engine / "certs", host.domain, host.certificate_names(), expired=host.issuer == "expired"
            )
        with contextlib.ExitStack() as stack:
            # Another set of tests may run beside this one and need the same addresses: it waits.
            lock = stack.enter_context((Path(tempfile.gettempdir()) / "roost-tests-probes.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            stack.enter_context(w.knot(directory / "knot"))
            stack.enter_context(w.prosody(directory / "prosody"))
            stack.enter_context(ejabberd(directory / "ejabberd"))
            stack.enter_context(w.turn(directory / "turn"))
            yield result
    finally:
        shutil.rmtree(directory, ignore_errors=True)
