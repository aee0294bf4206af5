"""X.509 certificates as values: keys, requests, chains, whose names they carry and whom they lead to.

Pure functions over PEM text: no sockets, no files, no clock (``at`` is always given). Getting a chain is
left to ``drivers.ca`` and ``probes.tls``, keeping it to the ``certificates`` room.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from OpenSSL import crypto

from controlplane.values.errors import InvalidInput
from controlplane.values.names import DomainName
from controlplane.values.secret import Secret

#: otherName types of RFC 6120 §13.7.1.4 and RFC 4985 §2.
ID_ON_XMPP_ADDR = ObjectIdentifier("1.3.6.1.5.5.7.8.5")
ID_ON_DNS_SRV = ObjectIdentifier("1.3.6.1.5.5.7.8.7")
_UTF8_STRING, _IA5_STRING = 0x0C, 0x16


@dataclass(frozen=True, slots=True)
class Names:
    """The identifiers of a certificate's subjectAltName, lower case: ``dns`` may hold wildcards."""

    dns: tuple[str, ...] = ()
    xmpp: tuple[str, ...] = ()
    srv: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A certificate and the issuers that were given with it, the leaf first, as PEM text."""

    certificates: tuple[x509.Certificate, ...] = field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    @cached_property
    def pem(self) -> str:
        """The whole chain, each certificate once, in the order it was given."""
        return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in self.certificates)

    @property
    def serial(self) -> str:
        """The leaf's serial number in lower-case hexadecimal without leading zeros."""
        return f"{self.leaf.serial_number:x}"

    @property
    def not_before(self) -> datetime.datetime:
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime.datetime:
        return self.leaf.not_valid_after_utc

    @property
    def renew_at(self) -> datetime.datetime:
        """When two thirds of the lifetime are over: what is done without the CA's renewal information."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3

    @property
    def issuer(self) -> str:
        return self.leaf.issuer.rfc4514_string()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the leaf's DER, lower-case hexadecimal."""
        return self.leaf.fingerprint(hashes.SHA256()).hex()

    @cached_property
    def names(self) -> Names:
        return subject_names(self.leaf)

    @property
    def for_clients(self) -> bool:
        """True if a peer may take it for s2s EXTERNAL in the client's part (RFC 5280 §4.2.1.12).

        Without the purpose clientAuth, engines that check it fall back to dialback.
        """
        try:
            usage = self.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return True
        return ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage

    def covers(self, domain: DomainName, service: str = "") -> bool:
        """True if a peer that wants ``domain`` accepts this certificate's names, see ``matches``."""
        return matches(self.names, domain, service)

    def fits_key(self, private_key: Secret) -> bool:
        """True if the leaf was issued for this key (PEM)."""
        return _spki(load_key(private_key).public_key()) == _spki(self.leaf.public_key())

    def __str__(self) -> str:
        return f"certificate {self.serial} for {', '.join(self.names.dns) or 'no name'}"


def parse_chain(pem: str, *, field: str = "chain") -> Chain:
    """One PEM certificate or more, the leaf first. Raises ``InvalidInput``."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        chain = Chain(tuple(certificates))
        _ = chain.names  # a leaf whose extensions cannot be read is refused here, not later
    except (ValueError, x509.DuplicateExtension, UnicodeError) as error:
        raise InvalidInput(field, f"This is not a chain of PEM certificates: {error}.") from error
    return chain


def subject_names(certificate: x509.Certificate) -> Names:
    """What subjectAltName says; a certificate without it has no names (the common name does not count)."""
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names()
    other = san.get_values_for_type(x509.OtherName)
    return Names(
        dns=tuple(n.lower().rstrip(".") for n in san.get_values_for_type(x509.DNSName)),
        xmpp=tuple(_der_text(o.value, _UTF8_STRING).lower() for o in other if o.type_id == ID_ON_XMPP_ADDR),
        srv=tuple(_der_text(o.value, _IA5_STRING).lower() for o in other if o.type_id == ID_ON_DNS_SRV),
    )


def matches(names: Names, domain: DomainName, service: str = "") -> bool:
    """True if one of the names identifies ``domain`` (RFC 6120 §13.7.1.2, RFC 6125 §6.4, RFC 9525 §6.3).

    A dNSName that is equal, or a wildcard whose ``*`` is the whole first label and stands for exactly one;
    an XmppAddr that is equal; an SRVName ``_service.domain`` if ``service`` ("xmpp-client" or
    "xmpp-server") is given. The common name is never looked at.
    """
    wanted = domain.ascii
    if wanted in names.dns or f"*.{wanted.partition('.')[2]}" in names.dns:
        return True
    if any(_same_domain(address, domain) for address in names.xmpp):
        return True
    return bool(service) and f"_{service}.{wanted}" in names.srv


def distrust(chain: Chain, roots_pem: str, at: datetime.datetime) -> str:
    """Why ``chain`` leads to none of the roots at that time, in OpenSSL's words; empty if it does.

    Signatures, dates, basic constraints and path length are checked; the leaf's purpose and names are not.
    Raises ``InvalidInput`` for roots that are none.
    """
    store = crypto.X509Store()
    for root in parse_chain(roots_pem, field="trust_roots").certificates:
        store.add_cert(crypto.X509.from_cryptography(root))
    store.set_time(at)
    given = [crypto.X509.from_cryptography(c) for c in chain.certificates]
    try:
        crypto.X509StoreContext(store, given[0], given[1:]).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error.args[0])
    return ""


def is_ordered(chain: Chain) -> bool:
    """True if each certificate is signed by the next one, as RFC 5246 §7.4.2 has it on the wire."""
    try:
        for issued, issuer in zip(chain.certificates, chain.certificates[1:], strict=False):
            issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def new_key() -> Secret:
    """A new EC P-256 private key, PKCS#8 PEM without a pass phrase."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Secret(pem.decode())


