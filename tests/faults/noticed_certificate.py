"""A certificate of the stack's own CA for a tenant's names that is over within seconds.

ACME lets an order name the end (RFC 8555 §7.4, ``notAfter``); Pebble does as it is told. The challenge is met at the
stack's name server by hand.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import josepy
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from controlplane.drivers.ca.acme import DNS_01, Acme, Order, new_account_key
from controlplane.values.certificates import parse_chain
from launcher.layout import ZONE
from tests.stack.live import Live, until

LIFE_S = 12


class DatedOrder(messages.NewOrder):
    not_before: Any = josepy.field("notBefore", omitempty=True)
    not_after: Any = josepy.field("notAfter", omitempty=True)


def over_soon(live: Live, key_pem: bytes, chain_file: Path) -> str:
    """The chain (PEM) for the same names and key as this one; returns when it has expired."""
    leaf = x509.load_pem_x509_certificate(chain_file.read_bytes())
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = found.get_values_for_type(x509.DNSName)
    key = serialization.load_pem_private_key(key_pem, None)
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]  # an EC key
    )
    acme = Acme(
        live.environment["ROOST_ACME_DIRECTORY"],
        new_account_key(),
        ca_file=live.environment["ROOST_ACME_CA_FILE"],
    )
    acme.register()
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=LIFE_S)
    order = _order(acme, names, csr.public_bytes(serialization.Encoding.PEM), end)
    challenges = acme.challenges(order, DNS_01)
    values: dict[str, list[str]] = {}
    for challenge in challenges:
        values.setdefault(challenge.dns_name, []).append(f'"{challenge.dns_value}"')
    _publish(live, values)
    try:
        for challenge in challenges:
            acme.answer(challenge)
        until(lambda: acme.refresh(order).status == "ready", "the CA has looked", timeout_s=30)
        acme.finalize(acme.refresh(order))
        until(lambda: acme.refresh(order).status == "valid", "the CA has issued", timeout_s=30)
    finally:
        _publish(live, {name: [] for name in values})
    chain = acme.chain(acme.refresh(order))
    over = parse_chain(chain).leaf.not_valid_after_utc
    left_s = (over - datetime.datetime.now(datetime.UTC)).total_seconds()
    assert left_s < LIFE_S + 5, f"the CA gave it until {over}"
    time.sleep(max(0.0, left_s + 1))
    return chain


def _order(acme: Acme, names: list[str], csr_pem: bytes, end: datetime.datetime) -> Order:
    client: Any = acme._client
    wanted = DatedOrder(
        identifiers=[messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name) for name in names],
        not_before=(end - datetime.timedelta(hours=1)).isoformat().replace("+00:00", "Z"),
        not_after=end.isoformat().replace("+00:00", "Z"),
    )
    answer = client._post(client.directory["newOrder"], wanted)
    resource = messages.OrderResource(
        body=messages.Order.from_json(answer.json()), uri=answer.headers["Location"], csr_pem=csr_pem
    )
    return acme.refresh(Order(resource), deep=True)


def _publish(live: Live, values: dict[str, list[str]]) -> None:
    """TXT records of the provider's zone; none for an empty list."""
    sets = [
        {
            "name": f"{name}.",
            "type": "TXT",
            "ttl": 1,
            "changetype": "REPLACE" if texts else "DELETE",
            "records": [{"content": text, "disabled": False} for text in texts],
        }
        for name, texts in values.items()
    ]
    live.powerdns("PATCH", f"zones/{ZONE}.", {"rrsets": sets})
