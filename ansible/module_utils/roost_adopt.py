"""An instance takes over the data of another one on its node: what was built aside, once it was seen to be right.

Both processes are down meanwhile. What the instance had is kept in ``before-<id>``, a directory of root's. Each step
may be the last one of a killed run: a plan on the node says which directories (by number) are to be in place then.
Directories are renamed and never copied; links are not followed, since the data is a tenant's.
"""

from __future__ import annotations

import json
import os
import posixpath
import pwd
import shutil
import stat

from ansible.module_utils.roost_bundle import RUNNING, Refused, read_text, write_atomically
from ansible.module_utils.roost_processes import processes_of
from ansible.module_utils.roost_tree import DIRECTORY, find_user

BEFORE = "before-"


def plan_path(work):
    """Where the node keeps what it knows of the instance's last adoption."""
    return os.path.join(os.path.dirname(work.marks.directory), "adopted", work.key)


def read_plan(work):
    """{"id", "numbers": {path: inode}, "done"} of the last adoption; empty if there was none."""
    return json.loads(read_text(plan_path(work)) or "{}")


def _write_plan(work, plan):
    os.makedirs(os.path.dirname(plan_path(work)), mode=0o700, exist_ok=True)
    write_atomically(plan_path(work), json.dumps(plan))


def is_owed(work):
    """True if the bundle asks for an adoption that was not done yet."""
    adopt = work.bundle.get("adopt")
    if adopt is None or work.state != RUNNING:
        return False
    plan = read_plan(work)
    return not (plan.get("id") == adopt["id"] and plan.get("done"))


def adopt(work):
    """Take the data over if that is owed; the process is down, and is started when this is done."""
    if not is_owed(work):
        return
    wanted = work.bundle["adopt"]
    own = find_user(work)
    if own is None:
        raise Refused(f"There is no user {work.user}.")
    target_fd = os.open(work.root, DIRECTORY)
    try:
        plan = read_plan(work)
        if plan.get("id") != wanted["id"]:
            plan = _begin(work, wanted, own)
        aside_fd = _aside(target_fd, wanted["id"])
        try:
            for path in wanted["paths"]:
                _exchange(wanted, path, plan["numbers"][path], target_fd, aside_fd)
        finally:
            os.close(aside_fd)
    finally:
        os.close(target_fd)
    _write_plan(work, {**plan, "done": True})
    work.note("data of {}: taken over, the old in {}{}".format(wanted["key"], BEFORE, wanted["id"]))


def take_over(work):
    """``adopt`` for the runtimes: what fails is this bundle's error, and its process is not started."""
    try:
        adopt(work)
    except Refused as refused:
        work.error = str(refused)
    except OSError as error:
        work.error = "The data cannot be taken over: {}: {}.".format(error.filename or "a file", error.strerror)


def _begin(work, wanted, own):
    """Look whether it is possible, make the instance's user the owner, and note down which directories are meant."""
    try:
        source = pwd.getpwnam(wanted["user"])
    except KeyError:
        raise Refused("There is no user {}: what was to be taken over is gone.".format(wanted["user"])) from None
    if source.pw_dir != wanted["root"] or source.pw_uid == 0:
        raise Refused("The user {} is another one's: its home is {}.".format(wanted["user"], source.pw_dir))
    if processes_of(source.pw_uid):
        raise Refused("{} still runs: its data cannot be taken over.".format(wanted["key"]))
    numbers = {}
    source_fd = _open_root(wanted["root"])
    try:
        for path in wanted["paths"]:
            fd = os.open(path, DIRECTORY, dir_fd=source_fd)
            try:
                _own(fd, path, source.pw_uid, own)
                numbers[path] = os.fstat(fd).st_ino
            finally:
                os.close(fd)
    finally:
        os.close(source_fd)
    plan = {"id": wanted["id"], "numbers": numbers, "done": False}
    _write_plan(work, plan)
    return plan


def _open_root(path):
    fd = os.open(path, DIRECTORY)
    if os.fstat(fd).st_uid != 0:
        os.close(fd)
        raise Refused(f"{path} is not a directory of root's.")
    return fd


def _own(top_fd, name, source_uid, own):
    """Give everything below to the instance's user. What belongs to a third one is not what it should be."""
    for here, dirs, files, here_fd in os.fwalk(".", dir_fd=top_fd, follow_symlinks=False):
        for entry in dirs + files:
            seen = os.stat(entry, dir_fd=here_fd, follow_symlinks=False)
            if seen.st_uid not in (source_uid, own.pw_uid):
                raise Refused(f"{posixpath.normpath(posixpath.join(name, here, entry))} belongs to somebody else.")
            if not stat.S_ISDIR(seen.st_mode) and not stat.S_ISLNK(seen.st_mode) and seen.st_nlink > 1:
                raise Refused(f"{posixpath.normpath(posixpath.join(name, here, entry))} has a second name.")
            if (seen.st_uid, seen.st_gid) != (own.pw_uid, own.pw_gid):
                os.chown(entry, own.pw_uid, own.pw_gid, dir_fd=here_fd, follow_symlinks=False)
    os.fchown(top_fd, own.pw_uid, own.pw_gid)


def _aside(target_fd, adoption):
    name = BEFORE + adoption
    try:
        os.mkdir(name, 0o700, dir_fd=target_fd)
    except FileExistsError:
        pass
    return os.open(name, DIRECTORY, dir_fd=target_fd)


def _number(fd, name):
    """Inode of a directory, 0 if there is none."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0


def _exchange(wanted, path, number, target_fd, aside_fd):
    """Bring the directory with this number into its place."""
    present = _number(target_fd, path)
    if present == number:
        return
    source_fd = _open_root(wanted["root"])
    try:
        if _number(source_fd, path) != number:
            raise Refused("{} of {} is not the one that was to be taken over.".format(path, wanted["key"]))
        if present:
            os.rename(path, _free_name(aside_fd, path), src_dir_fd=target_fd, dst_dir_fd=aside_fd)
        os.rename(path, path, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    finally:
        os.close(source_fd)


def _free_name(fd, name):
    """``name``, or with a number: of a run that was killed, and the machine started an empty engine meanwhile."""
    count, free = 1, name
    while _number(fd, free):
        count += 1
        free = f"{name}-{count}"
    return free


def clear_old(work):
    """Remove what was kept of former adoptions, but for the one that is still to be kept."""
    wanted = work.bundle.get("adopt") or {}
    keep = {BEFORE + work.bundle.get("kept", ""), BEFORE + wanted.get("id", "")}
    for name in sorted(os.listdir(work.root)):
        if name.startswith(BEFORE) and name not in keep:
            seen = os.lstat(os.path.join(work.root, name))
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != 0:
                raise Refused(f"{name} is not a directory of root's.")
            work.note(f"directory {name}: removed")
            if not work.check:
                shutil.rmtree(os.path.join(work.root, name))


def forget(work):
    """The instance is gone, and with it what the node knows of its adoptions."""
    try:
        os.unlink(plan_path(work))
    except FileNotFoundError:
        pass
