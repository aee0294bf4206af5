"""Which processes the module takes for a tenant's: by the user's number, but none of a container's."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.unit.node.modules import part

UID = 59_323
BECOME = ["setpriv", f"--reuid={UID}", "--clear-groups", "sh", "-c", "echo; exec sleep 60"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.mark.parametrize("apart", [False, True])
def test_processes_of_a_user_are_found_but_in_containers(apart: bool) -> None:
    namespace = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL"] if apart else []
    process = subprocess.Popen([*namespace, *BECOME], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        found = part("roost_processes").processes_of(UID)
        assert found == ([] if apart else [process.pid])
    finally:
        process.kill()
        process.wait(timeout=10)
