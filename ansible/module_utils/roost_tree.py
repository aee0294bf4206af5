"""A tenant's unix user and its directory on the node: made as the bundle says, and removed without a trace.

Every step below the root goes through directory handles that follow no symbolic link, because some of the
directories belong to the tenant, whose process may be hostile. Processes are left to the runtimes.
"""

from __future__ import annotations

import base64
import errno
import grp
import os
import posixpath
import pwd
import secrets
import shutil
import stat
import subprocess

from ansible.module_utils.roost_bundle import Refused

# Above the range of people's accounts and of Debian's own; high enough for thousands of tenants.
UID_RANGE = (20000, 59999)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
TEMPORARY = ".roost-tmp-"
PRUNED = ("config", "certs")
UNKNOWN = -1  # the id of a user that check mode has not made


def run(argv):
    """Run a tool of the system; ``Refused`` with its last line if it fails."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    if done.returncode:
        last = (done.stdout.decode(errors="replace").strip().splitlines() or [""])[-1]
        raise Refused(f"{argv[0]} failed ({done.returncode}): {last}")


def find_user(work):
    """The tenant's passwd entry, None if there is none. ``Refused`` if it is somebody else's."""
    try:
        entry = pwd.getpwnam(work.user)
    except KeyError:
        return None
    if entry.pw_dir != work.root or entry.pw_uid == 0:
        raise Refused(f"The user {work.user} exists and is not this instance's: its home is {entry.pw_dir}.")
    return entry


def find_group(name):
    try:
        return grp.getgrnam(name)
    except KeyError:
        return None


def ensure_user(work):
    """Make user and group; returns (uid, gid)."""
    entry = find_user(work)
    if entry is not None:
        return entry.pw_uid, entry.pw_gid
    work.note(f"user {work.user}: created")
    if work.check:
        return UNKNOWN, UNKNOWN
    argv = ["useradd", "--system", "--no-create-home", "--home-dir", work.root, "--shell", "/usr/sbin/nologin"]
    for what in ("UID", "GID"):
        argv += ["-K", f"SYS_{what}_MIN={UID_RANGE[0]}", "-K", f"SYS_{what}_MAX={UID_RANGE[1]}"]
    # A run killed within userdel can leave the group behind.
    argv += ["--gid", work.user] if find_group(work.user) else ["--user-group"]
    run([*argv, work.user])
    entry = find_user(work)
    if entry is None:
        raise Refused(f"useradd made no user {work.user}.")
    return entry.pw_uid, entry.pw_gid


def apply(work):
    """Make user, directories and files what the bundle says; files that differ set the intents."""
    control = find_group(work.bundle["control_group"])
    if control is None:
        raise Refused(
            "The control group {} does not exist on the node: prepare the node with the play node.yml.".format(
                work.bundle["control_group"]
            )
        )
    uid, gid = ensure_user(work)
    root_fd = _ensure_root(work, gid)
    if root_fd is None:  # only in check mode: all below it is missing too
        for entry in work.bundle["dirs"]:
            work.note("directory {}: created".format(entry["path"]))
        for entry in work.bundle["files"]:
            _changed(work, entry, "created")
        return
    try:
        for entry in sorted(work.bundle["dirs"], key=lambda entry: entry["path"]):
            owner = uid if entry["owner"] == "tenant" else 0
            group = gid if entry["group"] == "tenant" else control.gr_gid
            _ensure_dir(work, root_fd, entry["path"], entry["mode"], owner, group)
        for entry in work.bundle["files"]:
            _ensure_file(work, root_fd, entry, gid)
        for top in PRUNED:
            _prune(work, root_fd, top)
    finally:
        os.close(root_fd)


def _ensure_root(work, gid):
    try:
        fd = os.open(work.root, DIRECTORY)
    except FileNotFoundError:
        work.note(f"directory {work.root}: created")
        if work.check:
            return None
        os.makedirs(posixpath.dirname(work.root), mode=0o755, exist_ok=True)
        os.mkdir(work.root, 0o700)
        fd = os.open(work.root, DIRECTORY)
        os.fchown(fd, 0, gid)
        os.fchmod(fd, 0o751)
        return fd
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Refused(f"{work.root} is no directory.") from error
        raise
    _fix(work, fd, work.root, 0o751, 0, gid)
    return fd


def _fix(work, fd, name, mode, uid, gid):
    """Owner, group and mode of an open file; True if they were not so."""
    seen = os.fstat(fd)
    if (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (uid, gid, mode):
        return False
    work.note(f"{name}: owner, group or mode corrected")
    if not work.check:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
    return True


def open_below(root_fd, path, flags=DIRECTORY):
    """Open a path below a directory handle; no component of it may be a symbolic link."""
    fd = os.dup(root_fd)
    try:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            deeper = os.open(part, flags if last else DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = deeper
    except BaseException:
        os.close(fd)
        raise
    return fd


def _ensure_dir(work, root_fd, path, mode, uid, gid):
    parent, name = posixpath.split(path)
    try:
        parent_fd = open_below(root_fd, parent)
    except FileNotFoundError:
        if work.check:
            work.note(f"directory {path}: created")
            return
        _ensure_dir(work, root_fd, parent, 0o750, 0, gid)
        parent_fd = open_below(root_fd, parent)
    try:
        try:
            fd = os.open(name, DIRECTORY, dir_fd=parent_fd)
        except FileNotFoundError:
            work.note(f"directory {path}: created")
            if work.check:
                return
            os.mkdir(name, 0o700, dir_fd=parent_fd)
            fd = os.open(name, DIRECTORY, dir_fd=parent_fd)
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Refused(f"{work.root}/{path} is no directory.") from error
            raise
        else:
            _fix(work, fd, path, mode, uid, gid)
        os.close(fd)
    finally:
        os.close(parent_fd)


def _changed(work, entry, how):
    work.note("file {}: {}".format(entry["path"], how))
    work.intend(entry["on_change"])


def _read(parent_fd, name, size):
    """(handle, content) of a regular file; (None, None) if there is none or something else is in its place."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None, None
        raise
    seen = os.fstat(fd)
    if not stat.S_ISREG(seen.st_mode):
        os.close(fd)
        if stat.S_ISDIR(seen.st_mode):
            raise Refused(f"{name} is a directory where a file should be.")
        return None, None
    content = b""
    if seen.st_size == size:
        with os.fdopen(os.dup(fd), "rb") as stream:
            content = stream.read(size + 1)
    return fd, content


