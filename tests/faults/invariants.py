"""What has to hold of a stack at rest, whatever happened to it before: nothing missing, nothing double, nothing left.

Each check compares what the database says there should be with what really is: the zone at the name server, the
edge's maps, coturn's secrets, unix users, directories, processes, the CA's orders. ``arm`` has workers killed.
"""

from __future__ import annotations

import contextlib
import pwd
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from controlplane.drivers.edge.haproxy import HaproxyEdge
from launcher.layout import ZONE
from launcher.machine import tenant_users
from tests.servers.processes import of_uid
from tests.stack.live import Live, describe, until

TIMEOUT_S = 150.0
#: The provider's own records, made by ``bootstrap``.
OWN = {(ZONE, "SOA"), (ZONE, "NS"), (f"ns.{ZONE}", "A"), (f"turn.{ZONE}", "A")}


def check(live: Live) -> None:
    """Wait until the stack has settled, then insist on every invariant."""
    until(lambda: settled(live), "all invariants hold", timeout_s=TIMEOUT_S)


def arm(live: Live, points: Iterable[str]) -> None:
    """The worker that reaches one of these places first is killed there (``controlplane.reconcile.faults``)."""
    for point in points:
        (live.fault_dir / point).touch()


def unreached(live: Live) -> set[str]:
    """Places where nobody was killed yet."""
    return {path.name for path in live.fault_dir.iterdir()}


def settled(live: Live) -> bool:
    instances_are_as_wanted(live)
    nothing_is_held_by_the_dead(live)
    zone_is_what_the_rows_say(live)
    certificates_are_settled(live)
    edge_is_what_the_rows_say(live)
    turn_is_what_the_rows_say(live)
    node_is_what_the_rows_say(live)
    return True


def instances_are_as_wanted(live: Live) -> None:
    rows = live.api.all("instances/")
    for row in rows:
        seen = live.api.get(f"instances/{row['key']}/")
        assert seen["desired"] != "terminated", f"{row['domain']} is still to be removed"
        if seen["desired"] != "running":
            continue
        assert seen["ready"], f"{row['domain']}: {describe(seen['conditions'])}"
        assert all(c["status"] == "True" for c in seen["conditions"]), describe(seen["conditions"])
        assert all(c["observed_generation"] == seen["generation"] for c in seen["conditions"])
        assert not any(c["stalled"] for c in seen["conditions"])
    keys = {row["key"] for row in rows}
    for kind in ("Instance", "Certificate"):
        for table in ("reconcile_workitem", "reconcile_condition"):
            known = {key for (key,) in live.rows(f"SELECT object_id FROM {table} WHERE kind = %s", kind)}
            assert known == keys, f"{table} {kind}: {known ^ keys}"
    for table, plural in (
        *(("fleet_placement", "placement"), ("turn_turncredential", "TURN secret"), ("fleet_edgeroute", "edge route")),
        *(("certificates_certificate", "certificate"), ("provisioning_probeaccount", "probe account")),
    ):
        owners = Counter(
            key for (key,) in live.rows(f"SELECT key FROM {table} t JOIN tenants_instance i ON i.id = t.instance_id")
        )
        assert owners == Counter(keys), f"{plural}s: {owners}"


def nothing_is_held_by_the_dead(live: Live) -> None:
    for holder, kind, key in live.rows(
        "SELECT holder, kind, object_id FROM reconcile_workitem WHERE leased_until > clock_timestamp()"
    ):
        pid = holder.split(":")[1]
        assert Path(f"/proc/{pid}").exists(), f"{kind} {key} is held by {holder}, who is dead"


def zone_is_what_the_rows_say(live: Live) -> None:
    there = live.records()
    wanted = {
        (name, type): sorted(rdatas)
        for name, type, rdatas in live.rows(
            "SELECT r.name, r.type, r.rdatas FROM zones_dnsrecord r JOIN zones_zone z ON z.id = r.zone_id "
            "WHERE z.name = %s AND r.wanted AND r.publisher = 'ours'",
            ZONE,
        )
    }
    unsettled = "SELECT name, type FROM zones_dnsrecord WHERE NOT wanted OR (publisher = 'ours' AND NOT published)"
    assert live.rows(unsettled) == []
    assert set(there) == set(wanted) | OWN, f"{set(there) ^ (set(wanted) | OWN)}"
    for key, rdatas in wanted.items():
        assert there[key] == rdatas, key


def certificates_are_settled(live: Live) -> None:
    assert live.rows("SELECT count(*) FROM certificates_order WHERE state = 'open' OR published <> '[]'") == [(0,)]
    assert live.rows("SELECT count(*) FROM certificates_certificate WHERE NOT wanted OR serial = ''") == [(0,)]
    assert live.rows("SELECT count(*) FROM certificates_acmeaccount") == [(1,)]


def edge_is_what_the_rows_say(live: Live) -> None:
    """In the running HAProxy and in the files for its next start."""
    rows = live.rows("SELECT hosts, host(address), base_port, proxy65_port FROM fleet_edgeroute")
    hosts = {host: (address, port) for names, address, port, _ in rows for host in names}
    edge = HaproxyEdge(live.layout.edge / "admin.sock", live.layout.edge)
    routes = {host: (backend.address, backend.base_port) for host, backend in edge.routes().items()}
    assert routes == hosts
    assert dict(edge.tcp_ports()) == {proxy65: address for _, address, _, proxy65 in rows}
    for name, wanted in (("backends.map", set(hosts)), ("proxy65.map", {str(row[3]) for row in rows})):
        assert {line.split()[0] for line in (live.layout.edge / name).read_text().splitlines() if line} == wanted


def turn_is_what_the_rows_say(live: Live) -> None:
    """coturn knows the secret of each that runs, and the one before it while that is not retired, and no other."""
    ((wanted,),) = live.rows(
        "SELECT count(*) + count(*) FILTER (WHERE previous_sealed <> '') FROM turn_turncredential AS c"
        " JOIN tenants_instance AS i ON i.id = c.instance_id"
        " WHERE i.suspended_at IS NULL AND i.deletion_requested_at IS NULL"
    )
    with contextlib.closing(sqlite3.connect(live.environment["ROOST_TURN_DATABASE"], timeout=5)) as database:
        ((there,),) = database.execute("SELECT count(*) FROM turn_secret").fetchall()
    assert there == wanted, f"{there} secrets at coturn, {wanted} wanted"


def node_is_what_the_rows_say(live: Live) -> None:
    keys = {key for (key,) in live.rows("SELECT key FROM tenants_instance")}
    base = live.layout.node
    assert {path.name for path in (base / "instances").iterdir()} == keys
    assert set(tenant_users(live.state)) == {f"r-{key}" for key in keys}
    programs = {part.name: part for part in live.node.parts()}
    assert len(programs) == len(keys)
    assert len(list((base / "programs").glob("*.conf"))) == len(keys)
    supervisor = live.node.pid()
    for key in keys:
        (part,) = [part for name, part in programs.items() if key in name]
        assert part.state == "RUNNING", f"{part.name} is {part.state}"
        assert roots_of(pwd.getpwnam(f"r-{key}").pw_uid) == [(part.pid, supervisor)], f"{part.name} runs twice"


def roots_of(uid: int) -> list[tuple[int, int]]:
    """(process, parent) of those processes of a user whose parent is another's: an engine is one, with its helpers."""
    found = {}
    for pid in of_uid(uid):
        with contextlib.suppress(OSError):
            found[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [(pid, parent) for pid, parent in found.items() if parent not in found]
