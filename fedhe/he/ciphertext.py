"""The form in which ciphertexts travel: one chunk of up to 16, with a header that ties them to key and round.

All numbers are little-endian.

    offset  bytes  field
         0      4  magic "FHCT"
         4      1  version, 1
         5      1  kind: 1 SEEDED (one site's, upwards), 2 FULL (a sum, downwards)
         6      1  primes of the modulus, 2
         7      1  bits of each prime
         8      4  coefficients of a polynomial
        12      4  index of the chunk in its update
        16      2  ciphertexts in the chunk, 1 to 16
        18      2  sites in the sum; 1 if SEEDED
        20     16  key id
        36     16  id of the parameters and field widths
        52     32  context: the round's roster
        84         SEEDED: for each ciphertext the 64-byte seed of c1, then for each c0
                   FULL: for each ciphertext c0 and c1
                   a polynomial is its residues modulo each prime, in SEAL's NTT order, 30 bits each (residues.py)

Sizes are fixed by the header and compared with the length before anything is allocated.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError
from fedhe.he.params import CkksParams
from fedhe.he.residues import pack_residues, packed_bytes, unpack_residues

MAGIC = b"FHCT"
VERSION = 1
SEED_BYTES = 64
"""Bytes of the seed from which SEAL's Blake2xb generator expands c1."""
MAX_CIPHERTEXTS = CkksParams.CIPHERTEXTS_PER_CHUNK
_HEADER = struct.Struct("<4sBBBBIIHH16s16s32s")
HEADER_BYTES = _HEADER.size
MAX_CHUNK_INDEX = (1 << 32) - 1


class ChunkKind(IntEnum):
    """What a chunk's ciphertexts consist of."""

    SEEDED = 1
    """c0 and the seed of c1: fresh, from one site."""
    FULL = 2
    """c0 and c1: a sum."""


