"""One bundle while it is converged: what it asks for, what was found, what was done and what went wrong.

Nothing here touches users, files of tenants or processes; ``roost_tree`` and the runtimes do. The marks kept
in the node's state directory make a run that was killed half-way visible to the next one.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
UNFINISHED = re.compile(r"\.[0-9]+\.tmp$")
SIGNAL = re.compile(r"[A-Z][A-Z0-9]{1,9}")
RUNNING, STOPPED, ABSENT = "running", "stopped", "absent"


class Refused(Exception):
    """A bundle that cannot be applied; the message is fit for a person and holds no content of a file."""


def write_atomically(path, text, mode=0o600):
    """Write a file of root's own; readers see the old text or the new one, never a part."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_unfinished(directory, prefix):
    """Remove what a killed run had begun to write with ``write_atomically``. Whoever calls holds the node's lock."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.startswith(prefix) and UNFINISHED.search(name):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(os.path.join(directory, name))


def read_text(path):
    """The text of a file, None if there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


class Marks:
    """What a killed run left undone: ``<state_dir>/pending/<key>`` holds "restart" or "reload".

    A mark is written before the first change that asks for it and removed when the run has done its part.
    """

    def __init__(self, state_dir):
        self.directory = os.path.join(state_dir, "pending")
        os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def read(self, key):
        return set((read_text(os.path.join(self.directory, key)) or "").split())

    def write(self, key, words):
        write_atomically(os.path.join(self.directory, key), " ".join(sorted(words)))

    def clear(self, key):
        try:
            os.unlink(os.path.join(self.directory, key))
        except FileNotFoundError:
            pass


class Work:
    """A bundle (the JSON object) and its convergence. ``lines`` say what was or would be done, without contents."""

    def __init__(self, bundle, marks, check):
        self.bundle = bundle
        self.key = bundle["key"]
        self.user = bundle["user"]
        self.root = bundle["root"]
        self.state = bundle["state"]
        self.program = bundle["program"]
        self.check = check
        self.marks = marks
        self.pending = marks.read(self.key) if marks else set()
        self.lines = []
        self.error = ""
        self.restarted = False
        self.running = False
        self.was_up = False

    @property
    def process(self):
        """Name of the process with its supervisor, whichever it is."""
        return "roost-" + self.key

    def note(self, line):
        self.lines.append(line)

    def intend(self, word):
        """Remember, also for a later run, that the process has to be restarted or reloaded."""
        if word in ("restart", "reload") and word not in self.pending:
            self.pending.add(word)
            if self.marks and not self.check:
                self.marks.write(self.key, self.pending)

    def finish(self):
        """Take the mark away: what it asked for is done, or is reported to the caller now."""
        if self.marks and not self.check and not self.error:
            self.marks.clear(self.key)

    def outcome(self):
        reload_needed = "reload" in self.pending and "restart" not in self.pending and self.was_up
        return {
            "changed": bool(self.lines),
            "restarted": self.restarted,
            "reload_needed": reload_needed and self.state == RUNNING and not self.error,
            "running": self.running,
            "error": self.error,
            "diff": self.lines,
        }


def relative(path):
    """A path below the root, as the bundle's contract wants it."""
    if not path or path.startswith("/") or CONTROL.search(path) or posixpath.normpath(path) != path:
        raise Refused(f"The path {path!r} is not a plain relative one.")
    if path == "." or path.split("/")[0] == "..":
        raise Refused(f"The path {path!r} leaves the instance's directory.")
    return path


def validate(bundle):
    """``Refused`` for what could harm the node: absent removes the root and ends the user's processes."""
    key, user, root, program = bundle["key"], bundle["user"], bundle["root"], bundle["program"]
    if not KEY.fullmatch(key):
        raise Refused(f"The key {key!r} is not one of lower-case letters, digits and hyphens.")
    if not NAME.fullmatch(user) or not NAME.fullmatch(bundle["control_group"]):
        raise Refused("The user {!r} or the group {!r} is not a unix name.".format(user, bundle["control_group"]))
    if not root.startswith("/") or CONTROL.search(root) or posixpath.normpath(root) != root or root.count("/") < 2:
        raise Refused(f"The root {root!r} is not a plain absolute directory below another one.")
    if posixpath.basename(root) != key:
        raise Refused(f"The root {root!r} does not end with the instance's key.")
    if bundle["state"] not in (RUNNING, STOPPED, ABSENT):
        raise Refused("The state {!r} is not running, stopped or absent.".format(bundle["state"]))
    for entry in bundle["dirs"] + bundle["files"]:
        relative(entry["path"])
    if not program["argv"] or not program["argv"][0].startswith("/"):
        raise Refused("The program's first argument is not an absolute path.")
    words = list(program["argv"]) + ["{}={}".format(*pair) for pair in program["env"].items()]
    if any(CONTROL.search(word) for word in words):
        raise Refused("The program's arguments or environment hold control characters.")
    if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in program["env"]):
        raise Refused("The program's environment has a name that is none.")
    if not SIGNAL.fullmatch(program["stop_signal"]):
        raise Refused("The stop signal {!r} is none.".format(program["stop_signal"]))
    if program["ready_socket"]:
        relative(program["ready_socket"])
    validate_adoption(bundle)


def validate_adoption(bundle):
    """``Refused`` unless the data to take over is another instance's beside this one."""
    kept, adopt = bundle.get("kept", ""), bundle.get("adopt")
    if kept and not KEY.fullmatch(kept):
        raise Refused(f"{kept!r} is no name of an adoption.")
    if adopt is None:
        return
    if not KEY.fullmatch(adopt["id"]) or not KEY.fullmatch(adopt["key"]) or not NAME.fullmatch(adopt["user"]):
        raise Refused("The adoption {!r} does not say whose data it is about.".format(adopt["id"]))
    if adopt["key"] == bundle["key"] or adopt["user"] == bundle["user"]:
        raise Refused("An instance cannot take over its own data.")
    if adopt["root"] != posixpath.join(posixpath.dirname(bundle["root"]), adopt["key"]):
        raise Refused("The root {!r} is not beside the instance's own.".format(adopt["root"]))
    if not adopt["paths"] or not all(re.fullmatch(r"[a-z]{1,16}", path) for path in adopt["paths"]):
        raise Refused("The adoption names other things than directories of an instance.")
