"""Any XML element, for hypothesis."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import strategies as st

#: What XML 1.0 can carry; a carriage return only as a reference.
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\ufffe\uffff").filter(
    lambda c: c in "\t\n\r" or ord(c) >= 32
)
texts = st.text(characters, max_size=8)
words = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True).filter(lambda word: not word.startswith("xml"))
spaces = st.sampled_from(["", "jabber:client", "urn:x:1", "http://example.org/a&b='<x>'"])


@st.composite
def elements(draw, depth=2):
    space = draw(spaces)
    element = ElementTree.Element(f"{{{space}}}{draw(words)}" if space else draw(words))
    for key, value in draw(st.dictionaries(words, texts, max_size=2)).items():
        element.set(key, value)
    if draw(st.booleans()):
        element.set("{http://www.w3.org/XML/1998/namespace}lang", draw(words))
    if draw(st.booleans()):
        element.set(f"{{urn:more}}{draw(words)}", draw(texts))
    element.text = draw(texts) or None
    for _ in range(draw(st.integers(0, 2 if depth else 0))):
        child = draw(elements(depth=depth - 1))
        child.tail = draw(texts) or None
        element.append(child)
    return element
