"""What a line has, and what it never has: each secret below, in message, argument, traceback or bound value."""

from __future__ import annotations

import io
import json
import logging

import pytest

from controlplane import logs

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEH\n-----END PRIVATE KEY-----"
SECRETS = {
    "rst_abc123_0123456789abcdefghijklmn": "token rst_abc123_0123456789abcdefghijklmn was used",
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEH": KEY,
    "abcdefgh.ijkl-mnop": "Authorization: Bearer abcdefgh.ijkl-mnop",
    "hunter22": "POST /x?user=a&password=hunter22&b=c",
    "geheim99": '{"password": "geheim99", "user": "a"}',
    "s3cr3t-of-it": "postgresql://roost:s3cr3t-of-it@db/roost",
    "tsig-key-material": "api_key=tsig-key-material",
}


@pytest.fixture(params=[logs.JSON, logs.LINES])
def written(request):
    """(style, logger, what it has written so far)."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(request.param))
    logger = logging.getLogger(f"test.{request.param}")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    return request.param, logger, stream.getvalue


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_gets_into_a_line(written, secret: str) -> None:
    _, logger, text = written
    told = SECRETS[secret]
    logger.info("said: %s", told)
    with logs.bound(detail=told):
        logger.warning("bound")
    try:
        raise ValueError(told)
    except ValueError:
        logger.exception("failed")
    assert secret not in text()
    assert text().count(logs.REDACTED) >= 3
    assert "failed" in text()


@pytest.mark.parametrize(
    "text",
    [
        "the token is not valid",
        "https://roost.example/status/",
        "password: give one",
        "12:30 secret",
        "node n1@host:22",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert logs.without_secrets(text) == text


def test_what_is_bound_is_beside_the_message(written) -> None:
    style, logger, text = written
    with logs.bound(request="r-1", kind="Instance", object="abc"):
        logger.info("one pass of %s", "acme")
    logger.info("after")
    first, after = text().splitlines()
    if style == logs.JSON:
        event = json.loads(first)
        assert event["event"] == "one pass of acme"
        assert (event["request"], event["kind"], event["object"], event["level"]) == ("r-1", "Instance", "abc", "info")
        assert "request" not in json.loads(after)
    else:
        assert first.endswith("one pass of acme  [kind=Instance object=abc request=r-1]")
        assert after.endswith("INFO test.lines after")


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(logs.JSON))
    logger = logging.getLogger("test.oneline")
    logger.handlers, logger.propagate = [handler], False
    logger.warning("a\nb\u2028c\x1b[31m %s", {"x": b"\xff"})
    assert len(stream.getvalue().splitlines()) == 1
    assert json.loads(stream.getvalue())["level"] == "warning"
