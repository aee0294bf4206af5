"""What restic says when it fails, as the errors of ``store.base``.

restic 0.14 ends with status 1 for nearly everything, so its words decide; later versions have statuses for some (10,
11, 12), which are believed first. Secrets that a place was given are struck out of what is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.drivers.store.base import Damaged, Locked, NoRepository, StorageFull, WrongKey
from controlplane.drivers.store.process import last_line
from controlplane.values.errors import Rejected, RoostError, Unavailable
from controlplane.values.secret import Secret

_LOCKED = ("repository is already locked", "unable to create lock in backend", "failed to refresh lock")
_FULL = (
    "no space left on device",
    "quota exceeded",
    "quotaexceeded",
    "storagefull",
    "insufficient storage",
    "507 ",
)
#: OpenSSH's sftp-server has no other word for a full disk (it has others for missing rights and files).
_FAR_FULL = 'write: sftp: "failure"'
_KEY = ("wrong password or no key found", "no key found")
_NOTHING = ("is there a repository at the following location", "unable to open config file")
_DAMAGED = (
    *("ciphertext verification failed", "invalid data returned", "does not match id", "hash mismatch", "is damaged"),
    *(
        "not found in index",
        "not found in repository",
        "contains errors",
        "pack size",
        "unexpected pack",
    ),
    *("invalid header", "wrong header", "unable to load index", "load(<data/", "load(<index/", "loadtree", "truncated"),
    *("load(<snapshot/", "decompress", "magic number mismatch"),
)
_UNREACHABLE = (
    *("connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable"),
    *("connection reset", "connection timed out", "unable to start the sftp session", "connection lost", "broken pipe"),
    *("ssh command exited", "subprocess ssh", "unexpected eof", "error: eof"),
    *("tls handshake timeout", "server misbehaving", "503 ", "502 ", "504 ", "slowdown", "service unavailable"),
    *("temporary failure in name resolution", "context deadline exceeded", "returned error, retrying"),
)
_REFUSED = (
    *("permission denied", "access denied", "accessdenied", "403 ", "401 ", "signaturedoesnotmatch"),
    *("invalidaccesskeyid", "unauthorized", "read-only file system", "operation not permitted"),
)
_UNTRUSTED = ("x509:", "tls: ")
_WRONG_NAME = ("no matching id found", "not found in snapshot")
_MISSING = ("no such file", "does not exist", "not found", "404")
_SAYS = re.compile(
    r"fatal|error|unable|fail|denied|invalid|no |connection (?:refused|reset|closed|timed out)", re.IGNORECASE
)
_LOCK_TEXT = re.compile(r"locked (?:exclusively )?by PID (\d+) on (\S+)")


@dataclass(frozen=True, slots=True)
class Struck:
    """Replaces what must not be read by ``***``."""

    secrets: tuple[Secret, ...]

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            whole = secret.reveal()
            for part in (whole, *(line for line in whole.splitlines() if len(line) >= 16)):
                if len(part) >= 4:
                    text = text.replace(part, "***")
        return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def has(text: str, words: Iterable[str]) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in words)


def is_locked(code: int, text: str) -> bool:
    return code == 11 or has(text, _LOCKED)


def judge(where: str, code: int, text: str) -> RoostError:
    """The error of a run that failed; ``text`` is what it said (already struck), ``where`` the place for a person."""
    last = last_line(important(text))
    if has(text, (*_FULL, _FAR_FULL)):
        return _full(where, last)
    if is_locked(code, text):
        found = _LOCK_TEXT.search(text)
        holder = f" by process {found[1]} on {found[2]}" if found else ""
        return Locked(
            f"{where} is locked{holder}.",
            remedy="It is tried again; a lock of a run that died elsewhere is taken away after half an hour.",
            retry_after_s=300.0,
        )
    if code == 12 or has(text, _KEY):
        return WrongKey(
            f"The key does not open {where}.",
            remedy="Give the key that the repository was made with, or one that was added to it.",
        )
    if has(text, _UNTRUSTED):
        return Rejected(
            f"{where} shows no certificate that is trusted: {last}",
            remedy="Give the certificate authority of that place, or have its certificate renewed.",
        )
    if has(text, _UNREACHABLE) and not has(text, _DAMAGED):
        return Unavailable(f"{where} is not reached: {last}", remedy="It is tried again.")
    if has(text, _REFUSED):
        return Rejected(
            f"{where} refused: {last}", remedy="Check the account, its rights at that place, and who owns the files."
        )
    if code == 10 or has(text, _NOTHING):
        return NoRepository(
            f"There is no repository at {where}.",
            remedy="Is the right disk mounted, and is the path right? A new one is only made when it is asked for.",
        )
    if has(text, _WRONG_NAME):
        return Rejected(f"{where} has no such snapshot or file: {last}", remedy="Read the list again.")
    if has(text, _DAMAGED):
        return _damaged(where, last)
    return Rejected(f"restic failed at {where} (status {code}): {last}")


def judge_tries(where: str, text: str) -> RoostError:
    """The same of a run that was ended while restic still tried: it tries for a file that is lost, too."""
    tried = [line for line in text.splitlines() if "returned error, retrying" in line]
    if has(tried[-1] if tried else "", (_FAR_FULL,)):
        return _full(where, last_line(tried[-1]))
    lost = [line for line in tried if "Load(" in line and has(line, (*_MISSING, *_DAMAGED[:5]))]
    if lost and len(lost) == len(tried):
        return _damaged(where, last_line(lost[-1]))
    said = f"is not reached: {last_line(tried[-1])}" if tried else "does not answer any more."
    return Unavailable(f"{where} {said}", remedy="It is tried again.")


def _full(where: str, last: str) -> StorageFull:
    return StorageFull(
        f"No room is left for {where}: {last}",
        remedy="Make room, or keep fewer backups and prune. What was stored before is whole.",
        retry_after_s=900.0,
    )


def _damaged(where: str, last: str) -> Damaged:
    return Damaged(
        f"{where} is damaged: {last}",
        remedy="Check all of it (restic check --read-data). Restore from another snapshot or copy; a new index and "
        "a new backup (restic rebuild-index, then back up again) put back what the source still has.",
    )


def important(text: str) -> str:
    """Without the location that ends some messages, and without what only says that it goes on."""
    found = [line for line in text.splitlines() if _SAYS.search(line)]
    return "\n".join(found) or text
