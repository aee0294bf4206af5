"""XEP-0227 files that others wrote: the standard's examples, and the habits of ejabberd's and Prosody's exporters."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
from pathlib import Path

import pytest

from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import ArchivePage, NotCarried, UserRead
from controlplane.values.errors import InvalidInput
from tests.unit.portable.samples import result

#: XEP-0227 1.1, examples 1 to 15.
EXAMPLES = Path(__file__).parent / "xep0227"


def read(root: Path, **more):
    return list(Bundle(root).items(**more))


def of_text(tmp_path: Path, inside: str, name: str = "x.xml", attributes: str = ""):
    root = tmp_path / hashlib.sha256((inside + attributes).encode()).hexdigest()[:8]
    root.mkdir()
    (root / name).write_text(
        f"<?xml version='1.0'?><server-data xmlns='urn:xmpp:pie:0'><host jid='a.example'>"
        f"<user name='Anna' {attributes}>{inside}</user></host></server-data>"
    )
    return read(root)


def facts_in(items):
    return [fact for item in items if isinstance(item, UserRead) for fact in facts.of_user(item.xml)]


def missed(items):
    return [(item.where, item.what) for item in items if isinstance(item, NotCarried)]


def example(tmp_path: Path, number: int):
    (file,) = EXAMPLES.glob(f"{number:02}-*")
    root = tmp_path / str(number)
    root.mkdir()
    shutil.copy(file, root)
    return read(root)


def kinds(items):
    return {(fact.kind, fact.owner, fact.what) for fact in facts_in(items)}


def test_every_example_of_the_standard_is_read(tmp_path):
    for number in range(1, 16):
        items = example(tmp_path, number)
        assert items, number
    assert len(list(EXAMPLES.iterdir())) == 15


def test_each_kind_of_the_standards_data_is_found(tmp_path):
    assert kinds(example(tmp_path, 4)) >= {("credentials", "juliet", "SCRAM-SHA-1")}
    assert kinds(example(tmp_path, 5)) >= {("contact", "juliet", "romeo@montague.net")}
    assert kinds(example(tmp_path, 6)) >= {("offline message", "juliet", "")}
    assert kinds(example(tmp_path, 7)) >= {("private storage", "hamlet", "{exodus:prefs}exodus")}
    assert kinds(example(tmp_path, 8)) >= {("vCard", "juliet", "")}
    assert kinds(example(tmp_path, 10)) >= {("request", "juliet", "romeo@montague.net"),
                                            ("request", "juliet", "mercutio@montague.net")}  # fmt: skip
    assert kinds(example(tmp_path, 11)) >= {
        ("PEP setting", "romeo", "urn:xmpp:bookmarks:1 pubsub#access_model"),
        ("PEP affiliation", "romeo", "urn:xmpp:bookmarks:1 mercutio@example.net"),
        ("PEP subscription", "romeo", "urn:xmpp:bookmarks:1 mercutio@example.net"),
        ("PEP item", "romeo", "urn:xmpp:bookmarks:1 theplay@conference.shakespeare.lit"),
        ("PEP item", "romeo", "http://jabber.org/protocol/nick current"),
    }  # fmt: skip
    (page,) = [item for item in example(tmp_path, 12) if isinstance(item, ArchivePage)]
    assert [facts.of_message(text).what for text in page.items] == ["28482-98726-73623", "5d398-28273-f7382"]


@pytest.mark.parametrize("number", [4, 5, 6, 7, 8, 10, 11, 12, 15])
def test_nothing_of_the_standards_data_is_lost(tmp_path, number):
    assert missed(example(tmp_path, number)) == []


def test_privacy_lists_become_a_block_list_and_the_rest_is_told(tmp_path):
    items = example(tmp_path, 9)
    assert [fact.what for fact in facts_in(items) if fact.kind == "block"] == ["tybalt@example.com"]
    assert missed(items) == [("user juliet", "2 rules of the privacy list 'private'")]


def test_files_that_were_not_given_are_told(tmp_path):
    assert [what for _, what in missed(example(tmp_path, 13))] == ["the file 'capulet.com.xml'",
                                                                  "the file 'montague.net.xml'"]  # fmt: skip


def test_files_that_include_each_other_are_one_server(tmp_path):
    names = {13: "main.xml", 14: "capulet.com.xml", 15: "capulet.com/juliet.xml"}
    (tmp_path / "capulet.com").mkdir()
    for number, name in names.items():
        (file,) = EXAMPLES.glob(f"{number:02}-*")
        shutil.copy(file, tmp_path / name)
    items = read(tmp_path)
    assert [(user.host, user.name) for user in items if isinstance(user, UserRead)] == [("capulet.com", "juliet")]
    assert {what for _, what in missed(items)} == {"the file 'capulet.com/mercutio.xml'", "the file 'montague.net.xml'"}


def test_an_account_without_a_host_gets_the_callers(tmp_path):
    (file,) = EXAMPLES.glob("15-*")
    shutil.copy(file, tmp_path)
    (item,) = read(tmp_path, host="acme.example")
    assert (item.host, item.name) == ("acme.example", "juliet")


def scram_of(items):
    from xml.etree import ElementTree

    space = "{urn:xmpp:pie:0#scram}"
    (user,) = [item for item in items if isinstance(item, UserRead)]
    return {
        element.get("mechanism"): {child.tag.removeprefix(space): child.text for child in element}
        for element in ElementTree.fromstring(user.xml).iter(f"{space}scram-credentials")
    }


def test_a_plain_password_becomes_scram_credentials_that_log_in(tmp_path):
    """The arithmetic of RFC 5802 §3 from the client's side: what the client sends proves the stored key."""
    found = scram_of(of_text(tmp_path, "", attributes="password='geh&#xAA;im'"))  # U+00AA: SASLprep makes it an a
    assert set(found) == {"SCRAM-SHA-1", "SCRAM-SHA-256"}
    for mechanism, name in (("SCRAM-SHA-1", "sha1"), ("SCRAM-SHA-256", "sha256")):
        values = found[mechanism]
        salted = hashlib.pbkdf2_hmac(name, b"geha\xc3\xadm".replace(b"\xc3\xad", b"i"),
                                     base64.b64decode(values["salt"]), int(values["iter-count"]))  # fmt: skip
        client_key = hmac.new(salted, b"Client Key", name).digest()
        assert base64.b64decode(values["stored-key"]) == hashlib.new(name, client_key).digest()
        assert base64.b64decode(values["server-key"]) == hmac.new(salted, b"Server Key", name).digest()


