"""One's own domains under another name: everywhere where an address stands, and nowhere else."""

from __future__ import annotations

import hashlib

import pytest

from controlplane.backups.mapping import DomainMapping, between

OLD = {"muc": "conference.old.example", "upload": "upload.old.example", "proxy": "proxy.old.example"}
NEW = {"muc": "conference.new.example", "upload": "upload.new.example", "proxy": "proxy.new.example"}


@pytest.fixture
def mapping() -> DomainMapping:
    return DomainMapping(between(OLD, "old.example", NEW, "new.example"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("old.example", "new.example"),
        ("ann@old.example", "ann@new.example"),
        ("ann@OLD.example/Phone @ home", "ann@new.example/Phone @ home"),
        ("lobby@conference.old.example/Änn", "lobby@conference.new.example/Änn"),
        ("xmpp:lobby@conference.old.example?join", "xmpp:lobby@conference.new.example?join"),
        ("https://upload.old.example/file_share/abc/x.png", "https://upload.new.example/file_share/abc/x.png"),
        (
            "aesgcm://upload.old.example/file_share/abc/x.png#00ff",
            "aesgcm://upload.new.example/file_share/abc/x.png#00ff",
        ),
        ("https://upload.old.example:5443/x", "https://upload.new.example:5443/x"),
    ],
)
def test_addresses_of_ours_get_the_new_name(mapping: DomainMapping, before: str, after: str) -> None:
    assert mapping.value(before, "here") == after
    assert mapping.rewritten == {"here": 1}


@pytest.mark.parametrize(
    "text",
    [
        "ann@globex.example",
        "old.example.org",
        "not-old.example",
        "sub.old.example",
        "see old.example for more",
        "https://old.example.org/x",
        "https://evil.example/?https://upload.old.example/",
        "ann@evil@old.example",
        "urn:xmpp:omemo:2",
        "",
        "  ",
        "x" * 5000 + "@old.example",
    ],
)
def test_everything_else_stays(mapping: DomainMapping, text: str) -> None:
    assert mapping.value(text, "here") == text
    assert not mapping.rewritten


def test_a_user_in_all_its_places(mapping: DomainMapping) -> None:
    before = (
        "<user xmlns='urn:xmpp:pie:0' name='ann'>"
        "<query xmlns='jabber:iq:roster'><item jid='bob@old.example' name='B'><group>old.example</group></item>"
        "<item jid='carol@globex.example'/></query>"
        "<query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'>"
        "<conference jid='lobby@conference.old.example'><nick>ann@old.example</nick></conference></storage></query>"
        "<blocklist xmlns='urn:xmpp:blocking'><item jid='spam@old.example'/></blocklist>"
        "<prefs xmlns='urn:xmpp:mam:2' default='roster'><never><jid>bob@old.example</jid></never></prefs>"
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:xmpp:bookmarks:1'>"
        "<item id='lobby@conference.old.example' publisher='bob@old.example'>"
        "<conference xmlns='urn:xmpp:bookmarks:1'/></item></items></pubsub></user>"
    )
    after = mapping.xml(before)
    assert "jid='bob@new.example'" in after
    assert "<jid>bob@new.example</jid>" in after
    assert "id='lobby@conference.new.example'" in after
    assert "publisher='bob@new.example'" in after
    assert "jid='lobby@conference.new.example'" in after
    assert "jid='carol@globex.example'" in after
    assert "name='ann'" in after
    assert mapping.report()["item/@jid"] == 2


def test_what_people_wrote_stays(mapping: DomainMapping) -> None:
    before = (
        "<result xmlns='urn:xmpp:mam:2' id='1'><forwarded xmlns='urn:xmpp:forward:0'>"
        "<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>"
        "<message xmlns='jabber:client' from='ann@old.example/a' to='bob@old.example'>"
        "<body>ann@old.example</body><subject>old.example</subject>"
        "<stanza-id xmlns='urn:xmpp:sid:0' by='bob@old.example' id='1'/></message></forwarded></result>"
    )
    after = mapping.xml(before)
    assert "<body>ann@old.example</body><subject>old.example</subject>" in after
    assert "from='ann@new.example/a' to='bob@new.example'" in after
    assert "by='bob@new.example'" in after


def test_a_message_that_is_a_file_leads_to_it(mapping: DomainMapping) -> None:
    url = "https://upload.old.example/file_share/abc/x.png"
    before = f"<message xmlns='jabber:client'><body>{url}</body><x xmlns='jabber:x:oob'><url>{url}</url></x></message>"
    assert mapping.xml(before).count("https://upload.new.example/file_share/abc/x.png") == 2
    words = f"<message xmlns='jabber:client'><body>look: {url}</body></message>"
    assert mapping.xml(words) == words


def test_an_internationalised_domain_is_known_in_both_forms() -> None:
    mapping = DomainMapping({"xn--mller-kva.example": "new.example"})
    assert mapping.jid("ann@müller.example") == "ann@new.example"
    assert mapping.jid("ann@xn--mller-kva.example") == "ann@new.example"


def test_ejabberds_addresses_of_files_follow_their_owner(mapping: DomainMapping) -> None:
    old, new = (hashlib.sha1(f"ann@{domain}.example".encode()).hexdigest() for domain in ("old", "new"))
    mapping.learn("ann@old.example")
    assert mapping.path(f"{old}/random") == f"{new}/random"
    assert mapping.path("other/random") == "other/random"
    url = f"https://old.example/upload/{old}/random/x.png"
    assert mapping.value(url, "url") == f"https://new.example/upload/{new}/random/x.png"
    assert mapping.value(f"https://globex.example/upload/{old}/x", "url") == f"https://globex.example/upload/{old}/x"
