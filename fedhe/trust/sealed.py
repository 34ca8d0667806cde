"""What only holders of the group key can read or make: sealed notes, model fingerprints, sealed checkpoints.

Each purpose has its own key, derived from the group key with HKDF-SHA256 (RFC 5869) under the purpose's label.
Sealing is AES-256-GCM with a random 12-byte nonce; the place that the bytes belong to (project, job, round, ...) is
authenticated with them, so that what was sealed for one place does not open at another. The server must never import
this module.

Nonces are random: NIST SP 800-38D allows 2^32 messages under one key, and every job has a key of its own.
"""

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhe.errors import TrustError
from fedhe.trust.installation import GROUP_KEY_MAGIC

SEALED_VERSION = 1
NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = 1 + NONCE_BYTES + TAG_BYTES
"""How many bytes longer the sealed form is: version, nonce, tag."""
FINGERPRINT_BYTES = 32
DIGEST_BYTES = 32
GROUP_KEY_BYTES = 32

_NOTE = b"fedhe/v1/note"
_FINGERPRINT = b"fedhe/v1/model-fingerprint"
_CHECKPOINT = b"fedhe/v1/checkpoint"
_GROUP_KEY_VERSION = b"\x01"


class GroupKey:
    """The 32 secret bytes that all sites of a project share; shown by no `repr`."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != GROUP_KEY_BYTES:
            raise TrustError(f"group key: expected {GROUP_KEY_BYTES} bytes, got {len(secret)}")
        self._secret = bytes(secret)

    @classmethod
    def generate(cls) -> "GroupKey":
        """A fresh key from the operating system's generator."""
        return cls(os.urandom(GROUP_KEY_BYTES))

    def to_bytes(self) -> bytes:
        """The key as a file: magic, version, key, SHA-256 over all before it. Secret."""
        body = GROUP_KEY_MAGIC + _GROUP_KEY_VERSION + self._secret
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> "GroupKey":
        """Reads what `to_bytes` wrote.

        Raises:
            TrustError: not a group key, of another version, cut or altered.
        """
        head = GROUP_KEY_MAGIC + _GROUP_KEY_VERSION
        size = len(head) + GROUP_KEY_BYTES + hashlib.sha256().digest_size
        if not data.startswith(head):
            raise TrustError("group key: expected a group key of version 1, got something else")
        if len(data) != size:
            raise TrustError(f"group key: expected {size} bytes, got {len(data)}", "the file was cut or altered")
        body = data[: len(head) + GROUP_KEY_BYTES]
        if not hmac.compare_digest(hashlib.sha256(body).digest(), data[len(body) :]):
            raise TrustError("group key: its checksum does not fit", "the file was altered; install the kit again")
        return cls(body[len(head) :])

    def derive(self, label: bytes, job_id: str) -> bytes:
        """32 bytes that serve one purpose in one job, by HKDF-SHA256. Secret."""
        info = _fields(label, job_id.encode())
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(self._secret)

    def __repr__(self) -> str:
        return "GroupKey(hidden)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(hashlib.sha256(self._secret).digest())


@dataclass(frozen=True)
class NoteContext:
    """The place that a note belongs to.

    Attributes:
        nonce: of the READY that carries the note, 16 bytes.
    """

    project: str
    job_id: str
    round: int
    attempt: int
    site: str
    nonce: bytes

    def to_bytes(self) -> bytes:
        """One unambiguous form for each context."""
        return _fields(
            _NOTE,
            self.project.encode(),
            self.job_id.encode(),
            _number(self.round),
            _number(self.attempt),
            self.site.encode(),
            self.nonce,
        )


def seal_note(key: GroupKey, *, context: NoteContext, note: bytes) -> bytes:
    """Seals a note; `OVERHEAD_BYTES` longer than the note."""
    return _seal(key.derive(_NOTE, context.job_id), note, context.to_bytes())


def open_note(key: GroupKey, *, context: NoteContext, note: bytes) -> bytes:
    """Opens what `seal_note` made for the same context.

    Raises:
        TrustError: sealed for another context, under another key, cut or altered.
    """
    what = f"note of {context.site} for round {context.round}"
    return _open(key.derive(_NOTE, context.job_id), note, context.to_bytes(), what)


def model_fingerprint(key: GroupKey, job_id: str, version: int, model_bytes_digest: bytes) -> bytes:
    """HMAC-SHA256 of a model's digest, 32 bytes: equal where the models are, and no hint at the model without the key.

    Args:
        key: the project's group key.
        job_id: the job that the model belongs to.
        version: rounds applied.
        model_bytes_digest: SHA-256 over the model's bytes, 32 bytes.

    Raises:
        ValueError: the digest has another length.
    """
    if len(model_bytes_digest) != DIGEST_BYTES:
        raise ValueError(f"model digest: expected {DIGEST_BYTES} bytes, got {len(model_bytes_digest)}")
    message = _fields(_FINGERPRINT, job_id.encode(), _number(version), model_bytes_digest)
    return hmac.digest(key.derive(_FINGERPRINT, job_id), message, "sha256")


def seal_checkpoint_chunk(  # noqa: PLR0917 - the place in its natural order
    key: GroupKey, job_id: str, version: int, index: int, chunks: int, data: bytes
) -> bytes:
    """Seals chunk `index` of `chunks` of a model's checkpoint; `OVERHEAD_BYTES` longer than the data."""
    return _seal(key.derive(_CHECKPOINT, job_id), data, _checkpoint_place(job_id, version, index, chunks))


def open_checkpoint_chunk(  # noqa: PLR0917 - the place in its natural order
    key: GroupKey, job_id: str, version: int, index: int, chunks: int, data: bytes
) -> bytes:
    """Opens what `seal_checkpoint_chunk` made for the same place.

    Raises:
        TrustError: of another job, version, place or number of chunks, under another key, cut or altered.
    """
    what = f"checkpoint of version {version}, chunk {index} of {chunks}"
    return _open(key.derive(_CHECKPOINT, job_id), data, _checkpoint_place(job_id, version, index, chunks), what)


def _checkpoint_place(job_id: str, version: int, index: int, chunks: int) -> bytes:
    return _fields(_CHECKPOINT, job_id.encode(), _number(version), _number(index), _number(chunks))


def _seal(key: bytes, data: bytes, place: bytes) -> bytes:
    version, nonce = bytes([SEALED_VERSION]), os.urandom(NONCE_BYTES)
    return version + nonce + AESGCM(key).encrypt(nonce, data, version + place)


def _open(key: bytes, sealed: bytes, place: bytes, what: str) -> bytes:
    if len(sealed) < OVERHEAD_BYTES:
        raise TrustError(f"{what}: expected at least {OVERHEAD_BYTES} bytes, got {len(sealed)}")
    if sealed[0] != SEALED_VERSION:
        raise TrustError(f"{what}: expected sealed form {SEALED_VERSION}, got {sealed[0]}", "update fedhe here")
    nonce = sealed[1 : 1 + NONCE_BYTES]
    try:
        return AESGCM(key).decrypt(nonce, sealed[1 + NONCE_BYTES :], sealed[:1] + place)
    except InvalidTag as error:
        raise TrustError(
            f"{what}: does not open: sealed with another group key or for another place, or altered",
            "do all sites have kits of the same keys?",
        ) from error


def _fields(*parts: bytes) -> bytes:
    """Joins parts so that no two lists give the same bytes: each with its length as 4 bytes, big-endian."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _number(value: int) -> bytes:
    return struct.pack(">q", value)
