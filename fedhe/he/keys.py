"""The CKKS secret key of a project: made by SEAL, written to one small file, named by an id that tells nothing of it.

File, little-endian: magic (16 bytes), version (1), parameters' ring id (16), key id (16), the key modulo each prime of
SEAL's key level in NTT form (uint32 each), SHA-256 over all before it.
"""

import hashlib
import hmac
from typing import Self

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from fedhe.errors import TrustError
from fedhe.he.params import SUPPORTED_DEGREE, CkksParams
from fedhe.he.seal_stream import SealStream

KEY_MAGIC = b"FEDHE-SECRET-KEY"
KEY_VERSION = 1
KEY_ID_BYTES = 16
_LEVEL_PRIMES = 3  # two of the data modulus and SEAL's key-switching prime
_ID_LABEL = b"fedhe/v1/key-id\0"
_CHECK_LABEL = b"fedhe/v1/key-check\0"
_HEAD = len(KEY_MAGIC) + 1
_KEY_BYTES = 4 * _LEVEL_PRIMES * SUPPORTED_DEGREE
KEY_FILE_BYTES = _HEAD + 16 + KEY_ID_BYTES + _KEY_BYTES + 32


class SecretKey:
    """The secret key. Its text form shows only the id; it cannot be pickled.

    Python cannot wipe memory reliably; whoever reads a site's memory has the key.

    Attributes:
        ring_id: 16 bytes, the ring that the key belongs to (`CkksParams.ring_id`).
        key_id: 16 bytes, hash of the ring id and a key check value; public.
    """

    __slots__ = ("_residues", "key_id", "ring_id")

    def __init__(self, ring_id: bytes, residues: NDArray[np.uint32]) -> None:
        """Takes the key as residues; `generate` and `from_bytes` are how to get one.

        Args:
            ring_id: 16 bytes.
            residues: (3, degree) uint32, NTT form, modulo each prime of SEAL's key level.
        """
        self.ring_id = ring_id
        self._residues = residues.astype("<u4")
        self._residues.flags.writeable = False
        check = hashlib.sha256(_CHECK_LABEL + self._residues.tobytes()).digest()
        self.key_id = hashlib.sha256(_ID_LABEL + ring_id + check).digest()[:KEY_ID_BYTES]

    def __repr__(self) -> str:
        return f"SecretKey(key_id={self.key_id.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a SecretKey is not pickled; use to_bytes and keep the bytes secret")

    @classmethod
    def generate(cls, params: CkksParams) -> Self:
        """A new key from SEAL's KeyGenerator, with SEAL's own randomness.

        Raises:
            ConfigError: this build of SEAL differs from what this program knows.
        """
        stream = SealStream(params)
        # The generator is never seeded by us: SEAL would make encryption deterministic with it.
        body = stream.save(seal.KeyGenerator(stream.context).secret_key())
        stream.wipe()
        values = np.frombuffer(body[-8 * _LEVEL_PRIMES * params.poly_modulus_degree :], dtype="<u8")
        return cls(params.ring_id, values.reshape(_LEVEL_PRIMES, -1).astype(np.uint32))

    def to_bytes(self) -> bytes:
        """The key as a file. Secret: mode 0600, in a folder of mode 0700, and never to the server."""
        body = b"".join([KEY_MAGIC, bytes([KEY_VERSION]), self.ring_id, self.key_id, self._residues.tobytes()])
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            TrustError: not a secret key, of another version, cut off, or damaged.
        """
        if data[: len(KEY_MAGIC)] != KEY_MAGIC:
            raise TrustError(f"HE secret key: expected it to begin with {KEY_MAGIC!r}, got another file")
        if data[len(KEY_MAGIC) : _HEAD] != bytes([KEY_VERSION]):
            raise TrustError(
                f"HE secret key: expected version {KEY_VERSION}, got {data[len(KEY_MAGIC) : _HEAD].hex() or 'nothing'}",
                "install a kit that was made with this release of fedhe",
            )
        if len(data) != KEY_FILE_BYTES:
            raise TrustError(f"HE secret key: expected {KEY_FILE_BYTES} bytes, got {len(data)}")
        if not hmac.compare_digest(hashlib.sha256(data[:-32]).digest(), data[-32:]):
            raise TrustError("HE secret key: its checksum does not fit, the file was damaged", "install the kit again")
        ring_id, key_id = data[_HEAD : _HEAD + 16], data[_HEAD + 16 : _HEAD + 16 + KEY_ID_BYTES]
        residues = np.frombuffer(data[_HEAD + 16 + KEY_ID_BYTES : -32], dtype="<u4")
        key = cls(ring_id, residues.reshape(_LEVEL_PRIMES, -1))
        if key.key_id != key_id:
            raise TrustError(f"HE secret key: expected id {key_id.hex()}, got {key.key_id.hex()}")
        return key

    def residues(self) -> NDArray[np.uint32]:
        """(3, degree) uint32: the key itself, read-only. For the engine alone."""
        return self._residues
