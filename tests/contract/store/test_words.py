"""Names from outside reach restic as they are, or not at all; what it says is read whole."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.store import places, said, words
from controlplane.drivers.store.base import Damaged, Locked, Repository, StorageFull, WrongKey
from controlplane.drivers.store.process import lines
from controlplane.values.errors import InvalidInput, RoostError, Unavailable
from controlplane.values.secret import Secret

ANY = st.text(max_size=40)


@given(ANY)
def test_a_tag_is_one_word_without_a_comma_or_is_refused(text: str) -> None:
    try:
        options = words.labels("acme", [text, "other"], None)
    except InvalidInput:
        return
    assert options == ["--host", "acme", "--tag", f"{text},other"]
    assert text.isascii()
    assert not re.search(r"[,\s]|^-", text)


@given(ANY)
def test_a_host_or_an_id_never_looks_like_an_option(text: str) -> None:
    for check in (words.host, words.snapshot_id, words.tag):
        try:
            assert check(text)[0] != "-"
        except InvalidInput:
            continue


@given(ANY.map(lambda text: f"/{text}"))
def test_a_path_stays_within_its_snapshot(text: str) -> None:
    try:
        path = words.path(text)
    except InvalidInput:
        return
    parts = path.split("/")[1:]
    assert parts
    assert not {"", ".", ".."} & set(parts)


@given(st.text(alphabet="ab*?[]\\^-!/ü ", min_size=1, max_size=12).map(lambda text: f"/{text}"))
def test_a_pattern_means_exactly_the_path(text: str) -> None:
    try:
        pattern = words.pattern(text)
    except InvalidInput:
        return
    # Go's filepath.Match: a backslash takes the next letter as it is; * ? [ mean something without one.
    assert re.sub(r"\\(.)", lambda found: found[1], pattern) == text
    assert not re.search(r"[*?\[]", re.sub(r"\\.", "", pattern))


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 7))
def test_lines_do_not_depend_on_how_they_come(parts: list[bytes], step: int) -> None:
    whole = b"".join(parts)
    chunks = [whole[start : start + step] for start in range(0, len(whole), step)]
    *complete, rest = whole.split(b"\n")
    assert list(lines(iter(chunks))) == [*complete, *([rest] if rest else [])]


def test_an_endless_line_does_not_fill_the_memory() -> None:
    assert max(len(line) for line in lines(iter([b"x" * 1000] * 100), longest=5000)) <= 6000


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_moments_come_back(moment: datetime) -> None:
    for text in (moment.isoformat(), moment.isoformat(timespec="microseconds").replace("+", "999+")):
        assert words.snapshot({"id": "0" * 64, "time": text}).taken_at == moment
    assert words.labels("acme", [], moment)[-1] == moment.strftime("%Y-%m-%d %H:%M:%S")


@given(st.recursive(st.none() | st.integers() | ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)))
def test_whatever_is_said_is_read_or_left_out(value: object) -> None:
    text = json.dumps(value)
    assert list(words.messages([text.encode(), b"{", b"\xff"])) == ([value] if isinstance(value, dict) else [])
    assert words.first_json(text + "\nWould have removed 3 snapshots") == (value if isinstance(value, list) else [])


@given(
    st.text(alphabet="abcXYZ019+/=&%$-", min_size=8, max_size=30),
    st.lists(st.sampled_from(["error: ", "at ", "rest:https://us:{}@host/", "{}", "\n"]), max_size=8),
)
def test_no_secret_is_passed_on(secret: str, parts: list[str]) -> None:
    text = "".join(parts).replace("{}", secret)
    error = said.judge("the place", 1, said.Struck((Secret(secret),))(text))
    assert secret not in str(error).replace("the place", "")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Fatal: wrong password or no key found", WrongKey),
        ("unable to create lock in backend: repository is already locked by PID 7 on far by root (UID 0)", Locked),
        ("Fatal: unable to save snapshot: write /r/data/1: no space left on device", StorageFull),
        (
            "Fatal: unable to open repository at s3:…: dial tcp 1.2.3.4:443: i/o timeout",
            Unavailable,
        ),
        ("ignoring error for /a: ciphertext verification failed\nFatal: There were 1 errors", Damaged),
        ('Fatal: Get "https://h/": x509: certificate signed by unknown authority', RoostError),
    ],
)
def test_what_it_says_becomes_one_of_our_errors(text: str, kind: type[RoostError]) -> None:
    error = said.judge("the place", 1, text)
    assert type(error) is kind or (kind is RoostError and isinstance(error, RoostError))
    assert "the place" in error.message


@given(st.text(alphabet="abz019.-_@:/[] '\"\\\n", max_size=40).map(lambda rest: f"sftp:{rest}"))
def test_a_place_for_sftp_is_made_of_words_that_need_no_quotes(url: str) -> None:
    try:
        places.checked(Repository(url=url, key=Secret("k")))
    except InvalidInput:
        return
    parts = places.parse_sftp(url)
    for word in (parts.user, parts.host):
        assert re.fullmatch(r"[A-Za-z0-9_:.][A-Za-z0-9_.:-]*", word)
    assert not re.search(r"[\s'\"\\]", parts.path)
