"""A stock ejabberd, not set up by Roost: what its own exporter writes is read, and it imports a bundle of ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import NotCarried, UserRead
from controlplane.portable.manifest import About
from controlplane.portable.scram import of_password
from controlplane.portable.sinks import Directory
from controlplane.portable.writer import Writer
from controlplane.portable.xmltext import to_text
from tests.contract.probes.world import listening, running, wait_for

pytestmark = pytest.mark.servers

ADDRESS, PORT, HOST = "127.57.0.1", 7280, "elsewhere.example"
LIB = "/usr/lib/x86_64-linux-gnu"


class Ejabberd:
    """Commands over its HTTP API."""

    def __call__(self, command: str, **words: object) -> object:
        request = urllib.request.Request(f"http://{ADDRESS}:{PORT}/api/{command}", json.dumps(words).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@pytest.fixture(scope="module", params=["scram", "plain"])
def call(request, tmp_path_factory) -> Iterator[Ejabberd]:
    directory = tmp_path_factory.mktemp(request.param)
    names = ["http_api", "admin_extra", "blocking", "offline", "privacy", "private", "roster", "vcard", "last"]
    handlers = {"/api": "mod_http_api"}
    config = {
        "hosts": [HOST],
        "auth_password_format": request.param,
        "default_db": "mnesia",
        "listen": [{"ip": ADDRESS, "port": PORT, "module": "ejabberd_http", "request_handlers": handlers}],
        "api_permissions": {"all": {"who": {"ip": "127.0.0.0/8"}, "what": "*"}},
        "modules": {f"mod_{name}": {} for name in names},
    }
    (directory / "ejabberd.yml").write_text(json.dumps(config))
    argv = ["erl", "-pa", f"{LIB}/ejabberd-23.01-1/ebin", "-noinput", "+S", "1:1", "+sbwt", "none"]
    argv += ["-mnesia", "dir", f'"{directory}/spool"', "-s", "ejabberd"]
    env = {"EJABBERD_CONFIG_PATH": f"{directory}/ejabberd.yml", "EJABBERD_LOG_PATH": f"{directory}/ejabberd.log",
           "ERL_LIBS": LIB, "HOME": str(directory)}  # fmt: skip
    with running(argv, directory, env=env) as process:
        wait_for("ejabberd", lambda: listening(ADDRESS, PORT), process=process)
        made = Ejabberd()
        made.kind = request.param
        made.directory = directory
        yield made


def exported(call: Ejabberd, name: str) -> Path:
    root = call.directory / name
    root.mkdir()
    assert call("export_piefxis", dir=str(root)) == 0
    return root


def facts_at(root: Path, **more: object) -> set[tuple[str, str, str, str]]:
    items = list(Bundle(root).items())
    assert [item for item in items if isinstance(item, NotCarried)] == more.get("missed", [])
    return {
        (fact.kind, fact.owner, fact.what, fact.value)
        for item in items
        if isinstance(item, UserRead)
        for fact in facts.of_user(item.xml)
    }


def test_its_own_export_is_taken_in(call):
    for name in ("anna", "bert"):
        call("register", user=name, host=HOST, password="geheim 1")
    contact = {"localuser": "anna", "localserver": HOST, "user": "zoë", "server": "b.example", "nick": "Z & 'ö'"}
    call("add_rosteritem", **contact, group="Freunde", subs="both")
    call("set_nickname", user="anna", host=HOST, nickname="Ännchen")
    call("private_set", user="anna", host=HOST, element="<exodus xmlns='exodus:prefs'><nick>A</nick></exodus>")
    blocked = "<item type='jid' value='spam@evil.example' action='deny' order='1'/>"
    for inside in (f"<list name='Blocked contacts'>{blocked}</list>", "<default name='Blocked contacts'/>"):
        query = f"<query xmlns='jabber:iq:privacy'>{inside}</query>"
        call("privacy_set", user="anna", host=HOST, xmlquery=query)
    ends = {"from": f"bert@{HOST}", "to": f"anna@{HOST}"}
    call("send_message", type="chat", subject="", body="while you were out", **ends)
    root = exported(call, "export")
    assert len(list(root.iterdir())) == 2, "a main file and one of the host"
    found = facts_at(root)
    kinds = {(kind, owner, what) for kind, owner, what, _ in found}
    assert kinds >= {
        ("account", "anna", ""), ("account", "bert", ""), ("contact", "anna", "zoë@b.example"), ("vCard", "anna", ""),
        ("private storage", "anna", "{exodus:prefs}exodus"), ("block", "anna", "spam@evil.example"),
        ("credentials", "anna", "SCRAM-SHA-1"), ("credentials", "bert", "SCRAM-SHA-1"),
    }  # fmt: skip
    assert ("contact", "anna", "zoë@b.example", repr(("Z & 'ö'", "both", "", False, ["Freunde"]))) in found
    assert any(kind == "offline message" and "while you were out" in value for kind, _, _, value in found)
    if call.kind == "scram":
        (value,) = {value for kind, owner, _, value in found if (kind, owner) == ("credentials", "anna")}
        assert value == f"4096 {' '.join(_by_hand(call, 'geheim 1'))}"
    else:
        assert "geheim" not in "".join(item.xml for item in Bundle(root).items())


def _by_hand(call: Ejabberd, password: str) -> list[str]:
    """The keys (RFC 5802 §3) for the salt that ejabberd chose, as facts name them."""
    (file,) = (call.directory / "export").glob("*_elsewhere_example.xml")
    salt = base64.b64decode(base64.b64decode(re.search("<salt>(.*?)</salt>", file.read_text())[1]))
    salted = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 4096)
    server = hmac.digest(salted, b"Server Key", "sha1")
    stored = hashlib.sha1(hmac.digest(salted, b"Client Key", "sha1")).digest()
    return [f"salt {salt.hex()}", f"server-key {server.hex()}", f"stored-key {stored.hex()}"]


def test_it_imports_a_bundle_of_ours(call):
    """Leaving without Roost: accounts, contacts, vCard and private storage by ejabberd's importer.

    The keys are there, but 23.01 cannot log in with them: it expects them in base64 twice, against XEP-0227 §4.4.
    """
    if call.kind != "scram":
        pytest.skip("an ejabberd that keeps plain passwords takes no SCRAM credentials")
    root = call.directory / "ours"
    inside = "".join(to_text(element) for element in of_password("was mine") if "SHA-1" in str(element.attrib))
    inside += (
        "<query xmlns='jabber:iq:roster'><item jid='x@b.example' name='X' subscription='to'><group>G</group></item>"
        "</query>"
        "<vCard xmlns='vcard-temp'><FN>Clara</FN></vCard>"
        "<query xmlns='jabber:iq:private'><a xmlns='urn:a'>b</a></query>"
    )
    archive = [
        f"<result xmlns='urn:xmpp:mam:2' id='{n}'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay'"
        f" stamp='2026-01-01T00:00:00Z'/><message xmlns='jabber:client' from='a@b'/></forwarded></result>"
        for n in range(3)
    ]
    with Writer(Directory(root), About(HOST, "2026-01-01T00:00:00Z"), part_bytes=100) as writer:
        for name in ("clara", "dora"):
            writer.add_user(f"<user xmlns='urn:xmpp:pie:0' name='{name}'>{inside}</user>", archive)
    assert len(list(root.glob("accounts-*.xml"))) == 2
    call("import_piefxis", file=str(root / "accounts.xml"))
    for name in ("clara", "dora"):
        (contact,) = call("get_roster", user=name, server=HOST)
        assert (contact["jid"], contact["nick"], contact["subscription"]) == ("x@b.example", "X", "to")
        assert call("get_vcard", user=name, host=HOST, name="FN") == {"content": "Clara"}
    again = {fact for fact in facts_at(exported(call, "again")) if fact[1] in ("clara", "dora")}
    assert len(again) == 10
    ours = {
        (fact.kind, fact.owner, fact.what, fact.value)
        for item in Bundle(root).items()
        if isinstance(item, UserRead)
        for fact in facts.of_user(item.xml)
    }
    assert again == ours