def load_key(pem: Secret, *, field: str = "private_key") -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """The EC or RSA private key in a PEM text. Raises ``InvalidInput`` (which never quotes it)."""
    try:
        key = serialization.load_pem_private_key(pem.reveal().encode(), password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInput(field, "This is not a private key in PEM without a pass phrase.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidInput(field, "This key is neither EC nor RSA.")
    return key


def new_request(private_key: Secret, names: Sequence[DomainName]) -> str:
    """A PKCS#10 request in PEM for all these names in subjectAltName, with an empty subject (RFC 8555 §7.4).

    Order is kept and doubles are dropped. Raises ``InvalidInput`` when there is no name.
    """
    unique = list(dict.fromkeys(names))
    if not unique:
        raise InvalidInput("names", "A certificate needs at least one name.")
    key = load_key(private_key)
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(n.ascii) for n in unique]), critical=False
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def request_names(csr_pem: str) -> tuple[str, ...]:
    """The dNSNames a PKCS#10 request asks for. Raises ``InvalidInput``."""
    request = load_request(csr_pem)
    try:
        san = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(san.get_values_for_type(x509.DNSName))


def load_request(csr_pem: str) -> x509.CertificateSigningRequest:
    """The PKCS#10 request in a PEM text. Raises ``InvalidInput``."""
    try:
        return x509.load_pem_x509_csr(csr_pem.encode())
    except (ValueError, UnicodeError) as error:
        raise InvalidInput("csr", "This is not a certificate request in PEM.") from error


def answers_request(chain: Chain, csr_pem: str) -> bool:
    """True if the leaf has the key of the request and all of its names."""
    request = load_request(csr_pem)
    wanted = {n.lower() for n in request_names(csr_pem)}
    return _spki(request.public_key()) == _spki(chain.leaf.public_key()) and wanted <= set(chain.names.dns)


def renewal_id(certificate: x509.Certificate) -> str:
    """The certificate's identifier in ACME Renewal Information (RFC 9773 §4.1). Raises ``InvalidInput``."""
    try:
        identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        identifier = None
    if not identifier:
        raise InvalidInput("chain", "The certificate has no authority key identifier.")
    serial = certificate.serial_number
    # DER integers are signed: a first bit that is set gets a zero octet before it.
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{_base64url(identifier)}.{_base64url(octets)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _same_domain(address: str, domain: DomainName) -> bool:
    """XmppAddr holds U-labels (RFC 6120 §13.7.1.4); a certificate with A-labels is let pass too."""
    if address == domain.ascii:
        return True
    try:
        return DomainName.parse(address) == domain
    except InvalidInput:
        return False


def _der_text(der: bytes, tag: int) -> str:
    """The text of one DER string of that tag (definite length, X.690 §8.1.3); empty if it is anything else."""
    if len(der) < 2 or der[0] != tag:
        return ""
    length, start = der[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, start = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
    body = der[start:]
    if len(body) != length:
        return ""
    try:
        return body.decode("utf-8" if tag == _UTF8_STRING else "ascii")
    except UnicodeDecodeError:
        return ""
