"""Who a certificate names: project, role and name are in its subject, and the project's authority vouches for them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from fedhe.errors import TrustError

MAX_CERTIFICATE_BYTES = 16 * 1024
"""Largest certificate that is parsed; ours have about 900 bytes."""

AUTHORITY = "authority"
SERVER = "server"
SITE = "site"
ADMIN_LEAD = "admin-lead"
ADMIN_OBSERVER = "admin-observer"
ROLES = (SERVER, SITE, ADMIN_LEAD, ADMIN_OBSERVER)

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names.

    Attributes:
        project: the project's name (subject O).
        role: "server", "site", "admin-lead" or "admin-observer" (subject OU).
        name: the participant's name (subject CN).
        serial: the certificate's serial number.
        not_after: when it expires, seconds since 1970 UTC.
        fingerprint: SHA-256 of the certificate, 32 bytes.
    """

    project: str
    role: str
    name: str
    serial: int
    not_after: float
    fingerprint: bytes

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


def load_certificate(pem_or_der: bytes) -> x509.Certificate:
    """Parses one certificate, PEM or DER.

    Raises:
        TrustError: not a certificate, or larger than `MAX_CERTIFICATE_BYTES`.
    """
    if len(pem_or_der) > MAX_CERTIFICATE_BYTES:
        raise TrustError(f"certificate: expected at most {MAX_CERTIFICATE_BYTES} bytes, got {len(pem_or_der)}")
    try:
        if b"-----BEGIN" in pem_or_der:
            certificate = x509.load_pem_x509_certificate(pem_or_der)
        else:
            certificate = x509.load_der_x509_certificate(pem_or_der)
        # These are parsed when first asked for: ask here, so that all that can be unreadable is found in one place.
        for part in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc", "serial_number"):
            getattr(certificate, part)
    except _UNREADABLE as error:
        raise TrustError(f"certificate: expected PEM or DER, got {pem_or_der[:16]!r}… ({error})") from error
    return certificate


def identity_of(pem_or_der: bytes) -> Identity:
    """Reads whom a certificate names. This does not say whether to believe it: see `verify_certificate`.

    Raises:
        TrustError: not a certificate, or its subject is not one project, one known role and one name.
    """
    return _identity(load_certificate(pem_or_der))


def _identity(certificate: x509.Certificate) -> Identity:
    project, role, name = (
        _one(certificate.subject, oid)
        for oid in (NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME)
    )
    if role not in ROLES:
        raise TrustError(f"certificate of {name!r:.80}: expected a role out of {', '.join(ROLES)}, got {role!r:.80}")
    return Identity(
        project=project,
        role=role,
        name=name,
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc.timestamp(),
        fingerprint=certificate.fingerprint(SHA256()),
    )


def _one(subject: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = [attribute.value for attribute in subject.get_attributes_for_oid(oid)]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0]:
        label = oid._name  # noqa: SLF001 - the only name that cryptography keeps for an object identifier
        raise TrustError(f"certificate: expected one {label} in its subject, got {len(values)}")
    return values[0]


def verify_certificate(cert: bytes, ca: bytes, now: float) -> Identity:
    """Believes a certificate only if the project's authority issued it and it is valid now.

    Revocation and role are the roster's to say: `Roster.check`.

    Args:
        cert: PEM or DER.
        ca: the authority's certificate, PEM or DER.
        now: seconds since 1970 UTC.

    Raises:
        TrustError: not issued by this authority, expired, not yet valid, itself an authority, of another project, or
            not readable; the message says which.
    """
    certificate, authority = load_certificate(cert), load_certificate(ca)
    identity = _identity(certificate)
    who = f"certificate of {identity.role} {identity.name:.80}"
    try:
        if not _is_authority(authority):
            raise TrustError(
                "the project's authority: expected a certificate that may issue others, got one that may not"
            )
        certificate.verify_directly_issued_by(authority)
        if _is_authority(certificate):
            raise TrustError(f"{who}: expected a participant's certificate, got one that may issue others")
        if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
            raise TrustError(f"{who}: expected an elliptic-curve key, got another kind")
        project = _one(authority.subject, NameOID.ORGANIZATION_NAME)
    except (InvalidSignature, *_UNREADABLE) as error:
        raise TrustError(
            f"{who}: issued by a foreign authority ({_name(certificate.issuer)}), "
            f"expected {_name(authority.subject)} of this project",
            "is this the kit of another project, or from before a new beginning?",
        ) from error
    if identity.project != project:
        raise TrustError(f"{who}: expected project {project}, got {identity.project!r:.80}")
    _check_validity(authority, "certificate of the project's authority", now)
    _check_validity(certificate, who, now)
    return identity


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_validity(certificate: x509.Certificate, who: str, now: float) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins.timestamp():
        raise TrustError(
            f"{who}: not valid before {_day(begins)}, now is {_day(datetime.fromtimestamp(now, UTC))}",
            "check this computer's clock",
        )
    if now >= ends.timestamp():
        raise TrustError(
            f"{who}: expired on {_day(ends)}, now is {_day(datetime.fromtimestamp(now, UTC))}",
            "ask the coordinator for a new kit (fedhe-provision --renew NAME)",
        )


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _name(name: x509.Name) -> str:
    return name.rfc4514_string()[:120]
