"""A small instance as portable elements, with what is easily lost: quotes, scripts, orders, and doubles."""

from __future__ import annotations

from controlplane.portable.manifest import About
from controlplane.portable.writer import StoredFile

ABOUT = About(
    domain="acme.example",
    made_at="2026-11-25T12:00:00Z",
    components={"muc": "conference.acme.example", "upload": "upload.acme.example", "proxy": "proxy.acme.example"},
    engine={"name": "prosody", "version": "0.12.3"},
    spec={"domain": "acme.example", "limits": {"accounts": 10}},
    moments={"accounts": "2026-11-25T12:00:00Z"},
)


def user(name: str, body: str = "") -> str:
    return f"<user xmlns='urn:xmpp:pie:0' name='{name}'>{body}</user>"


ALICE = user(
    "alice",
    """<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'><iter-count>10000</iter-count>"""
    """<salt>c2FsdA==</salt><server-key>0pXWGK0GZJ6TR73AIUN3ITYtA1g=</server-key>"""
    """<stored-key>Q6qT/SbybblGCZz8e8eSfCJOQic=</stored-key></scram-credentials>"""
    """<query xmlns='jabber:iq:roster'><item jid='bob@acme.example' name='B&amp;&lt;b&gt;' subscription='both'>"""
    """<group>A</group><group>Ü 😀</group></item><item jid='x@y' subscription='none' ask='subscribe'/></query>"""
    """<vCard xmlns='vcard-temp'><FN>Alice</FN></vCard>"""
    """<pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='urn:x'><x xmlns='jabber:x:data'>"""
    """<field var='pubsub#access_model'><value>open</value></field></x></configure></pubsub>"""
    """<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:x'><item id='1'><k xmlns='k'/></item>"""
    """<item id='2'><k xmlns='k'>two</k></item></items></pubsub>"""
    """<blocklist xmlns='urn:xmpp:blocking'><item jid='spam.example'/></blocklist>"""
    """<offline-messages><message xmlns='jabber:client' from='a@b' id='o1'><body>hi</body></message>"""
    """</offline-messages><presence xmlns='jabber:client' type='subscribe' from='c@d'/>"""
    """<new-thing xmlns='urn:roost:portable:1' a='b'/>""",
)
ROOM = (
    "<room xmlns='urn:roost:portable:1' name='team'><x xmlns='jabber:x:data' type='submit'>"
    "<field var='muc#roomconfig_membersonly'><value>1</value></field></x><subject by='team/a'>S</subject>"
    "<affiliations><item jid='alice@acme.example' affiliation='owner'/>"
    "<item jid='bob@acme.example' affiliation='outcast'><reason>r</reason></item></affiliations></room>"
)


def result(number: int, body: str = "text") -> str:
    return (
        f"<result xmlns='urn:xmpp:mam:2' id='m{number}'><forwarded xmlns='urn:xmpp:forward:0'>"
        f"<delay xmlns='urn:xmpp:delay' stamp='2026-11-{number // 86400 % 28 + 1:02}T{number // 3600 % 24:02}:"
        f"{number // 60 % 60:02}:{number % 60:02}.000{number % 1000:03}Z'/>"
        f"<message xmlns='jabber:client' from='bob@acme.example/p' to='alice@acme.example' type='chat' id='i{number}'>"
        f"<body>{body}</body><origin-id xmlns='urn:xmpp:sid:0' id='i{number}'/></message></forwarded></result>"
    )


FILE = StoredFile(
    "s/42", "upload/s/42/Zoë 1.JPG", "Zoë 1.JPG", 0, "image/jpeg", "alice@acme.example", "2026-01-01T00:00:00Z"
)


def fill(writer, messages: int = 30) -> None:
    writer.add_user(ALICE, (result(n) for n in range(messages)))
    writer.add_user(user("bob"))
    writer.add_user(user("con", "<disabled xmlns='urn:roost:portable:1'/>"))
    writer.add_room(ROOM, (result(n, "in the room") for n in range(5)))
    writer.add_upload(FILE, [b"abc", b"", b"def"])
