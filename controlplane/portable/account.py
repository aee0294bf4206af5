"""What is in a ``<user/>``, from whichever program, as our engines take it; and what of it they cannot take.

ejabberd keeps a block list as a privacy list, and both engines' exporters have habits of their own: they are
translated here. Our own bundles pass unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from controlplane.portable import namespaces as ns
from controlplane.portable import scram
from controlplane.portable.items import NotCarried
from controlplane.portable.xmltext import split_name, tidy

#: What engines have a place for, and how many levels of it are structure in which white space means nothing.
_KNOWN = {
    f"{{{ns.SCRAM}}}scram-credentials": 9,
    f"{{{ns.ROSTER}}}query": 9,
    f"{{{ns.PRIVATE}}}query": 1,
    f"{{{ns.VCARD}}}vCard": 9,
    f"{{{ns.PIE}}}offline-messages": 2,
    f"{{{ns.CLIENT}}}presence": 1,
    f"{{{ns.PUBSUB}}}pubsub": 3,
    f"{{{ns.PUBSUB_OWNER}}}pubsub": 9,
    f"{{{ns.BLOCKING}}}blocklist": 9,
    f"{{{ns.MAM}}}prefs": 9,
    f"{{{ns.OURS}}}disabled": 9,
}
#: What a rule of XEP-0016 can be about; one about all of them is a block.
_STANZAS = {"message", "iq", "presence-in", "presence-out"}


def of_attributes(user: ElementTree.Element, where: str) -> Iterator[ElementTree.Element | NotCarried]:
    """Credentials from what stands in ``<user/>`` itself (XEP-0227 §4.3: a plain ``password``)."""
    password = user.get("password", "")
    if password:
        try:
            if password.startswith("scram:"):
                yield scram.of_old_form(password.removeprefix("scram:"))
            else:
                yield from scram.of_password(password)
        except ValueError as error:
            yield NotCarried(where, "password", f"it cannot be used ({error}); set a new one")
    for key in sorted(user.attrib.keys() - {"name", "password"}):
        namespace, name = split_name(key)
        whose = "a detail that Prosody keeps" if namespace.startswith(ns.PROSODY_MORE) else "unknown"
        yield NotCarried(where, f"attribute {name[:80]}", whose)


def of_element(
    element: ElementTree.Element, where: str, *, ours: bool = False
) -> Iterator[ElementTree.Element | NotCarried]:
    """A child of ``<user/>`` as one or more that our engines take. ``ours``: it was exported by one of them."""
    if element.tag == f"{{{ns.PIE}}}presence":  # as Prosody 0.12 writes it, without xmlns
        element.tag = f"{{{ns.CLIENT}}}presence"
    tag = element.tag
    if tag == f"{{{ns.SCRAM}}}scram-credentials":
        element = scram.unwrapped(element)
    if not ours:
        tidy(element, _KNOWN.get(tag, 0))
    if tag == f"{{{ns.PRIVACY}}}query":
        yield from _of_privacy(element, where)
    elif tag not in _KNOWN:
        if ours:
            yield element
        else:
            namespace, name = split_name(tag)
            yield NotCarried(where, f"<{name[:80]} xmlns='{namespace[:120]}'/>", "unknown")
    elif tag == f"{{{ns.SCRAM}}}scram-credentials" and (why := scram.fault(element)):
        yield NotCarried(where, "scram-credentials", why)
    elif tag == f"{{{ns.CLIENT}}}presence" and element.get("type") != "subscribe":
        yield NotCarried(where, f"presence of type {element.get('type', '')[:40]!r}", "only requests are kept")
    elif tag == f"{{{ns.PUBSUB_OWNER}}}pubsub":
        for subscription in element.iter(f"{{{ns.PUBSUB_OWNER}}}subscription"):
            state = subscription.attrib.pop("subscribed", None)  # as Prosody 0.12 writes it
            if state and "subscription" not in subscription.attrib:
                subscription.set("subscription", state)
        for form in () if ours else element.iter(f"{{{ns.DATA}}}x"):
            for field in list(form):
                if not len(field):  # Prosody lists each field that there is; without a value it is not set
                    form.remove(field)
        yield element
    elif tag == f"{{{ns.PIE}}}offline-messages":
        yield from _of_offline(element, where)
    else:
        yield element


def _of_offline(element: ElementTree.Element, where: str) -> Iterator[ElementTree.Element | NotCarried]:
    for message in list(element):
        if message.tag != f"{{{ns.CLIENT}}}message":
            element.remove(message)
            yield NotCarried(where, f"<{split_name(message.tag)[1][:80]}/> among offline messages", "no message")
    if len(element):
        yield element


def _of_privacy(query: ElementTree.Element, where: str) -> Iterator[ElementTree.Element | NotCarried]:
    """XEP-0191 §5: blocked is who is denied as a whole, by JID, by the default list. All else of XEP-0016 is gone."""
    default = query.find(f"{{{ns.PRIVACY}}}default")
    chosen = default.get("name", "") if default is not None else ""
    blocked = ElementTree.Element(f"{{{ns.BLOCKING}}}blocklist")
    for number, listed in enumerate(query.findall(f"{{{ns.PRIVACY}}}list"), 1):
        name = listed.get("name", "")
        if not chosen and number == 1 and name == "Blocked contacts":  # ejabberd's, when no default is told
            chosen = name
        left = 0
        for item in sorted(listed, key=_order):
            narrowed = {split_name(child.tag)[1] for child in item}
            if item.get("action") == "allow" and not item.get("type") and not len(item):
                break  # "and all others may", as a block list says too; rules after it have no effect
            whole = item.get("type") == "jid" and item.get("action") == "deny"
            if name == chosen and whole and item.get("value") and (not narrowed or narrowed >= _STANZAS):
                ElementTree.SubElement(blocked, f"{{{ns.BLOCKING}}}item", {"jid": item.get("value", "")})
            else:
                left += 1
        if left:
            why = "engines have block lists (XEP-0191) in place of privacy lists"
            yield NotCarried(where, f"{left} rules of the privacy list {name[:80]!r}", why)
    if len(blocked):
        yield blocked


def _order(item: ElementTree.Element) -> int:
    try:
        return int(item.get("order", "0"))
    except ValueError:
        return 0
