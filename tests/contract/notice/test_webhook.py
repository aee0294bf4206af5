"""Webhooks against real receivers and a real name server: what arrives, what is refused, how long it may take."""

from __future__ import annotations

import ssl
import time

import pytest

from controlplane.drivers.dns.base import Change
from controlplane.drivers.dns.rfc2136 import Rfc2136
from controlplane.drivers.notice import webhook
from controlplane.drivers.notice.webhook import Target
from controlplane.values.errors import Rejected, Unavailable
from controlplane.values.names import DomainName
from controlplane.values.records import RecordSet
from controlplane.values.secret import Secret
from tests.servers.dns import TSIG_NAME, TSIG_SECRET, KnotServer
from tests.servers.little_ca import LittleCa
from tests.servers.receiver import receiver

pytestmark = pytest.mark.servers
SECRET = Secret("whsec_test")
DNS = "127.95.0.53"


def post(url: str, *, private: bool = True, **more: object) -> int:
    return webhook.post(Target.parse(url, private=private), b'{"a": 1}', secret=SECRET, **more)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    server = KnotServer(tmp_path_factory.mktemp("knot"), DNS, zones=("hooks.example",))
    server.__enter__()
    driver = Rfc2136(DNS, key_name=TSIG_NAME, key_secret=Secret(TSIG_SECRET))
    wanted = {"in": ["127.95.0.1"], "meta": ["169.254.169.254"], "both": ["127.95.0.1", "10.0.0.1"]}
    sets = [RecordSet.of(f"{name}.hooks.example", "A", 5, rdatas) for name, rdatas in wanted.items()]
    driver.apply(DomainName("hooks.example"), [Change("upsert", found) for found in sets])
    yield DNS
    server.stop()


def test_it_arrives_signed(names):
    with receiver("127.95.0.1") as box:
        assert post(box.url("in.hooks.example"), resolver=names, headers={"Roost-Event": "test"}) == 204
    seen = box.seen[0]
    assert seen["host"] == f"in.hooks.example:{box.port}"
    assert seen[":path"] == "/hook?a=1"
    assert seen["content-type"] == "application/json"
    assert seen["roost-event"] == "test"
    at = int(seen["roost-signature"].split(",")[0].removeprefix("t="))
    assert abs(at - time.time()) < 60
    assert seen["roost-signature"] == webhook.signature(SECRET, box.bodies[0], at)


@pytest.mark.parametrize("name", ["in", "meta", "both"])
def test_a_name_that_leads_inside_is_not_dialled(names, name):
    """An organisation's URL: the connection itself is what must not happen."""
    with receiver("127.95.0.1") as box:
        with pytest.raises(Rejected, match="public Internet"):
            post(f"https://{name}.hooks.example:{box.port}/", private=False, resolver=names)
        assert box.connections == 0


def test_redirections_are_not_followed():
    with receiver() as inside, receiver() as box:
        box.status, box.headers = 302, {"Location": inside.url()}
        with pytest.raises(Rejected, match="302"):
            post(box.url())
        assert inside.connections == 0


@pytest.mark.parametrize(
    ("status", "error"), [(400, Rejected), (404, Rejected), (410, webhook.Gone), (429, Unavailable), (503, Unavailable)]
)
def test_answers_decide_what_follows(status, error):
    with receiver() as box:
        box.status, box.headers = status, {"Retry-After": "7"}
        with pytest.raises(error) as raised:
            post(box.url())
    if error is Unavailable:
        assert raised.value.retry_after_s == 7
    box_says = str(raised.value)
    assert str(status) in box_says


def test_a_receiver_that_drips_does_not_hold_us():
    with receiver() as box:
        box.drip_s = 0.5
        began = time.monotonic()
        with pytest.raises(Unavailable, match="within 1 s"):
            post(box.url(), timeout_s=1.0)
        assert time.monotonic() - began < 6  # the first line alone takes it longer


def test_nobody_there(names):
    with pytest.raises(Unavailable, match="no address"):
        post("http://nowhere.hooks.example/", resolver=names)
    with receiver() as box:
        pass
    with pytest.raises(Unavailable, match="refused"):
        post(box.url())


def test_tls_is_verified_by_name(tmp_path, names):
    ca = LittleCa()
    (tmp_path / "root.pem").write_text(ca.root_pem)

    def context(name: str) -> ssl.SSLContext:
        chain, key = ca.issue([name])
        (tmp_path / "chain.pem").write_text(chain)
        (tmp_path / "key.pem").write_text(key)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
        return made

    roots = str(tmp_path / "root.pem")
    with receiver("127.95.0.1", context("in.hooks.example")) as box:
        url = box.url("in.hooks.example", "https")
        assert post(url, resolver=names, extra_roots=roots) == 204
        with pytest.raises(Unavailable, match="not trusted"):
            post(url, resolver=names)
    with receiver("127.95.0.1", context("other.example")) as box, pytest.raises(Unavailable, match="not trusted"):
        post(box.url("in.hooks.example", "https"), resolver=names, extra_roots=roots)
    assert len(box.bodies) == 0
