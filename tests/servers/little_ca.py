"""A certificate authority of a few lines for tests: a root, an intermediate if wanted, leaves as odd as needed."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
BOTH_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class LittleCa:
    """``issue`` gives (chain PEM without the root, key PEM); ``root_pem`` is what a client trusts."""

    def __init__(self, name: str = "Little test root", *, parent: LittleCa | None = None, days: int = 10) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.parent = parent
        now = datetime.datetime.now(datetime.UTC)
        issuer = parent or self
        self.certificate = (
            x509.CertificateBuilder(issuer.name, self.name, self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 20 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def root_pem(self) -> str:
        return self.parent.root_pem if self.parent else pem_of(self.certificate)

    @property
    def intermediates_pem(self) -> str:
        return pem_of(self.certificate) + self.parent.intermediates_pem if self.parent else ""

    def issue(
        self,
        names: Sequence[str],
        *,
        other: Sequence[x509.GeneralName] = (),
        purposes: Sequence[x509.ObjectIdentifier] = BOTH_PURPOSES,
        since: datetime.timedelta = -DAY,
        until: datetime.timedelta = 5 * DAY,
        common_name: str = "",
    ) -> tuple[str, str]:
        """``since`` and ``until`` count from now. No names at all: a leaf without subjectAltName."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        alternatives = [general_name(n) for n in names] + list(other)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not common_name)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
        leaf = builder.sign(self.key, hashes.SHA256())
        return pem_of(leaf) + self.intermediates_pem, key_pem(key)
