"""Names that the portable format's files are made of, in ElementTree's ``{namespace}name`` form.

Only names: what they mean is in ``docs/contracts/portable.md``, and who reads or writes them beside this.
"""

from __future__ import annotations

PIE = "urn:xmpp:pie:0"  # XEP-0227 §4
PIE_OLD = "http://www.xmpp.org/extensions/xep-0227.html#ns"  # ejabberd wrote it until 2.1
SCRAM = "urn:xmpp:pie:0#scram"  # XEP-0227 §4.4
PIE_MAM = "urn:xmpp:pie:0#mam"  # XEP-0227 §4.11
OURS = "urn:roost:portable:1"
XINCLUDE = "http://www.w3.org/2001/XInclude"
XML = "http://www.w3.org/XML/1998/namespace"
MAM = "urn:xmpp:mam:2"
DATA = "jabber:x:data"
FORWARD = "urn:xmpp:forward:0"
DELAY = "urn:xmpp:delay"
CLIENT = "jabber:client"
ROSTER = "jabber:iq:roster"
PRIVATE = "jabber:iq:private"
PRIVACY = "jabber:iq:privacy"
VCARD = "vcard-temp"
BLOCKING = "urn:xmpp:blocking"
PUBSUB = "http://jabber.org/protocol/pubsub"
PUBSUB_OWNER = "http://jabber.org/protocol/pubsub#owner"
PROSODY_MORE = "http://prosody.im/protocol/extended-xep0227"  # attributes that Prosody adds to <user/>

SERVER_DATA = f"{{{PIE}}}server-data"
HOST = f"{{{PIE}}}host"
USER = f"{{{PIE}}}user"
ARCHIVE = f"{{{PIE_MAM}}}archive"
RESULT = f"{{{MAM}}}result"
ROOMS = f"{{{OURS}}}rooms"
ROOM = f"{{{OURS}}}room"
UPLOADS = f"{{{OURS}}}uploads"
FILE = f"{{{OURS}}}file"
INCLUDE = f"{{{XINCLUDE}}}include"