def test_no_plain_password_is_left(tmp_path):
    (user,) = of_text(tmp_path, "", attributes="password='geheim'")
    assert "geheim" not in user.xml
    assert user.name == "anna"


def test_scram_vector_of_the_rfc(tmp_path):
    """RFC 5802 §5: user, pencil, 4096 rounds, as ejabberd wrote it before it had an element for that."""
    salt = base64.b64decode("QSXCR+Q6sek8bf92")
    salted = hashlib.pbkdf2_hmac("sha1", b"pencil", salt, 4096)
    stored = base64.b64encode(hashlib.sha1(hmac.new(salted, b"Client Key", "sha1").digest()).digest()).decode()
    server = base64.b64encode(hmac.new(salted, b"Server Key", "sha1").digest()).decode()
    assert (stored, server) == ("6dlGYMOdZcOPutkcNY8U2g7vK9Y=", "D+CSWLOshSulAsxiupA+qs2/fTE=")
    old = f"password='scram:{stored},{server},QSXCR+Q6sek8bf92,4096'"
    assert scram_of(of_text(tmp_path, "", attributes=old)) == {
        "SCRAM-SHA-1": {"iter-count": "4096", "salt": "QSXCR+Q6sek8bf92", "server-key": server, "stored-key": stored}
    }
    newer = f"password='scram:sha,{stored},{server},QSXCR+Q6sek8bf92,4096'"
    assert set(scram_of(of_text(tmp_path, "", attributes=newer))) == {"SCRAM-SHA-1"}


