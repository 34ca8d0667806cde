"""ECDSA signatures (P-256 with SHA-256) over labelled bytes: one kind of statement cannot pass as another."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedhe.errors import TrustError
from fedhe.trust.certificates import load_certificate

READY_LABEL = b"fedhe/v1/ready\0"
JOB_LABEL = b"fedhe/v1/job\0"
ROSTER_LABEL = b"fedhe/v1/roster\0"

MAX_SIGNATURE_BYTES = 256


def sign(label: bytes, body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Signs `label + body`; returns a DER signature of about 71 bytes."""
    return key.sign(label + body, ec.ECDSA(hashes.SHA256()))


def verify(label: bytes, body: bytes, signature: bytes, certificate_der: bytes) -> None:
    """Checks a signature by the key of a certificate (DER or PEM). Whose that is, `verify_certificate` says.

    Raises:
        TrustError: the signature is not that key's over `label + body`, or the certificate is not readable.
    """
    certificate = load_certificate(certificate_der)
    what = label.rstrip(b"\0").decode("ascii", "replace").rpartition("/")[2]
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{what}: the key of the signer's certificate cannot be read ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"{what}: expected a certificate with a P-256 key, got another kind")
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise TrustError(f"{what}: expected a signature of at most {MAX_SIGNATURE_BYTES} bytes, got {len(signature)}")
    try:
        key.verify(signature, label + body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise TrustError(
            f"{what}: the signature does not fit the content and its certificate",
            "it was altered on the way, or signed by somebody else",
        ) from error


def parse_private_key(pem: bytes, origin: str = "private key") -> ec.EllipticCurvePrivateKey:
    """Parses a PEM key; `origin` names it in errors.

    Raises:
        TrustError: not an unencrypted P-256 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{origin}: expected an unencrypted PEM private key, got something else") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"{origin}: expected a P-256 private key, got another kind")
    return key
