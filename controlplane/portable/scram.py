"""SCRAM credentials (RFC 5802 §3, RFC 7677) for accounts that others export with a password or in an older form.

So engines take one form only, and a password that came in plain is not kept in plain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from xml.etree import ElementTree

from controlplane.portable import namespaces as ns

ITERATIONS = {"SCRAM-SHA-1": 10_000, "SCRAM-SHA-256": 10_000}
_HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
_OLD = {"sha": "SCRAM-SHA-1", "sha256": "SCRAM-SHA-256", "sha512": "SCRAM-SHA-512"}
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(password: str) -> str:
    """RFC 4013. ``ValueError`` for what it forbids; characters that Unicode 3.2 did not have are let through."""
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or any(table(character) for character in prepared for table in _PROHIBITED):
        raise ValueError("not allowed in a password")
    if any(map(stringprep.in_table_d1, prepared)) and (
        any(map(stringprep.in_table_d2, prepared))
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("mixes directions")
    return prepared


def credentials(mechanism: str, iterations: int, salt: bytes, server: bytes, stored: bytes) -> ElementTree.Element:
    """XEP-0227 §4.4."""
    element = ElementTree.Element(f"{{{ns.SCRAM}}}scram-credentials", {"mechanism": mechanism})
    texts = {"iter-count": str(iterations)}
    texts |= {
        name: base64.b64encode(value).decode()
        for name, value in (("salt", salt), ("server-key", server), ("stored-key", stored))
    }
    for name, text in texts.items():
        ElementTree.SubElement(element, f"{{{ns.SCRAM}}}{name}").text = text
    return element


def of_password(password: str) -> list[ElementTree.Element]:
    """Credentials for each mechanism that our engines use, with fresh salts. ``ValueError`` as ``saslprep``."""
    prepared = saslprep(password).encode()
    made = []
    for mechanism, iterations in ITERATIONS.items():
        digest, salt = _HASHES[mechanism], secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac(digest, prepared, salt, iterations)
        stored = hashlib.new(digest, hmac.digest(salted, b"Client Key", digest)).digest()
        made.append(credentials(mechanism, iterations, salt, hmac.digest(salted, b"Server Key", digest), stored))
    return made


def of_old_form(text: str) -> ElementTree.Element:
    """ejabberd's ``[hash,]stored,server,salt,iterations`` of a ``password='scram:…'``. ``ValueError`` if it is none."""
    words = text.split(",")
    if len(words) == 4:
        words.insert(0, "sha")
    name, stored, server, salt, iterations = words
    if name not in _OLD or not 1 <= int(iterations) <= 10_000_000:
        raise ValueError("no such hash")
    size = hashlib.new(_HASHES[_OLD[name]]).digest_size
    keys = [_bytes(word) for word in (salt, server, stored)]
    if len(keys[1]) != size or len(keys[2]) != size:
        raise ValueError("wrong length")
    return credentials(_OLD[name], int(iterations), *keys)


def fault(element: ElementTree.Element) -> str:
    """Why ``<scram-credentials/>`` cannot be used, or ""."""
    mechanism = element.get("mechanism", "").removesuffix("-PLUS")
    if mechanism not in _HASHES:
        return f"no engine knows the mechanism {mechanism[:40]!r}"
    try:
        texts = [element.findtext(f"{{{ns.SCRAM}}}{name}", "") for name in ("salt", "server-key", "stored-key")]
        keys = [_bytes(text) for text in texts]
        iterations = int(element.findtext(f"{{{ns.SCRAM}}}iter-count", ""))
    except ValueError:
        return "its values are no base64 or no number"
    size = hashlib.new(_HASHES[mechanism]).digest_size
    if not keys[0] or len(keys[1]) != size or len(keys[2]) != size or not 1 <= iterations <= 10_000_000:
        return "its keys do not have the mechanism's length"
    return ""


def unwrapped(element: ElementTree.Element) -> ElementTree.Element:
    """``<scram-credentials/>`` as the standard has them, if ejabberd or Prosody wrote them.

    ejabberd (23.01 at least) keeps keys and salt in base64 and encodes them once more when it exports. Prosody's
    migrator (0.12) calls SHA-256 hashes SCRAM-SHA-1. The keys' length tells, so what others wrote stays.
    """
    if element.get("mechanism") == "SCRAM-SHA-1" and not fault(_called(element, "SCRAM-SHA-256")):
        return _called(element, "SCRAM-SHA-256")
    size = hashlib.new(_HASHES.get(element.get("mechanism", ""), "sha1")).digest_size
    try:
        once = [_bytes(element.findtext(f"{{{ns.SCRAM}}}{name}", "")) for name in ("salt", "server-key", "stored-key")]
        salt, server, stored = [_bytes(value.decode("ascii")) for value in once]
        iterations = int(element.findtext(f"{{{ns.SCRAM}}}iter-count", ""))
    except ValueError:  # no base64 in it
        return element
    if len(once[1]) == size or len(server) != size or len(stored) != size or not salt:
        return element
    return credentials(element.get("mechanism", ""), iterations, salt, server, stored)


def _called(element: ElementTree.Element, mechanism: str) -> ElementTree.Element:
    named = ElementTree.Element(element.tag, {**element.attrib, "mechanism": mechanism})
    named.extend(element)
    return named


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
