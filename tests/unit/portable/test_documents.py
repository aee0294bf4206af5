"""XML from anyone: what is read, and what is refused before it can do harm."""

from __future__ import annotations

import io
from xml.etree import ElementTree
from xml.parsers import expat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.portable.documents import USUAL, Events, Limits, parse
from controlplane.portable.facts import canonical
from controlplane.portable.xmltext import from_text, to_text
from controlplane.values.errors import InvalidInput
from tests.unit.portable.xml_strategies import elements, spaces

SMALL = Limits(depth=10, attributes=5, text_bytes=200_000, piece_bytes=1 << 20, piece_elements=100)
LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>"""


def same(one, two):
    return (
        one.tag == two.tag
        and one.attrib == two.attrib
        and (one.text or "") == (two.text or "")
        and len(one) == len(two)
        and all(same(a, b) and (a.tail or "") == (b.tail or "") for a, b in zip(one, two, strict=True))
    )


@given(elements())
def test_what_is_written_is_read_back_the_same(element):
    assert same(from_text(to_text(element)), element)


@given(elements())
def test_another_parser_reads_the_same_and_needs_no_prefixes(element):
    text = to_text(element)
    assert same(ElementTree.fromstring(text), element)
    names: list[str] = []
    parser = expat.ParserCreate()  # without namespaces, as ejabberd's
    parser.StartElementHandler = lambda name, _: names.append(name)
    parser.Parse(text, True)
    assert not [name for name in names if ":" in name]


@given(elements(), spaces)
def test_an_element_fits_where_another_namespace_holds(element, outer):
    inside = ElementTree.fromstring(f"<o xmlns='{outer}'/>".replace("&", "&amp;").replace("'<x>'", "&lt;"))
    space = inside.tag[1:].partition("}")[0] if inside.tag.startswith("{") else ""
    declared = f" xmlns='{space}'" if space else ""
    text = f"<o{declared}>{to_text(element, outer=space)}</o>".replace("a&b=<", "a&amp;b=&lt;")
    assert same(next(iter(ElementTree.fromstring(text))), element)


@given(st.binary(max_size=300))
def test_noise_is_refused_and_nothing_worse(data):
    with pytest.raises(InvalidInput):
        parse(b"\x00" + data)


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS,
        b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        b"<!DOCTYPE a><a/>",
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"),
        b"<a>&undeclared;</a>",
        b"<a><b></a></b>",
        b"<a/><b/>",
        b"<a",
        b"<a>",
        b"",
        b"   ",
        b"<x:a/>",
        b"<a b='1' b='2'/>",
        b"\xff\xfe\xfd<a/>",
        b"<a>\x01</a>",
        b"<?xml version='1.0' encoding='rot13'?><a/>",
        b"<?xml version='1.0' encoding='cp037'?><a/>",
        b"<!--" + b"x" * 70_000 + b"--><a/>",
        b"<" + b"a" * 3000 + b"/>",
        b"<a xmlns='" + b"a" * 3000 + b"'/>",
        b"<a " + b"a" * 3000 + b"=''/>",
        b"<a>" * 11 + b"</a>" * 11,
        b"<a>" * 60_000,
        b"<a " + b" ".join(b"a%d=''" % n for n in range(6)) + b"/>",
        b"<a><b c='" + b"x" * 400_000 + b"'/></a>",
        b"<a>" + b"x" * 400_000 + b"</a>",
        b"<a>" + b"<b/>" * 101 + b"</a>",
        b"<a>" + b"<b>xxxxxxxxx</b>" * 70_000 + b"</a>",
    ],
    ids=lambda data: data[:40].decode("latin-1"),
)
def test_harmful_and_broken_documents_are_refused(data):
    with pytest.raises(InvalidInput) as caught:
        parse(data, limits=SMALL)
    assert caught.value.field == "bundle"


def test_an_endless_tag_costs_linear_time():
    """Expat before 2.6 reads an unfinished tag again with each piece; so it may not become long."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            return b"<a b='" + b"x" * (size - 6) if self.given == size else b"x" * size

    source = Endless()
    with pytest.raises(InvalidInput):
        list(Events(source, "x", USUAL))
    assert source.given <= USUAL.text_bytes + (1 << 17)


def test_encodings_that_others_save_in_are_read():
    for encoding in ("utf-8", "utf-16", "iso-8859-1"):
        data = f"<?xml version='1.0' encoding='{encoding}'?><a>Zoë</a>".encode(encoding)
        assert parse(data).text == "Zoë"
    assert parse("\ufeff<a>Zoë</a>".encode()).text == "Zoë"


@given(elements())
def test_what_is_written_means_the_same_to_the_comparer(element):
    assert canonical(ElementTree.fromstring(to_text(element))) == canonical(element)
