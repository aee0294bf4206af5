"""An organisation comes from another server: its file is handed in, previewed, confirmed, and its people log in.

Also when the worker is killed on the way, when the plan is too small, and when somebody calls it off.
"""

from __future__ import annotations

import io
import json
import tarfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.stack.live import Answer, Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[1] / "unit/portable/xep0227"
LONG_S = 120.0
DOMAIN = "old.example"


@pytest.fixture(autouse=True)
def _none_is_open(live: Live, tenant: Tenant) -> None:
    """What a test before left open, because it failed, is called off."""
    for row in live.api.all(f"{tenant.path}imports/"):
        if row["state"] not in ("done", "failed", "cancelled"):
            live.api.post(f"imports/{row['key']}/cancel/")
            reached(live, row["key"], "done", "failed", "cancelled")


def document(names: list[str], *, messages: int = 3) -> bytes:
    """Another server's file: passwords in the clear, contacts, a bit of an archive."""
    users = []
    for name in names:
        said = "".join(
            f"<result xmlns='urn:xmpp:mam:2' id='{name}-{n}'><forwarded xmlns='urn:xmpp:forward:0'><delay"
            f" xmlns='urn:xmpp:delay' stamp='2026-11-01T10:{n // 60:02}:{n % 60:02}Z'/><message xmlns='jabber:client'"
            f" type='chat' from='{name}@{DOMAIN}/x' to='{names[0]}@{DOMAIN}'><body>no {n}</body></message></forwarded>"
            "</result>"
            for n in range(messages)
        )
        users.append(
            f"<user name='{name}' password='secret of {name}'><query xmlns='jabber:iq:roster'><item"
            f" jid='{names[0]}@{DOMAIN}' subscription='both'/></query>"
            f"<archive xmlns='urn:xmpp:pie:0#mam'>{said}</archive><strange xmlns='urn:example:strange'/></user>"
        )
    text = f"<server-data xmlns='urn:xmpp:pie:0'><host jid='{DOMAIN}'>{''.join(users)}</host></server-data>"
    return text.encode()


