"""The certificates of a cluster: its own authority, and what it signs. Imported late: it takes memory.

The authority may sign for private addresses and local names only (a critical name constraint), so that a
browser which trusts it risks nothing on the internet even if its key is stolen.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import InvalidRequestError
from common.tls import fingerprint_of

AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
LEAF_LIFETIME = datetime.timedelta(days=90)
# Clocks of PCs differ: a certificate made now is good on a PC whose clock is a day behind.
_BACKDATED = datetime.timedelta(days=1)
_LOCAL_NAMES = ("localhost", "internal", "local", "lan", "home", "home.arpa", "localdomain")
_PRIVATE_NETWORKS = (
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
    "::1/128", "fc00::/7", "fe80::/10",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: `certificate` travels, `key` never leaves its machine (both PEM)."""

    certificate: str
    key: str

    @classmethod
    def make(cls, owner: str, addresses: Iterable[str] = (), *, now: datetime.datetime) -> Authority:
        """A new authority, which may sign for local names, private networks, `owner` and `addresses`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"lan-council authority of {owner}"[:64])])
        networks = [*_PRIVATE_NETWORKS, *addresses]
        names = [*_LOCAL_NAMES, *([owner] if _is_host_name(owner) else [])]
        allowed = x509.NameConstraints(
            permitted_subtrees=[
                *(x509.DNSName(one) for one in dict.fromkeys(names)),
                *(x509.IPAddress(ipaddress.ip_network(one)) for one in dict.fromkeys(networks)),
            ],
            excluded_subtrees=None,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(allowed, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), _key_pem(key))

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.certificate)

    def may_sign(self, name: str) -> bool:
        """Whether a certificate for this host name or address would be believed."""
        issuer = x509.load_pem_x509_certificate(self.certificate.encode())
        constraints = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
        found = _general_name(name)
        return found is not None and _permitted(found, constraints)

    def issue(
        self, names: Sequence[str], public_key: ec.EllipticCurvePublicKey, now: datetime.datetime
    ) -> str:
        """A server's certificate for these host names and addresses (PEM).

        Names that the authority may not sign for are left out, see `may_sign`.
        """
        issuer = x509.load_pem_x509_certificate(self.certificate.encode())
        key = serialization.load_pem_private_key(self.key.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not one of ours")
        constraints = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
        alternatives = [one for one in map(_general_name, names) if one and _permitted(one, constraints)]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(min(now + LEAF_LIFETIME, issuer.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return _pem(certificate)

    def issue_with_key(self, names: Sequence[str], now: datetime.datetime) -> str:
        """A new private key, its certificate and the authority's, in one text."""
        key = ec.generate_private_key(ec.SECP256R1())
        return _key_pem(key) + self.issue(names, key.public_key(), now) + self.certificate

    def sign_request(self, request_pem: str, names: Sequence[str], now: datetime.datetime) -> str:
        """The certificate for a request. The names are ours to say: those that the request asks for count
        for nothing. Raises `InvalidRequestError`.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem.encode())
            valid = request.is_signature_valid
            public_key = request.public_key()
        except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
            raise InvalidRequestError("the request for a certificate cannot be read") from error
        if not valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise InvalidRequestError("the request for a certificate has to be signed with an EC key")
        return self.issue(names, public_key, now)


def new_private_key() -> str:
    """A private key (PEM)."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def certificate_request(key_pem: str) -> str:
    """Proof that one has this private key, for an authority to sign (PEM)."""
    key = _load_key(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lan-council node")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def self_signed(key_pem: str, name: str, now: datetime.datetime) -> str:
    """A certificate that stands for itself, known by its fingerprint (PEM)."""
    key = _load_key(key_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate)


def expires_at(certificate_pem: str) -> datetime.datetime:
    """The end of a certificate (UTC)."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


def host_names(certificate_pem: str) -> list[str]:
    """The host names that the first certificate of a chain was made for, without patterns (`*.example.org`).

    Raises `ValueError` when there is none that can be read.
    """
    extensions = x509.load_pem_x509_certificate(certificate_pem.encode()).extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name for name in names.get_values_for_type(x509.DNSName) if _is_host_name(name)]


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(key_pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not one of ours")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _is_host_name(text: str) -> bool:
    labels = text.split(".")
    return all(
        label and len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum()
        for label in labels
    )


def _general_name(text: str) -> x509.DNSName | x509.IPAddress | None:
    try:
        return x509.IPAddress(ipaddress.ip_address(text.split("%")[0]))
    except ValueError:
        return x509.DNSName(text) if _is_host_name(text) else None


def _permitted(name: x509.DNSName | x509.IPAddress, constraints: x509.NameConstraints) -> bool:
    for subtree in constraints.permitted_subtrees or ():
        if isinstance(name, x509.IPAddress) and isinstance(subtree, x509.IPAddress):
            if ipaddress.ip_address(str(name.value)) in ipaddress.ip_network(str(subtree.value)):
                return True
        elif isinstance(name, x509.DNSName) and isinstance(subtree, x509.DNSName):
            text, allowed = name.value.lower(), subtree.value.lower()
            if text == allowed or text.endswith(f".{allowed}"):
                return True
    return False
