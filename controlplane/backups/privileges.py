"""A worker that reads tenants' files on its own machine is started by root and lays root's rights down at once.

From then on it is an ordinary user, and so is every program that it starts; what it keeps is a saved user id, which a
child takes up for the moment in which it becomes a tenant's user (``drivers.node.tenantfiles``).
"""

from __future__ import annotations

import logging
import os
import pwd

log = logging.getLogger(__name__)


def lay_down(name: str) -> bool:
    """Become ``name`` with its groups. False if there is nothing to do: no name, or we are not root."""
    if not name or os.getuid() != 0:
        return False
    entry = pwd.getpwnam(name)
    os.setgroups(os.getgrouplist(name, entry.pw_gid))
    os.setresgid(entry.pw_gid, entry.pw_gid, 0)
    os.setresuid(entry.pw_uid, entry.pw_uid, 0)
    os.environ["HOME"] = "/nonexistent"
    log.info("works as %s from here on", name)
    return True