@pytest.mark.parametrize(
    "password", ["scram:", "scram:a,b,c,d", "scram:md5,YQ==,YQ==,YQ==,1", "scram:YQ==,YQ==,YQ==,1", "&#x7f;", "&#xAD;",
                 "scram:6dlGYMOdZcOPutkcNY8U2g7vK9Y=,D+CSWLOshSulAsxiupA+qs2/fTE=,YQ==,9999999999"]
)  # fmt: skip
def test_a_password_that_cannot_be_is_told_and_the_account_is_there(tmp_path, password):
    items = of_text(tmp_path, "", attributes=f"password='{password}'")
    assert missed(items) == [("user anna", "password")]
    assert scram_of(items) == {}


@pytest.mark.parametrize(
    ("mechanism", "stored"),
    [
        ("PLAIN", "Q6qT/SbybblGCZz8e8eSfCJOQic="),
        ("SCRAM-SHA-256", "Q6qT/SbybblGCZz8e8eSfCJOQic="),
        ("SCRAM-SHA-1", "*"),
        ("SCRAM-SHA-1", ""),
    ],
)
def test_credentials_that_no_engine_can_use_are_told(tmp_path, mechanism, stored):
    items = of_text(
        tmp_path,
        f"<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='{mechanism}'><iter-count>1</iter-count>"
        f"<salt>YQ==</salt><server-key>0pXWGK0GZJ6TR73AIUN3ITYtA1g=</server-key><stored-key>{stored}</stored-key>"
        "</scram-credentials>",
    )
    assert missed(items) == [("user anna", "scram-credentials")]


def test_an_archive_that_stands_before_the_rest_comes_after_the_account(tmp_path):
    inside = (
        "<archive xmlns='urn:xmpp:pie:0#mam'>" + "".join(map(result, range(1200))) + "</archive>"
        "<vCard xmlns='vcard-temp'><FN>A</FN></vCard>"
    )
    items = of_text(tmp_path, inside)
    assert [type(item).__name__ for item in items] == ["UserRead"] + ["ArchivePage"] * 3
    assert "vCard" in items[0].xml
    assert [text for page in items[1:] for text in page.items] == [result(n) for n in range(1200)]


def test_a_message_without_an_identifier_gets_the_same_each_time(tmp_path):
    inside = f"<archive xmlns='urn:xmpp:pie:0#mam'>{result(1).replace(chr(39) + 'm1' + chr(39), chr(39) * 2)}</archive>"
    first = of_text(tmp_path, inside)[1].items[0]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert of_text(tmp_path, inside)[1].items[0] == first
    assert len(facts.of_message(first).what) == 32


def test_what_has_no_place_is_told_and_not_handed_on(tmp_path):
    items = of_text(
        tmp_path,
        "<x xmlns='urn:other'>1</x><presence xmlns='jabber:client' type='unavailable' from='a@b'/>"
        "<offline-messages><iq xmlns='jabber:client'/></offline-messages>"
        "<archive xmlns='urn:xmpp:pie:0#mam'><result xmlns='urn:xmpp:mam:2' id='7'/><other/></archive>",
        attributes="xmlns:p='http://prosody.im/protocol/extended-xep0227' p:created='1700000000'",
    )
    assert [what for _, what in missed(items)] == [
        "attribute created", "<x xmlns='urn:other'/>", "presence of type 'unavailable'",
        "<iq/> among offline messages", "the message '7' of the archive", "the message 'other' of the archive",
    ]  # fmt: skip
    assert [item.xml for item in items if isinstance(item, UserRead)] == ["<user xmlns='urn:xmpp:pie:0' name='anna'/>"]


