"""What ``./roost node`` and ``./roost rollout`` print: tables, conditions with their remedies, in plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 100
_MARKS = {"True": "✓", "False": "✗", "Unknown": "…"}
_STATES = {"waiting": "…", "running": "▶", "done": "✓", "failed": "✗", "left": "-"}
_STANDINGS = {
    "active": "takes new instances",
    "cordoned": "takes no new instances",
    "draining": "is to be emptied",
    "retired": "is out of use",
}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need to be; the last one is free."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *texts]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(head), *texts]
    )


def nodes(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "There is no node: `./roost node enrol NAME ADDRESS` enrols one."
    lines = [
        (
            row["name"],
            {True: "✓", False: "✗"}[row["ready"]],
            row["standing"],
            row["edge"] if row["carries_instances"] else f"{row['edge']} only",
            row["instances"],
            f"{row['memory_used_mib']}/{row['memory_mib']}",
            labels(row["labels"]) or "-",
            row["summary"] if not row["ready"] else row["address"],
        )
        for row in rows
    ]
    return table(("NODE", "READY", "STANDING", "EDGE", "INSTANCES", "MIB", "LABELS", ""), lines)


def labels(given: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(given.items()))


def node(row: Mapping[str, Any]) -> str:
    """All that a person wants to know of one."""
    how = f"SSH to {row['ssh_user']}@{row['address']} port {row['ssh_port']}"
    lines = [
        f"{row['name']} {_STANDINGS[row['standing']]}; {row['summary']}",
        "",
        *([conditions(row), ""] if row["conditions"] else []),
        _pair("reached by", how if row["connection"] == "ssh" else "this machine itself"),
        _pair("runtime", row["runtime"]),
        _pair("edge", _edge(row)),
        _pair("private address", row["private_address"] or "none"),
        _pair("instances' network", f"{row['instance_network']} from port {row['base_port']}"),
        _pair("labels", labels(row["labels"]) or "none"),
        _pair("room", f"{row['instances']} instances, {row['memory_used_mib']} of {row['memory_mib']} MiB"),
        _pair("facts", facts(row["facts"]) or "none yet"),
        _pair("if it goes", counts(row["blast_radius"])),
    ]
    if row["connection"] == "ssh":
        lines += [
            _pair("host key", _keys(row["host_keys"]) or "none is trusted yet"),
            *([_pair("  it shows", _keys(row["seen_host_keys"]))] if row["seen_host_keys"] else []),
            _pair("our key", row["authorized_key"]),
        ]
    return "\n".join(lines)


def _pair(name: str, text: str) -> str:
    return f"  {name:<20}{text}"


def _edge(row: Mapping[str, Any]) -> str:
    said = {"own": "its own", "shared": "shared by nodes without one", "none": "none; the shared ones lead to it"}
    where = f", {', '.join(row['public_addresses'])}" if row["public_addresses"] else ""
    return f"{said[row['edge']]}{where}"


def _keys(found: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{key['fingerprint']} {key['type']}".rstrip() for key in found)


def facts(found: Mapping[str, Any]) -> str:
    parts = []
    if "memory_mib" in found:
        parts.append(f"{found.get('memory_available_mib', '?')} of {found['memory_mib']} MiB of memory free")
    if "disk_total_mib" in found:
        parts.append(f"{found.get('disk_free_mib', '?')} of {found['disk_total_mib']} MiB of disk free")
    if "cpus" in found:
        parts.append(f"{found['cpus']} CPUs")
    if found.get("debian"):
        parts.append(f"Debian {found['debian']}")
    parts += [f"{name} {version}" for name, version in sorted(found.get("versions", {}).items()) if version]
    return ", ".join(parts)


def conditions(row: Mapping[str, Any]) -> str:
    """Each condition; those that do not hold with the reason, the message and what to do."""
    lines = []
    for one in row["conditions"]:
        head = f"  {_MARKS[one['status']]}  {one['type']:<16}"
        if one["status"] == "True" and one["type"] != "Prepared":
            lines.append(f"{head}{one['message']}".rstrip())
            continue
        lines += _wrapped(head, f"{one['reason']}: {one['message']}" if one["message"] else one["reason"])
        if one["remedy"]:
            lines += _wrapped(" " * 21 + "→ ", one["remedy"])
    return "\n".join(lines)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def counts(found: Mapping[str, int]) -> str:
    text = f"{found['instances']} instances of {found['organisations']} organisations, {found['wholly']} wholly"
    if found["led"]:
        text += f"; its edge leads to {found['led']}, {found['only_here']} of them alone"
    return text


def enrolled(row: Mapping[str, Any]) -> str:
    """What is left to do on the machine itself."""
    lines = [
        f"{row['name']} is enrolled. On {row['address']}, as {row['ssh_user']}, run this once:",
        "",
        f"  {row['install_command']}",
        "",
    ]
    if row["host_keys"]:
        lines.append(f"It is believed by the host key {_keys(row['host_keys'])}.")
    else:
        lines += [
            "No host key was given, so compare: on the machine, run",
            "",
            "  for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done",
            "",
            f"and here `./roost node show {row['name']}`. If a fingerprint is the same in both, accept it:",
            "",
            f"  ./roost node accept-host-key {row['name']} SHA256:…",
        ]
    return "\n".join(lines)


def standing(row: Mapping[str, Any]) -> str:
    return f"{row['name']} {_STANDINGS[row['standing']]}."


def finished(row: Mapping[str, Any]) -> str:
    if "conditions" in row:
        return f"{row['name']}: {row['summary']}"
    return f"Rollout {row['id']}: {row['state']}."


def event(row: Mapping[str, Any]) -> str:
    clock = str(row["at"])[11:19]
    text = " ".join(filter(None, (row["reason"], row["message"])))
    return f"  {clock}  {row['type']:<24} {text}".rstrip()


def blast(row: Mapping[str, Any]) -> str:
    lines = [
        f"If {row['node']} goes:",
        _pair("instances", f"{row['instances']}, {row['memory_mib']} MiB by their plans, {row['accounts']} accounts"),
        _pair("organisations", f"{len(row['organisations'])}: {_some(row['organisations'])}"),
        _pair("wholly on it", f"{len(row['wholly'])}: {_some(row['wholly'])}"),
    ]
    if row["led"]:
        lines.append(_pair("its edge", f"leads to {row['led']} instances; to {row['only_here']} no other edge does"))
    return "\n".join(lines)


def _some(names: Sequence[str], most: int = 12) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names) or "none"


def preview(found: Mapping[str, Any]) -> str:
    head = f"It would go to {found['node']}." if found["node"] else "It would go nowhere now."
    lines = [head, *_wrapped("  ", " ".join(filter(None, (found["explanation"], found["remedy"])))), ""]
    rows = [
        (
            one["node"],
            "✓" if one["fits"] else "✗",
            one["memory_free_mib"],
            one["instances"],
            "/".join(str(one["beside"][part]) for part in ("provider", "region", "node")),
            one["message"] or labels(one["labels"]),
        )
        for one in found["candidates"]
    ]
    lines.append(table(("NODE", "FITS", "MIB FREE", "INSTANCES", "OURS P/R/N", ""), rows))
    if found["after"]:
        lines += ["", f"With it, {blast(found['after'])[:1].lower()}{blast(found['after'])[1:]}"]
    return "\n".join(lines)


def rollouts(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "There was no rollout yet."
    lines = [
        (
            row["id"],
            row["kind"],
            row["state"],
            f"{sum(part['state'] == 'done' for part in row['nodes'])}/{len(row['nodes'])}",
            str(row["created_at"])[:16].replace("T", " "),
            row["created_by"],
            row["reason"],
        )
        for row in rows
    ]
    return table(("ID", "KIND", "STATE", "NODES", "BEGUN", "BY", ""), lines)


def rollout(row: Mapping[str, Any]) -> str:
    head = f"Rollout {row['id']} ({row['kind']}): {row['state']}"
    lines = [f"{head}. {row['reason']}".rstrip() if row["reason"] else f"{head}."]
    for part in row["nodes"]:
        lines += _wrapped(f"  {_STATES[part['state']]}  {part['name']:<16}", part["message"] or part["state"])
        moved = versions(part["versions_before"], part["versions_after"])
        if moved:
            lines.append(" " * 21 + moved)
    return "\n".join(lines)


def versions(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    moved = {name: new for name, new in sorted(after.items()) if before.get(name) != new}
    return ", ".join(f"{name} {before.get(name, 'none')} -> {new}" for name, new in moved.items())
