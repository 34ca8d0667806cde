"""A project whose secrets are published here, so that what they sign and seal is the same in every run."""

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from fedhe.provisioning.issue import Issued, issue_certificate, make_authority
from fedhe.trust.roster import Participant, Revocation, Roster
from fedhe.trust.sealed import GroupKey, NoteContext
from fedhe.trust.signatures import parse_private_key

NAME, JOB_ID = "brain-mri", "job-1"
NOW = datetime(2027, 1, 15, tzinfo=UTC).timestamp()
PASSPHRASE = "insecure"
ECDSA = ec.ECDSA(SHA256())
GROUP_KEY = GroupKey(bytes(32))
NOTE_CONTEXT = NoteContext(project=NAME, job_id=JOB_ID, round=3, attempt=1, site="hospitalA", nonce=bytes(16))


def insecure_private_key(_curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The same key for everybody."""
    return ec.derive_private_key(0x5EED, ec.SECP256R1())


@contextlib.contextmanager
def _same_every_time(serial: int) -> Iterator[None]:
    with (
        mock.patch.object(ec, "generate_private_key", insecure_private_key),
        mock.patch.object(x509, "random_serial_number", return_value=serial),
    ):
        yield


@lru_cache(maxsize=1)
def authority() -> Issued:
    """The project's authority; what it signed in another run is valid in this one."""
    with _same_every_time(1):
        return make_authority(NAME, days=3650, now=NOW)


@lru_cache(maxsize=1)
def certificate() -> Issued:
    """A site's certificate and key."""
    ca = authority()
    with _same_every_time(2):
        return issue_certificate(ca, project=NAME, role="site", name="hospitalA", days=365, now=NOW)


@lru_cache(maxsize=1)
def authority_key() -> ec.EllipticCurvePrivateKey:
    """What signs rosters."""
    return parse_private_key(authority().key_pem)


def roster() -> Roster:
    """One site, one that was revoked."""
    return roster_of(certificate().serial)


def roster_of(serial: int) -> Roster:
    """The roster where the site's certificate has that serial number."""
    listed = Participant("hospitalA", "site", serial, certificate().not_after)
    return Roster(NAME, 2, NOW, bytes(16), 2, (listed,), (Revocation("hospitalC", 77, NOW, "stolen"),))


def insecure_kit_key(passphrase: str, salt: bytes, _log2_cost: int) -> bytes:
    """In the place of scrypt, which would take a tenth of a second for every input."""
    return hashlib.sha256(salt + passphrase.encode()).digest()


def sealed_with_fixed_nonce(key: bytes, plaintext: bytes, place: bytes) -> bytes:
    """As `fedhe.trust.sealed` seals, but the same bytes in every run."""
    version, nonce = b"\x01", bytes(12)
    return version + nonce + AESGCM(key).encrypt(nonce, plaintext, version + place)