@dataclass(frozen=True)
class ChunkHeader:
    """What a chunk says of itself.

    Attributes:
        kind: seeded or full.
        prime_bits: bits of each prime of the modulus.
        primes: how many primes.
        degree: coefficients of a polynomial.
        index: place of the chunk in its update.
        count: ciphertexts in it.
        sites: sites in the sum.
        key_id: 16 bytes.
        params_id: 16 bytes.
        context: 32 bytes, the round's roster.
    """

    kind: ChunkKind
    primes: int
    prime_bits: int
    degree: int
    index: int
    count: int
    sites: int
    key_id: bytes
    params_id: bytes
    context: bytes

    @property
    def body_bytes(self) -> int:
        """Length of what follows the header."""
        polynomial = self.primes * packed_bytes(self.degree)
        one = SEED_BYTES + polynomial if self.kind is ChunkKind.SEEDED else 2 * polynomial
        return self.count * one

    def to_bytes(self) -> bytes:
        """The header's `HEADER_BYTES` bytes."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.primes,
            self.prime_bits,
            self.degree,
            self.index,
            self.count,
            self.sites,
            self.key_id,
            self.params_id,
            self.context,
        )


@dataclass(frozen=True)
class Expectation:
    """What a chunk must say of itself where it is read.

    Attributes:
        kind: seeded or full.
        key_id: 16 bytes.
        params_id: 16 bytes.
        context: 32 bytes.
        index: place of the chunk in its update.
        count: ciphertexts, or None where the reader cannot know.
        sites: sites in the sum, or None where the reader cannot know.
    """

    kind: ChunkKind
    key_id: bytes
    params_id: bytes
    context: bytes
    index: int
    count: int | None = None
    sites: int | None = None


@dataclass(frozen=True)
class CiphertextChunk:
    """A chunk that was read and checked.

    Attributes:
        header: what it says of itself.
        seeds: (count, 64) uint8 if SEEDED, else (0, 64).
        polynomials: (count, 1 or 2, primes, degree) uint32: c0, and if FULL c1.
    """

    header: ChunkHeader
    seeds: NDArray[np.uint8]
    polynomials: NDArray[np.uint32]


def write_chunk(header: ChunkHeader, seeds: NDArray[np.uint8], polynomials: NDArray[np.uint32]) -> bytes:
    """Writes a chunk; see `CiphertextChunk` for the shapes."""
    return header.to_bytes() + seeds.tobytes() + pack_residues(polynomials)


def read_header(data: bytes, *, expect: Expectation) -> ChunkHeader:
    """Reads and checks the header and the length, without looking at the ciphertexts.

    Raises:
        RemoteProtocolError: not a chunk, or not the one expected; says what was expected and what came.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError(f"ciphertext chunk: expected at least {HEADER_BYTES} bytes, got {len(data)}")
    magic, version, kind, primes, prime_bits, degree, index, count, sites, key_id, params_id, context = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise RemoteProtocolError(f"ciphertext chunk: expected it to begin with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise RemoteProtocolError(
            f"ciphertext chunk: expected version {VERSION}, got {version}", "run the same release of fedhe everywhere"
        )
    _same("kind", expect.kind.name, ChunkKind(kind).name if kind in set(ChunkKind) else str(kind))
    _same("key id", expect.key_id.hex(), key_id.hex())
    _same("parameters id", expect.params_id.hex(), params_id.hex())
    _same("context", expect.context.hex(), context.hex())
    _same("index", expect.index, index)
    if expect.count is not None:
        _same("number of ciphertexts", expect.count, count)
    if expect.sites is not None:
        _same("number of sites", expect.sites, sites)
    # Bounds come before the sizes that are computed from them.
    if not 1 <= count <= MAX_CIPHERTEXTS:
        raise RemoteProtocolError(f"ciphertext chunk: expected 1 to {MAX_CIPHERTEXTS} ciphertexts, got {count}")
    if sites < 1 or (kind == ChunkKind.SEEDED and sites != 1):
        raise RemoteProtocolError(f"ciphertext chunk: expected one site or a sum, got {sites} sites")
    header = ChunkHeader(ChunkKind(kind), primes, prime_bits, degree, index, count, sites, key_id, params_id, context)
    if len(data) - HEADER_BYTES != header.body_bytes:
        raise RemoteProtocolError(
            f"ciphertext chunk: expected {HEADER_BYTES + header.body_bytes} bytes for {count} ciphertexts, "
            f"got {len(data)}"
        )
    return header


def read_chunk(data: bytes, *, expect: Expectation, params: CkksParams) -> CiphertextChunk:
    """Reads and checks a chunk.

    Raises:
        RemoteProtocolError: not a chunk, not the one expected, of other parameters, or a residue that is not below
            its prime.
    """
    _same("parameters id", params.params_id.hex(), expect.params_id.hex())
    header = read_header(data, expect=expect)
    _same("polynomial degree", params.poly_modulus_degree, header.degree)
    _same("bits of the primes", params.coeff_modulus_bits, (header.prime_bits,) * header.primes)
    body = memoryview(data)[HEADER_BYTES:]
    seeds = np.zeros((0, SEED_BYTES), dtype=np.uint8)
    polynomials = 2
    if header.kind is ChunkKind.SEEDED:
        polynomials = 1
        seeds = np.frombuffer(body[: header.count * SEED_BYTES], dtype=np.uint8).reshape(header.count, SEED_BYTES)
        body = body[header.count * SEED_BYTES :]
    residues = unpack_residues(body, (header.count, polynomials, header.primes, header.degree))
    for number, prime in enumerate(params.primes):
        largest = int(residues[:, :, number].max())
        if largest >= prime:
            raise RemoteProtocolError(f"ciphertext chunk: expected residues below {prime}, got {largest}")
    return CiphertextChunk(header, seeds, residues)


def _same(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise RemoteProtocolError(f"ciphertext chunk: expected {what} {expected}, got {actual}")
