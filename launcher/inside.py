"""Programs that run against the stack in the foreground: management commands, a stranger's client, one message.

A stranger's client is unmodified: in a mount namespace of its own, /etc/resolv.conf names the stack's resolver and
the system's certificate store holds the stack's roots besides its own. Nothing outside of it sees that.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from launcher import checks, files, keys, machine
from launcher.demo import passwords_of
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.processes import run
from launcher.up import manage as run_command
from launcher.up import process_environment

CERTS = Path("/etc/ssl/certs")
BUNDLE = "ca-certificates.crt"
RESOLV = Path("/etc/resolv.conf")


def manage(layout: Layout, arguments: list[str]) -> int:
    """Becomes ``manage.py`` as the control plane's user, with the stack's environment."""
    environment = process_environment(layout, keys.read_environment(layout))
    python = str(layout.python)
    os.chdir(layout.app)
    _become(machine.CONTROL_USER)
    passed = {name: os.environ[name] for name in ("TERM", "ROOST_OPERATOR_PASSWORD") if name in os.environ}
    os.execve(python, [python, "manage.py", *arguments], {**environment, **passed})


def _become(user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    os.setgroups(os.getgrouplist(user, entry.pw_gid))
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def roots(layout: Layout) -> str:
    """The roots (PEM) of the certificates that the tenants have now. Pebble makes a new one at each start."""
    try:
        text = checks.get_json_or_text(f"https://{layout.pebble_address}:15000/roots/0", ca_file=layout.pebble_ca)
    except OSError as error:
        raise Problem(f"The stack's ACME server does not answer ({error}): run `./roost up`.") from error
    return str(text)


def run_as_stranger(layout: Layout, command: list[str]) -> int:
    """Become the command inside the namespace, as the person who called (sudo's caller, if any)."""
    if not command:
        raise Problem("Name a program: `./roost run go-sendxmpp --help`.")
    if shutil.which(command[0]) is None:
        raise Problem(f"There is no program {command[0]}: install it (for example `apt-get install {command[0]}`).")
    base = files.directory(layout.state / "stranger")
    resolv = base / "resolv.conf"
    files.write(resolv, f"nameserver {layout.resolver_address}\noptions timeout:2 attempts:2\n")
    store = make_store(base, roots(layout))
    if run(["unshare", "--mount", "true"], timeout_s=10, check=False).code:
        raise Problem(
            "This machine does not allow mount namespaces (a container needs the capability SYS_ADMIN for that): "
            f"point the program at the resolver {layout.resolver_address} and the roots in {store / BUNDLE} yourself."
        )
    target = Path(os.path.realpath(RESOLV))
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    script = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", script, "sh"]
    argv += [str(resolv), str(target), str(store), str(CERTS), *_as_caller(), *command]
    os.execvpe(argv[0], argv, _caller_environment())


def _as_caller() -> list[str]:
    """What gives root's rights away again if sudo was used."""
    user = os.environ.get("SUDO_USER", "")
    if not user or user == "root":
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={os.environ.get('SUDO_GID', '')}", "--init-groups", "--"]


def _caller_environment() -> dict[str, str]:
    dropped = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    user = os.environ.get("SUDO_USER", "")
    if user and user != "root":
        import pwd

        kept["HOME"] = pwd.getpwnam(user).pw_dir
    return kept


def make_store(base: Path, extra_pem: str) -> Path:
    """A copy of the system's certificate store with more roots in it: in the bundle, and under their hashed names."""
    store = base / "certs"
    fresh = Path(tempfile.mkdtemp(dir=base, prefix="certs."))
    fresh.chmod(0o755)
    if CERTS.is_dir():
        for entry in CERTS.iterdir():
            if entry.is_symlink():
                (fresh / entry.name).symlink_to(os.readlink(entry))
            elif entry.is_file() and entry.name != BUNDLE:
                shutil.copy2(entry, fresh / entry.name)
    own = CERTS / BUNDLE
    (fresh / BUNDLE).write_text((own.read_text() if own.exists() else "") + "\n" + extra_pem)
    (fresh / "roost-root.pem").write_text(extra_pem)
    hashed = run(["openssl", "x509", "-noout", "-hash", "-in", str(fresh / "roost-root.pem")], timeout_s=10).out.strip()
    free = next(f"{hashed}.{n}" for n in range(100) if not os.path.lexists(fresh / f"{hashed}.{n}"))
    (fresh / free).symlink_to("roost-root.pem")
    # A running client keeps the old one by its mount; the next gets the new one.
    shutil.rmtree(store, ignore_errors=True)
    fresh.rename(store)
    return store


def send(layout: Layout, arguments: list[str]) -> int:
    """One message between two accounts of the demonstration; prints how it went."""
    if len(arguments) != 3:
        raise Problem("Say `./roost send FROM TO TEXT`, with two of the accounts that `./roost up` printed.")
    sender, receiver, text = arguments
    passwords = passwords_of(layout)
    for jid in (sender, receiver):
        if jid not in passwords:
            known = ", ".join(passwords) or "none yet: run `./roost up`"
            raise Problem(f"{jid} is not one of the demonstration's accounts ({known}).")
    base = files.directory(layout.state / "stranger")
    trusted = base / "roots.pem"
    files.write(trusted, roots(layout))
    # Passwords go by standard input: the argument list is everybody's to read.
    lines = [
        sender,
        passwords[sender],
        receiver,
        passwords[receiver],
        text,
        f"{layout.resolver_address}@53",
        str(trusted),
    ]
    environment = process_environment(layout, {"PYTHONPATH": str(layout.app)})
    argv = [str(layout.python), "-m", "launcher.message"]
    sent = run(argv, timeout_s=60, check=False, env=environment, cwd=layout.app, stdin="\0".join(lines))
    print(sent.out, end="")
    if sent.code:
        raise Problem(sent.err.strip() or "The message was not delivered: see `./roost status`.")
    for line in _links(layout, sender.partition("@")[2], receiver.partition("@")[2]):
        print(f"  {line}")
    return 0


def _links(layout: Layout, local: str, remote: str) -> list[str]:
    """How the two servers know each other, as the sender's says."""
    try:
        said = run_command(layout, keys.read_environment(layout), ["s2s", local], timeout_s=30)
    except Problem as problem:
        return [f"How the servers know each other is not to be had: {problem}"]
    streams = [stream for stream in json.loads(said) if stream["remote"] == remote]
    return sorted(
        {
            f"{local} {'->' if stream['direction'] == 'out' else '<-'} {remote}: authenticated by {stream['auth']}, "
            f"{'encrypted' if stream['encrypted'] else 'not encrypted'}"
            for stream in streams
        }
    )
