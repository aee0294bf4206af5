"""Writing files so that a crash leaves the old or the new, never half; and directories with owner and mode."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, text: str, *, mode: int = 0o644, owner: str = "root", group: str = "root") -> bool:
    """True if the file's text was another one (or there was none). Owner and mode are set in any case."""
    uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    try:
        same = path.read_text() == text
    except (OSError, UnicodeDecodeError):
        same = False
    if same:
        os.chown(path, uid, gid)
        path.chmod(mode)
        return False
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True


def directory(path: Path, *, mode: int = 0o755, owner: str = "root", group: str = "root") -> Path:
    """Make a directory (its parents have to be there) or correct its owner and mode."""
    path.mkdir(exist_ok=True)
    os.chown(path, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    path.chmod(mode)
    return path


_LEFT_OUT = {"__pycache__", ".git", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def tree_files(root: Path, names: Iterable[str]) -> list[Path]:
    """All files below these names of ``root``, sorted, as paths relative to it; caches are left out."""
    found = []
    for name in names:
        top = root / name
        if top.is_file():
            found.append(Path(name))
        for directory_path, directories, files in os.walk(top):
            directories[:] = [d for d in directories if d not in _LEFT_OUT]
            here = Path(directory_path)
            found += [(here / f).relative_to(root) for f in files if not f.endswith((".pyc", ".swp", "~"))]
    return sorted(found)


def digest(root: Path, files: Iterable[Path]) -> str:
    """One digest over names and contents."""
    total = hashlib.sha256()
    for file in files:
        content = (root / file).read_bytes()
        total.update(f"{file}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def mirror(source: Path, target: Path, names: Iterable[str]) -> None:
    """Make ``target`` hold exactly the files of ``names`` below ``source``, readable by all."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for file in tree_files(source, names):
        to = fresh / file
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, to)
        to.chmod(0o755 if os.access(source / file, os.X_OK) and (source / file).stat().st_mode & 0o100 else 0o644)
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
