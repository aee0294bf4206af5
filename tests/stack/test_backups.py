"""Backups of running servers: nobody is thrown out, and plain restic with the tenant's own key reads what came of it.

What is compared was made by clients and the API; it is read by restic, tar and an XML parser, not by Roost.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from controlplane.portable.bundle import Bundle
from controlplane.probes import https
from controlplane.probes.client import ProbeClient, q
from controlplane.probes.lookup import Lookup
from tests.stack.live import Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

LONG_S = 300.0
UPLOAD, PING = "urn:xmpp:http:upload:0", "urn:xmpp:ping"
WORDS = "Meet me at <noon> & bring tea ☕"
PIE, OURS = "{urn:xmpp:pie:0}", "{urn:roost:portable:1}"


def back_up(live: Live, tenant: Tenant, kind: str = "full") -> str:
    return str(live.api.post(f"{tenant.path}backups/", {"kind": kind})["key"])


def done(live: Live, key: str) -> Any:
    """The backup once it is there."""

    def look() -> Any:
        seen = live.api.get(f"backups/{key}/")
        if seen["state"] in ("failed", "cancelled", "expired"):
            raise RuntimeError(f"no backup: {seen}")
        return seen if seen["state"] == "done" else None

    return until(look, f"backup {key} is done", timeout_s=LONG_S)


async def upload(live: Live, tenant: Tenant, client: ProbeClient, data: bytes) -> None:
    """A file by XEP-0363, as a client does it."""
    wanted = {"filename": "plan ü.bin", "size": str(len(data)), "content-type": "application/octet-stream"}
    slot = await client.iq("get", f"upload.{tenant.domain}", ET.Element(q("request", UPLOAD), wanted))
    put = slot.find(f".//{q('put', UPLOAD)}")
    assert put is not None
    headers = {h.get("name", ""): (h.text or "").strip() for h in put.iter(q("header", UPLOAD))}
    url = put.get("url", "")
    assert urlsplit(url).hostname
    answer = await https.request(
        "PUT",
        url,
        lookup=Lookup(live.resolver),
        roots_pem=live.roots,
        headers={**headers, "Content-Type": "application/octet-stream"},
        body=data,
        timeout_s=20,
    )
    assert answer.status in (200, 201), answer


def fill(live: Live, tenant: Tenant) -> tuple[str, str]:
    """Two people, and a room that one owns and the other is a member of."""
    romeo, juliet = live.account(tenant, "romeo"), live.account(tenant, "juliet")
    answer = live.api.ask("POST", f"{tenant.path}rooms/", {"name": "balcony", "owner": juliet, "title": "Balcony"})
    assert answer.status in (201, 409), answer
    live.api.do("PUT", f"{tenant.path}rooms/balcony/affiliations/{romeo}/", {"affiliation": "member"})
    return romeo, juliet


def test_saved_while_a_client_stays_and_read_by_plain_restic(live: Live, tenant: Tenant, tmp_path: Path) -> None:
    _, juliet = fill(live, tenant)
    data = os.urandom(700_000)

    async def stay() -> Any:
        """Both are online before, while and after it is saved, on the same streams."""
        async with live.client(tenant, "romeo") as one, live.client(tenant, "juliet") as other:
            await one.send_presence()
            await other.send_presence()
            await upload(live, tenant, one, data)
            await one.send_message(juliet, WORDS)
            await other.wait_message(lambda m: m.findtext(q("body")) == WORDS, timeout_s=30)
            before = one.jid
            key = await asyncio.to_thread(back_up, live, tenant)
            waiting = asyncio.create_task(asyncio.to_thread(done, live, key))
            number = 0
            while not waiting.done():
                await one.send_message(juliet, f"still here {number}")
                said = f"still here {number}"
                await other.wait_message(lambda m, said=said: m.findtext(q("body")) == said, timeout_s=30)
                number += 1
                await asyncio.sleep(0.3)
            await one.iq("get", tenant.domain, ET.Element(q("ping", PING)), timeout_s=20)
            assert one.jid == before
            assert number > 0
            return await waiting

    seen = asyncio.run(stay())
    assert seen["snapshot"]
    assert set(seen["moments"]) == {"accounts", "rooms", "archives", "uploads"}
    assert seen["counts"]["accounts"] >= 2
    assert seen["bytes"] > len(data)

    handed = live.api.post(f"{tenant.path}backup-key/")
    restore(handed, seen["snapshot"], tmp_path / "restored")
    check_bundle(live, tenant, tmp_path / "restored", data)

    request = urllib.request.Request(
        f"{live.layout.web_url}/api/v1/backups/{seen['key']}/bundle/",
        headers={"Authorization": f"Bearer {live.api.token}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as answer:
        packed = answer.read()
    (tmp_path / "taken").mkdir()
    subprocess.run(["tar", "-xzf", "-", "-C", str(tmp_path / "taken")], input=packed, check=True, timeout=60)
    check_bundle(live, tenant, tmp_path / "taken", data)

    # The key that was handed out before opens it no more, and one that was taken back neither.
    again = live.api.post(f"{tenant.path}backup-key/")
    assert restic(handed, "snapshots").returncode != 0
    assert restic(again, "snapshots").returncode == 0
    live.api.do("DELETE", f"{tenant.path}backup-key/")
    assert restic(again, "snapshots").returncode != 0
    fresh = until(lambda: backed_up(live, tenant), "the clock says that it is fresh", timeout_s=60)
    assert fresh["status"] == "True"
    nothing_left(live)


def nothing_left(live: Live) -> None:
    """In the spool; other tenants' backups may be under way for a moment."""
    until(lambda: not list((live.state / "spool").iterdir()), "the spool is empty", timeout_s=LONG_S)