def hand_in(live: Live, tenant: Tenant, content: bytes, **fields: str) -> Answer:
    """As a browser or curl does it: multipart/form-data."""
    mark = uuid.uuid4().hex
    field = f'--{mark}\r\nContent-Disposition: form-data; name="'
    parts = [f'{field}{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    head = f'{field}file"; filename="export.xml"\r\n\r\n'
    body = b"".join([*parts, head.encode(), content, f"\r\n--{mark}--\r\n".encode()])
    headers = {"Authorization": f"Bearer {live.api.token}", "Content-Type": f"multipart/form-data; boundary={mark}"}
    url = f"{live.layout.web_url}/api/v1/{tenant.path}imports/"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return Answer(answer.status, json.loads(answer.read()), dict(answer.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, json.loads(error.read()), dict(error.headers))


def reached(live: Live, key: str, *states: str) -> Any:
    def look() -> Any:
        row = live.api.get(f"imports/{key}/")
        assert row["state"] in states, (row["state"], row["error"])
        return row

    return until(look, f"import {key} is {' or '.join(states)}", timeout_s=LONG_S)


def previewed(live: Live, tenant: Tenant, content: bytes, **fields: str) -> Any:
    answer = hand_in(live, tenant, content, **fields)
    assert answer.status == 202, answer
    return reached(live, answer.body["key"], "previewed", "failed")


def gone_through(live: Live, tenant: Tenant, content: bytes, **fields: str) -> tuple[Any, Any]:
    """The preview's row and the end's."""
    before = previewed(live, tenant, content, **fields)
    assert before["state"] == "previewed", before
    live.api.post(f"imports/{before['key']}/confirm/")
    return before, reached(live, before["key"], "done", "failed")


def test_people_come_with_all_they_have(live: Live, tenant: Tenant) -> None:
    names = [f"mover{n}" for n in range(4)]
    before, after = gone_through(live, tenant, document(names))
    assert after["state"] == "done", after
    preview, report = before["preview"], after["report"]
    assert (preview["host"], preview["renamed"]) == (DOMAIN, {"from": DOMAIN, "to": tenant.domain})
    assert preview["accounts"]["new"] + preview["accounts"]["existing"] == 4
    assert (preview["messages"], preview["blocked"]) == (12, [])
    assert report["messages"] == 12
    assert report["not_carried_total"] == 4
    assert {what for _, what, _ in report["not_carried"]} == {"<strange xmlns='urn:example:strange'/>"}
    for name in names:
        tenant.passwords[name] = f"secret of {name}"
        live.login(tenant, name)
    exported = live.control(tenant).export_user(local(names[1]))
    assert f"{names[0]}@{tenant.domain}" in exported
    assert DOMAIN not in exported
    _, again = gone_through(live, tenant, document(names))
    assert (again["report"]["made"], again["report"]["changed"]) == (0, 0)
    assert not list(Path(live.environment["ROOST_SPOOL_DIR"]).glob(f"import-{again['key']}"))


def local(name: str) -> Any:
    from controlplane.values.names import Localpart

    return Localpart(name)


def test_the_standards_examples_go_through(live: Live, tenant: Tenant) -> None:
    """Each file alone; those that have no account end with the reason, none ends without one."""
    for path in sorted(EXAMPLES.glob("*.xml")):
        row = previewed(live, tenant, path.read_bytes())
        if row["state"] == "failed":
            assert row["error"], path.name
            continue
        live.api.post(f"imports/{row['key']}/confirm/")
        after = reached(live, row["key"], "done", "failed")
        assert after["state"] == "done", (path.name, after)
    names = [row["username"] for row in live.api.all(f"{tenant.path}accounts/")]
    assert {"juliet", "romeo", "hamlet"} <= set(names)


def test_a_file_that_does_harm_is_refused_with_its_reason(live: Live, tenant: Tenant) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        member = tarfile.TarInfo("../../outside.xml")
        member.size = 4
        file.addfile(member, io.BytesIO(b"<a/>"))
    for content in (b"no xml at all", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", stream.getvalue()):
        row = previewed(live, tenant, content)
        assert (row["state"], bool(row["error"])) == ("failed", True), row


def test_what_the_plan_does_not_allow_is_not_begun(live: Live, tenant: Tenant) -> None:
    """The plan small has 25 accounts. Nothing of the file is there afterwards."""
    row = previewed(live, tenant, document([f"crowd{n}" for n in range(26)], messages=0))
    assert row["preview"]["blocked"], row
    answer = live.api.ask("POST", f"imports/{row['key']}/confirm/", {})
    assert (answer.status, answer.body["code"]) == (422, "quota-exceeded"), answer
    live.api.post(f"imports/{row['key']}/cancel/")
    assert reached(live, row["key"], "cancelled")
    assert not [row for row in live.api.all(f"{tenant.path}accounts/") if row["username"].startswith("crowd")]


def test_a_killed_worker_costs_nothing(live: Live, tenant: Tenant) -> None:
    """SIGKILL before it is looked through, before the first account, and after the last message."""
    names = [f"phoenix{n}" for n in range(3)]
    for point in ("import-unpacked", "import-begun", "import-taken"):
        (live.fault_dir / point).touch()
    before, after = gone_through(live, tenant, document(names, messages=40))
    assert after["state"] == "done", after
    assert not [
        point for point in ("import-unpacked", "import-begun", "import-taken") if (live.fault_dir / point).exists()
    ]
    assert after["attempts"] >= 2
    assert before["preview"]["messages"] == 120
    archived = live.control(tenant).export_archive(owner=local(names[2]), limit=500)[0]
    assert len(archived) == 40
    tenant.passwords[names[2]] = f"secret of {names[2]}"
    live.login(tenant, names[2])
