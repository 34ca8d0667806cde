"""Makes the project's authority, and certificates that it issues: name and role inside, one purpose each."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhe.errors import TrustError
from fedhe.trust.certificates import AUTHORITY, SERVER, load_certificate
from fedhe.trust.signatures import parse_private_key

CLOCK_SLACK = timedelta(hours=1)
"""Certificates are valid from this long before they were made: the clocks of hospitals differ."""

LOCALHOST = "localhost"
_LOCAL_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Issued:
    """A certificate with its private key.

    Attributes:
        key_pem: secret; in no `repr`.
        not_after: when it expires, seconds since 1970 UTC.
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    serial: int
    not_after: float


def make_authority(project: str, *, days: int, now: float) -> Issued:
    """A new P-256 authority for one project; it can issue participants' certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(project, AUTHORITY, f"{project} authority"[:64])
    builder = (
        _builder(name, name, key.public_key(), days=days, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(issues=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _issued(builder, key, key)


def issue_certificate(
    authority: Issued, *, project: str, role: str, name: str, hosts: Sequence[str] = (), days: int, now: float
) -> Issued:
    """A new key and a certificate for it.

    Args:
        authority: of the project.
        project: the project's name.
        role: "server", "site", "admin-lead" or "admin-observer".
        name: the participant's name.
        hosts: DNS names and IP addresses; the server's only, see `server_hosts`.
        days: life in days; cut so that it does not outlive the authority.
        now: seconds since 1970 UTC.

    Raises:
        TrustError: the authority itself has expired.
    """
    ca = load_certificate(authority.certificate_pem)
    if now >= authority.not_after:
        raise TrustError(
            f"the authority of project {project} expired on {ca.not_valid_after_utc:%Y-%m-%d}",
            "provision the project anew into an empty folder (--out)",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(
            _subject(project, role, name), ca.subject, key.public_key(), days=days, now=now, latest=authority.not_after
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(issues=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False)
    return _issued(builder, key, parse_private_key(authority.key_pem, "key of the authority"))


def server_hosts(host: str) -> tuple[str, ...]:
    """The names in a server's certificate: its host; all names of this computer only where that is one of them."""
    return (LOCALHOST, *_LOCAL_ADDRESSES) if host in (LOCALHOST, *_LOCAL_ADDRESSES) else (host,)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    days: int,
    now: float,
    latest: float | None = None,
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC)
    ends = moment + timedelta(days=days)
    if latest is not None:
        ends = min(ends, datetime.fromtimestamp(latest, UTC))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_SLACK)
        .not_valid_after(ends)
    )


def _subject(project: str, role: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, project),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _issued(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> Issued:
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return Issued(
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