def backed_up(live: Live, tenant: Tenant) -> Any:
    rows = [row for row in live.api.all("backup-repositories/") if row["instance"] == tenant.key]
    found = [c for row in rows for c in row["conditions"] if c["type"] == "BackedUp" and c["reason"] == "Fresh"]
    return found[0] if found else None


def restic(handed: Any, *words: str) -> subprocess.CompletedProcess[str]:
    """Nothing of Roost's: the program, the address, and the key that was shown once."""
    return subprocess.run(
        ["restic", "-r", handed["url"], "--no-lock", "--no-cache", *words],
        env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": handed["key"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def restore(handed: Any, snapshot: str, target: Path) -> None:
    said = restic(handed, "restore", snapshot, "--target", str(target))
    assert said.returncode == 0, said.stderr


def check_bundle(live: Live, tenant: Tenant, place: Path, data: bytes) -> None:
    """Every digest, and by an XML parser what clients and the API made."""
    Bundle(place).check()
    users = {}
    for part in sorted(place.glob("accounts-*.xml")):
        for user in ET.parse(part).getroot().iter(f"{PIE}user"):
            users[user.get("name")] = user
    assert {"romeo", "juliet"} <= set(users)
    assert "roost-probe" not in users
    tags = {child.tag for child in users["romeo"]}
    assert "{urn:xmpp:pie:0#scram}scram-credentials" in tags
    assert tenant.passwords["romeo"].encode() not in b"".join(p.read_bytes() for p in place.glob("accounts-*.xml"))
    said = [body.text for p in place.glob("archives/juliet/*.xml") for body in ET.parse(p).getroot().iter(q("body"))]
    assert said.count(WORDS) >= 1
    rooms = [room for part in place.glob("rooms-*.xml") for room in ET.parse(part).getroot().iter(f"{OURS}room")]
    (room,) = [room for room in rooms if room.get("name") == "balcony"]
    lists = {item.get("jid"): item.get("affiliation") for item in room.iter(f"{OURS}item")}
    assert lists[tenant.jid("juliet")] == "owner"
    assert lists[tenant.jid("romeo")] == "member"
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in place.glob("uploads/*/*")}
    assert hashlib.sha256(data).hexdigest() in digests


def test_members_alone_are_small_and_have_no_archives(live: Live, tenant: Tenant, tmp_path: Path) -> None:
    fill(live, tenant)
    seen = done(live, back_up(live, tenant, "members"))
    assert set(seen["moments"]) == {"accounts", "rooms"}
    handed = live.api.post(f"{tenant.path}backup-key/")
    restore(handed, seen["snapshot"], tmp_path / "members")
    Bundle(tmp_path / "members").check()
    assert not (tmp_path / "members" / "archives").exists()
    assert not (tmp_path / "members" / "uploads").exists()


@pytest.mark.parametrize("point", ["before-backup-export", "after-backup-export", "after-backup-save"])
def test_a_worker_that_is_killed_leaves_nothing_that_counts(live: Live, tenants: dict[str, Tenant], point: str) -> None:
    tenant = tenants["prosody"]
    fill(live, tenant)
    (live.fault_dir / point).touch()
    key = back_up(live, tenant, "members")
    seen = done(live, key)
    assert not (live.fault_dir / point).exists()
    handed = live.api.post(f"{tenant.path}backup-key/")
    said = restic(handed, "snapshots", "--json", "--tag", f"backup-{key}")
    assert said.returncode == 0, said.stderr
    assert said.stdout.count('"tree"') == 1
    assert seen["snapshot"] in said.stdout
    nothing_left(live)


def test_called_off(live: Live, tenants: dict[str, Tenant]) -> None:
    """At a kilobyte a second it takes its time; then it is called off, and nothing is there."""
    tenant = tenants["ejabberd"]
    place = live.api.get("backup-places/local/")
    live.api.do("PATCH", "backup-places/local/", {"upload_kib_s": 1})
    try:
        key = back_up(live, tenant)
        until(
            lambda: live.api.get(f"backups/{key}/")["progress"].get("phase") in ("uploads", "saving"),
            "it is being made, slowly",
            timeout_s=LONG_S,
        )
        live.api.post(f"backups/{key}/cancel/")
        seen = until(
            lambda: (row := live.api.get(f"backups/{key}/"))["state"] == "cancelled" and row,
            "it is called off",
            timeout_s=60,
        )
        assert seen["snapshot"] == ""
    finally:
        live.api.do("PATCH", "backup-places/local/", {"upload_kib_s": place["upload_kib_s"]})
    nothing_left(live)