def test_prosodys_subscriptions_are_read_in_spite_of_its_mistake(tmp_path):
    items = of_text(
        tmp_path,
        "<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><subscriptions node='n'>"
        "<subscription jid='b@c' subscribed='subscribed'/></subscriptions></pubsub>",
    )
    (fact,) = [fact for fact in facts_in(items) if fact.kind == "PEP subscription"]
    assert (fact.what, fact.value) == ("n b@c", "subscribed")


def test_prosodys_requests_are_read_though_they_have_no_namespace(tmp_path):
    items = of_text(tmp_path, "<presence type='subscribe' from='b@c'/>")
    assert [fact.what for fact in facts_in(items) if fact.kind == "request"] == ["b@c"]
    assert "<presence xmlns='jabber:client'" in items[0].xml


def test_ejabberds_keys_are_unwrapped_and_others_are_left(tmp_path):
    """It exports in base64 twice."""
    keys = {"salt": b"saltsalt", "server-key": bytes(range(20)), "stored-key": bytes(range(20, 40))}
    for times in (1, 2):
        values = keys
        for _ in range(times):
            values = {name: base64.b64encode(value) for name, value in values.items()}
        inside = "".join(f"<{name}>{value.decode()}</{name}>" for name, value in values.items())
        items = of_text(
            tmp_path,
            "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>4096</iter-count>"
            f"{inside}</scram-credentials>",
        )
        found = scram_of(items)["SCRAM-SHA-1"]
        assert {name: base64.b64decode(found[name]) for name in keys} == keys
        assert found["iter-count"] == "4096"


def test_prosodys_migrator_has_its_hashes_called_by_their_name(tmp_path):
    """Whatever it keeps, it writes SCRAM-SHA-1."""
    keys = {"salt": b"salt", "server-key": bytes(range(32)), "stored-key": bytes(range(32, 64))}
    inside = "".join(f"<{name}>{base64.b64encode(value).decode()}</{name}>" for name, value in keys.items())
    items = of_text(
        tmp_path,
        "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>10000</iter-count>"
        f"{inside}</scram-credentials>",
    )
    found = scram_of(items)["SCRAM-SHA-256"]
    assert {name: base64.b64decode(found[name]) for name in keys} == keys
    assert missed(items) == []


def test_the_old_namespace_is_read(tmp_path):
    old = "http://www.xmpp.org/extensions/xep-0227.html#ns"
    (tmp_path / "x.xml").write_text(
        f"<server-data xmlns='{old}'><host jid='a.example'><user name='u' password='p'><offline-messages>"
        "<message xmlns='jabber:client' from='a@b'/></offline-messages></user></host></server-data>"
    )
    items = read(tmp_path)
    assert kinds(items) >= {("offline message", "u", ""), ("credentials", "u", "SCRAM-SHA-1")}
    assert missed(items) == []


def test_a_file_an_account_is_one_server_too(tmp_path):
    """As Prosody's mod_storage_xep0227 keeps them: user@host.xml."""
    for name in ("a", "b"):
        (tmp_path / f"{name}@x.example.xml").write_text(
            f"<server-data xmlns='urn:xmpp:pie:0'><host jid='x.example'><user name='{name}'/></host></server-data>"
        )
    assert [item.name for item in read(tmp_path)] == ["a", "b"]


def test_names_that_cannot_be_are_told_with_all_they_have(tmp_path):
    for number, name in enumerate(["", "a b", "a/b", "x" * 2000]):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "x.xml").write_text(
            f"<server-data xmlns='urn:xmpp:pie:0'><host jid='a.example'><user name='{name}' password='p'>"
            f"<archive xmlns='urn:xmpp:pie:0#mam'>{result(1)}</archive><vCard xmlns='vcard-temp'/></user>"
            "<user name='ok'/></host></server-data>"
        )
        items = read(root)
        assert [type(item).__name__ for item in items] == ["NotCarried", "UserRead"]
        assert items[1].name == "ok"


@pytest.mark.parametrize("files", [{}, {"a.txt": "x"}, {"a.xml": "<html/>"}, {"a.xml": "no XML"}])
def test_what_is_no_such_file_is_refused(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput):
        read(tmp_path)
