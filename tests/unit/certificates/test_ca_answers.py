"""What the ACME driver makes of a CA's answers that a real Pebble never gives: limits, outages, renewal advice."""

from __future__ import annotations

import datetime
import email.utils
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.ca import errors
from controlplane.drivers.ca.acme import Acme, Order, new_account_key
from controlplane.values.certificates import parse_chain, renewal_id
from controlplane.values.errors import InvalidInput, Rejected, RoostError, Unavailable
from tests.servers.little_ca import LittleCa

ACME = "urn:ietf:params:acme:error:"


def answer(status: int, body: object = None, **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code, made.url = status, "https://ca.example/new-order"
    made._content = b"" if body is None else json.dumps(body).encode()
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (429, "rateLimited", errors.RateLimited),
        (403, "rateLimited", errors.RateLimited),
        (429, "", errors.RateLimited),
        (400, "badNonce", errors.NonceRefused),
        (500, "serverInternal", Unavailable),
        (503, "", Unavailable),
        (400, "accountDoesNotExist", errors.AccountUnknown),
        (404, "", errors.NotFound),
        (400, "rejectedIdentifier", errors.Refused),
        (403, "caa", errors.Refused),
        (418, "", errors.Refused),
    ],
)
def test_kinds_of_refusal(status, kind, expected):
    error = errors.problem(answer(status, {"type": ACME + kind, "detail": "No, thanks."} if kind else None))
    assert type(error) is expected
    assert "ca.example" in error.message
    assert not kind or "No, thanks." in error.message


def test_a_refusal_keeps_its_kind():
    error = errors.problem(answer(403, {"type": ACME + "caa", "detail": "forbidden"}))
    assert isinstance(error, errors.Refused)
    assert error.kind == "caa"


def test_a_missing_binding_says_what_to_set():
    error = errors.problem(answer(401, {"type": ACME + "externalAccountRequired", "detail": "who are you"}))
    assert "ROOST_ACME_EAB_KID" in error.remedy


def test_subproblems_are_told_with_their_names():
    sub = {"type": ACME + "dns", "detail": "NXDOMAIN", "identifier": {"type": "dns", "value": "a.example.org"}}
    error = errors.problem(answer(400, {"type": ACME + "compound", "detail": "Several", "subproblems": [sub]}))
    assert "Several; a.example.org: NXDOMAIN" in error.message


def test_rate_limits_say_how_long():
    limited = {"type": ACME + "rateLimited", "detail": "slow down"}
    assert errors.problem(answer(429, limited, Retry_After="120")).retry_after_s == 120
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=300)
    by_date = errors.problem(answer(429, limited, Retry_After=email.utils.format_datetime(at, usegmt=True)))
    assert 290 < by_date.retry_after_s <= 300
    assert errors.problem(answer(429, limited)).retry_after_s == errors.RATE_LIMIT_S
    assert errors.problem(answer(503, None, Retry_After="7")).retry_after_s == 7
    assert errors.problem(answer(503)).retry_after_s is None
    assert errors.problem(answer(503, None, Retry_After="9" * 400)).retry_after_s == errors.LONGEST_S


@given(st.text(max_size=40))
def test_any_retry_after_is_a_number_or_nothing(text):
    seconds = errors.retry_after_s(answer(503, None, Retry_After=text))
    assert seconds is None or seconds >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.integers(400, 599), json_values | st.fixed_dictionaries({"type": json_values, "subproblems": json_values}))
def test_any_answer_becomes_one_of_our_errors(status, body):
    assert isinstance(errors.problem(answer(status, body)), RoostError)


@given(json_values)
def test_only_stored_orders_are_read_back(value):
    with pytest.raises(InvalidInput):
        Order.from_json(json.dumps(value))


class _TinyCa:
    """Plain HTTP: a directory with renewalInfo, and nonces of which none is ever good."""

    def __init__(self, address: str, renewal: object) -> None:
        tiny = self
        self.paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                tiny.paths.append(self.path)
                found = tiny.directory if self.path == "/dir" else renewal
                self.reply(200, found, "application/json")

            def do_HEAD(self) -> None:
                self.reply(200, None, "application/json")

            def do_POST(self) -> None:
                tiny.paths.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(400, {"type": ACME + "badNonce", "detail": "stale"}, "application/problem+json")

            def reply(self, status: int, body: object, kind: str) -> None:
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Replay-Nonce", "bm9uY2U")
                self.send_header("Retry-After", "3600")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer((address, 0), Handler)
        self.url = f"http://{address}:{self.server.server_port}"
        self.directory = {
            name: f"{self.url}/{name}" for name in ("newNonce", "newAccount", "newOrder", "revokeCert", "renewalInfo")
        }
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def tiny(request):
    made = _TinyCa("127.64.90.1", getattr(request, "param", {}))
    yield made
    made.close()


WINDOW = {"start": "2026-12-01T00:00:00Z", "end": "2026-12-03T00:00:00Z"}


@pytest.mark.parametrize(
    "tiny", [{"suggestedWindow": WINDOW, "explanationURL": "https://ca.example/why"}], indirect=True
)
def test_renewal_information(tiny):
    pem, _ = LittleCa().issue(["a.example.org"])
    info = Acme(f"{tiny.url}/dir", new_account_key()).renewal_info(pem)
    assert (info.end - info.start) == datetime.timedelta(days=2)
    assert info.start == datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    assert (info.ask_again_s, info.explanation) == (3600, "https://ca.example/why")
    assert tiny.paths[-1] == f"/renewalInfo/{renewal_id(parse_chain(pem).leaf)}"


@pytest.mark.parametrize("tiny", [{}, {"suggestedWindow": {"start": "x", "end": "y"}}, []], indirect=True)
def test_renewal_information_that_is_none(tiny):
    pem, _ = LittleCa().issue(["a.example.org"])
    with pytest.raises(Unavailable):
        Acme(f"{tiny.url}/dir", new_account_key()).renewal_info(pem)


def test_a_ca_that_refuses_every_nonce_is_given_up(tiny):
    with pytest.raises(Unavailable, match="nonces in a row"):
        Acme(f"{tiny.url}/dir", new_account_key()).register()
    assert tiny.paths.count("/newAccount") > 10


def test_a_ca_file_that_is_missing_is_named():
    with pytest.raises(Rejected, match="ROOST_ACME_CA_FILE"):
        Acme("https://127.64.90.1:1/dir", new_account_key(), ca_file="/nonexistent.pem").register()