def _ensure_file(work, root_fd, entry, gid):
    """Write the file if it differs, whole or not at all; the engine's group may read it, root owns it."""
    content = base64.b64decode(entry["content_b64"])
    parent, name = posixpath.split(entry["path"])
    try:
        parent_fd = open_below(root_fd, parent)
    except FileNotFoundError:
        if work.check:
            _changed(work, entry, "created")
            return
        _ensure_dir(work, root_fd, parent, 0o750, 0, gid)
        parent_fd = open_below(root_fd, parent)
    try:
        fd, present = _read(parent_fd, name, len(content))
        if fd is not None:
            try:
                if present == content and (content or os.fstat(fd).st_size == 0):
                    if _fix(work, fd, "file " + entry["path"], entry["mode"], 0, gid):
                        work.intend(entry["on_change"])
                    return
            finally:
                os.close(fd)
        _changed(work, entry, "created" if fd is None else "content changed (not shown)")
        if not work.check:
            _replace(parent_fd, name, content, entry["mode"], gid)
    finally:
        os.close(parent_fd)


def _replace(parent_fd, name, content, mode, gid):
    temporary = TEMPORARY + secrets.token_hex(8)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent_fd)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(fd, 0, gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except BaseException:
        os.unlink(temporary, dir_fd=parent_fd)
        raise


def _prune(work, root_fd, top):
    """Remove what is no longer wanted below a directory that is root's alone."""
    keep_files = {entry["path"] for entry in work.bundle["files"]}
    keep_dirs = {entry["path"] for entry in work.bundle["dirs"]} | {posixpath.dirname(path) for path in keep_files}
    for path in list(keep_dirs):
        while posixpath.dirname(path):
            path = posixpath.dirname(path)
            keep_dirs.add(path)
    try:
        top_fd = open_below(root_fd, top)
    except FileNotFoundError:
        return
    try:
        for here, dirs, files, here_fd in os.fwalk(".", topdown=False, dir_fd=top_fd):
            base = posixpath.normpath(posixpath.join(top, here))
            links = [name for name in dirs if stat.S_ISLNK(os.lstat(name, dir_fd=here_fd).st_mode)]
            for name in files + links:
                path = posixpath.join(base, name)
                if path in keep_files:
                    continue
                if not name.startswith(TEMPORARY):
                    _changed(work, {"path": path, "on_change": "reload"}, "removed")
                if not work.check:
                    os.unlink(name, dir_fd=here_fd)
            for name in set(dirs) - set(links):
                path = posixpath.join(base, name)
                if path not in keep_dirs:
                    work.note(f"directory {path}: removed")
                    if not work.check:
                        os.rmdir(name, dir_fd=here_fd)
    finally:
        os.close(top_fd)


def remove(work):
    """Remove the tree, the user and the group; the user's processes are gone by now."""
    if os.path.lexists(work.root):
        seen = os.lstat(work.root)
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != 0:
            raise Refused(f"{work.root} is not a directory of root's: it is not removed.")
        work.note(f"directory {work.root}: removed")
        if not work.check:
            shutil.rmtree(work.root)
    if find_user(work) is not None:
        work.note(f"user {work.user}: removed")
        if not work.check:
            run(["userdel", work.user])
    if find_group(work.user) is not None:
        if not any(line.startswith("user ") for line in work.lines):
            work.note(f"group {work.user}: removed")
        if not work.check:
            run(["groupdel", work.user])
