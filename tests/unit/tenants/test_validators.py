"""What people type: hostile texts never come through, good ones come through unchanged or in one usual form."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from tenants import domains, validators

ACME = DomainName.parse("acme.roost.example")
#: Texts that mean something to Lua, YAML, Jinja, XML, shells, zone files or terminals.
SAMPLES = [
    *('"]]', "'; os.execute('x')", "{{ 7*7 }}", "{% raw %}", "<x/>", "&amp;", "- a: b", "x: !!python/object", "$(id)"),
    *("a\nb", "a\r\nb", "a\x00b", "\x1b[2J", "\u202eevil", "\u2028", "\ufeffx", "\ud800", "\uffff", "\U000e0041"),
]
HOSTILE = st.one_of(st.text(), st.sampled_from(SAMPLES))


def refused(call, field: str) -> bool:
    """True if the call was refused, and said for which field."""
    try:
        call()
    except InvalidInput as error:
        return error.field.startswith(field) and bool(error.message)
    return False


@given(HOSTILE)
def test_lines_hold_nothing_that_is_not_seen(text):
    if refused(lambda: validators.line(text, field="display_name"), "display_name"):
        return
    clean = validators.line(text, field="display_name")
    assert len(clean) <= 200
    assert clean == unicodedata.normalize("NFC", text).strip()
    assert not any(unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"} for c in clean)
    assert not set(clean) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\ufeff")
    clean.encode()


@pytest.mark.parametrize("text", ["Ärzte & Söhne «XMPP»", "خانه‌ی ما", "👩‍💻 Dev", 'He said "hi"', "{{ x }}", ""])
def test_good_lines_stay(text):
    assert validators.line(text, field="display_name") == unicodedata.normalize("NFC", text)


@given(HOSTILE)
def test_uris_are_uris(text):
    try:
        clean = validators.contact_uri(text)
    except InvalidInput:
        return
    assert clean.isascii()
    assert clean.partition(":")[0] in {"mailto", "xmpp", "https"}


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("mailto:Abuse@ACME.example", "mailto:Abuse@acme.example"),
        ("MAILTO:a.b+c@acme.example", "mailto:a.b+c@acme.example"),
        ("xmpp:Support@acme.example", "xmpp:support@acme.example"),
        ("xmpp:lobby@conference.acme.example?join", "xmpp:lobby@conference.acme.example?join"),
        ("https://acme.example/help?q=1#top", "https://acme.example/help?q=1#top"),
        ("https://acme.example:8443/", "https://acme.example:8443/"),
    ],
)
def test_contact_addresses(uri, clean):
    assert validators.contact_uri(uri) == clean


@pytest.mark.parametrize(
    "uri",
    [
        *("", "abuse@acme.example", "javascript:alert(1)", "http://acme.example/", "data:text/html,x", "https://"),
        *("https://user:pw@acme.example/", "https://127.0.0.1/", "https://[::1]/", "https://acme.example:99999/"),
        *("mailto:", "mailto:@acme.example", "mailto:a@b", "mailto:a@b@acme.example ", 'mailto:"a b"@acme.example'),
        *("xmpp:acme.example", "xmpp:a@acme.example/resource", "https://acme.example/\n", "x" * 600, 5, None),
    ],
)
def test_what_is_no_contact_address(uri):
    with pytest.raises(InvalidInput):
        validators.contact_uri(uri)


@pytest.mark.parametrize(
    ("tag", "clean"),
    [("EN", "en"), ("de-ch-1996", "de-CH-1996"), ("zh-hant-tw", "zh-Hant-TW"), ("es-419", "es-419"), ("gsw", "gsw")],
)
def test_language_tags(tag, clean):
    assert validators.language(tag) == clean


@given(HOSTILE)
def test_language_tags_are_plain(text):
    try:
        clean = validators.language(text)
    except InvalidInput:
        return
    assert clean.isascii()
    assert clean.replace("-", "").isalnum()
    assert validators.language(clean) == clean


@given(st.lists(HOSTILE, max_size=3))
def test_admins_are_of_the_domain(texts):
    jids = [f"{text}@acme.roost.example" for text in texts]
    if refused(lambda: validators.admins(jids, domain=ACME), "admins["):
        return
    clean = validators.admins(jids, domain=ACME)
    assert all(jid.endswith("@acme.roost.example") and jid.count("@") == 1 for jid in clean)


@pytest.mark.parametrize("jid", ["roost-probe@acme.roost.example", "a@globex.roost.example", "acme.roost.example", ""])
def test_who_cannot_be_admin(jid):
    with pytest.raises(InvalidInput):
        validators.admins([jid], domain=ACME)


def test_blocked_domains_are_names_of_others():
    assert validators.blocked(["SPAM.example.", "spam.example"], domain=ACME) == ["spam.example"]
    for own in ("acme.roost.example", "conference.acme.roost.example"):
        with pytest.raises(InvalidInput, match="itself"):
            validators.blocked([own], domain=ACME)


@pytest.mark.parametrize("value", ["x", {"a": 1}, None, 5])
def test_lists_are_lists(value):
    for check in (validators.admins, validators.blocked):
        with pytest.raises(InvalidInput, match="list"):
            check(value, domain=ACME)
    with pytest.raises(InvalidInput, match="list"):
        validators.contacts(value)


def test_lists_are_bounded():
    with pytest.raises(InvalidInput, match="too long"):
        validators.admins(["a@acme.roost.example"] * 51, domain=ACME)


@given(HOSTILE.map(lambda text: text + ".org"))
def test_any_domain_that_passes_is_plain(text):
    if refused(lambda: domains.check(text), "domain"):
        return
    name, mode = domains.check(text)
    assert mode == "own"
    assert set(name.ascii) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert len(f"_xmpps-server._tcp.conference.{name}") <= 253
    assert domains.check(name.ascii)[0] == domains.check(name.unicode)[0] == name


@pytest.mark.parametrize("name", ["co.uk", "github.io", "xn--55qx5d.cn", "公司.cn", "com.au", "blogspot.com"])
def test_public_suffixes(name):
    with pytest.raises(InvalidInput, match="public suffix"):
        domains.check(name)


@pytest.mark.parametrize("name", ["acme.co.uk", "me.github.io", "chat.acme.org", "acme.unknowntld", "corp.example"])
def test_names_below_public_suffixes(name):
    assert domains.check(name)[1] == "own"


def test_look_alikes_below_the_providers_zone():
    with pytest.raises(InvalidInput, match="alphabets"):
        domains.check("аcme.roost.example")  # the first letter is Cyrillic
    assert domains.check("bücher.roost.example")[1] == "provider"
    assert domains.check("почта.roost.example")[1] == "provider"


def test_example_is_reserved_where_it_is_no_laboratory(settings):
    settings.ROOST = {**settings.ROOST, "PROVIDER_ZONE": "roost.host"}
    for name in ("corp.example", "chat.example.com", "x.test"):
        with pytest.raises(InvalidInput, match="reserved"):
            domains.check(name)
    assert domains.check("acme.roost.host")[1] == "provider"
    with pytest.raises(InvalidInput):
        domains.check("roost.host")
