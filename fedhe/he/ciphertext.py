"""The form in which ciphertexts travel: one chunk of up to 16, with a header that ties them to key and round.

All numbers are little-endian.

    offset  bytes  field
         0      4  magic "FHCT"
         4      1  version, 1
         5      1  kind and form of c1: 1 UPLOAD with SEAL_SEEDS, 2 SUM with c1 WHOLE,
                   3 UPLOAD with an AES_SEED, 4 SUM with the AES_SEEDS of its sites
         6      1  primes of the modulus, 2
         7      1  bits of each prime
         8      4  coefficients of a polynomial
        12      4  index of the chunk in its update
        16      2  ciphertexts in the chunk, 1 to 16
        18      2  sites in the sum; 1 if UPLOAD
        20     16  key id
        36     16  id of the parameters and field widths
        52     32  context: the round's roster
        84         seeds. SEAL_SEEDS: for each ciphertext the 64 bytes from which SEAL's Blake2xb generator expands c1.
                   AES_SEEDS: for each site, in the order of their bytes, the 32 bytes from which streams.py expands
                   the c1 of the whole chunk. WHOLE: none
                   polynomials. For each ciphertext c0 and, if WHOLE, c1: the residues modulo each prime, in SEAL's
                   NTT order, 30 bits each (residues.py)

Sizes are fixed by the header and compared with the length before anything is allocated.
"""

import itertools
import math
import struct
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError
from fedhe.he.params import SEAL_SEED_BYTES, CkksParams
from fedhe.he.residues import pack_residues, packed_bytes, unpack_residues
from fedhe.he.streams import AES_SEED_BYTES

MAGIC = b"FHCT"
VERSION = 1
MAX_CIPHERTEXTS = CkksParams.CIPHERTEXTS_PER_CHUNK
_HEADER = struct.Struct("<4sBBBBIIHH16s16s32s")
HEADER_BYTES = _HEADER.size
_KIND_OFFSET = 5
MAX_CHUNK_INDEX = (1 << 32) - 1
MAX_FORWARDED_SEEDS = 32
"""For how many sites, at most, a sum carries their seeds by default; docs/adr/0009 has the reason."""


class ChunkKind(Enum):
    """What a chunk is part of."""

    UPLOAD = "upload"
    """One site's update, fresh."""
    SUM = "sum"
    """The sum of several."""


class C1Form(Enum):
    """How the second half of the ciphertexts, which is uniformly random, is there."""

    WHOLE = "whole"
    SEAL_SEEDS = "SEAL seeds"
    AES_SEEDS = "AES seeds"


_KIND_BYTES = {
    (ChunkKind.UPLOAD, C1Form.SEAL_SEEDS): 1,
    (ChunkKind.SUM, C1Form.WHOLE): 2,
    (ChunkKind.UPLOAD, C1Form.AES_SEEDS): 3,
    (ChunkKind.SUM, C1Form.AES_SEEDS): 4,
}
_KINDS = {byte: kind for kind, byte in _KIND_BYTES.items()}


@dataclass(frozen=True)
class ChunkHeader:
    """What a chunk says of itself.

    Attributes:
        kind: upload or sum.
        c1: how c1 is there.
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
    c1: C1Form
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
    def seeds_shape(self) -> tuple[int, int]:
        """Seeds, and the bytes of each."""
        match self.c1:
            case C1Form.WHOLE:
                return 0, 0
            case C1Form.SEAL_SEEDS:
                return self.count, SEAL_SEED_BYTES
            case C1Form.AES_SEEDS:
                return self.sites, AES_SEED_BYTES

    @property
    def polynomials_shape(self) -> tuple[int, int, int, int]:
        """Ciphertexts, polynomials of each, primes, degree."""
        return self.count, 2 if self.c1 is C1Form.WHOLE else 1, self.primes, self.degree

    @property
    def body_bytes(self) -> int:
        """Length of what follows the header."""
        return math.prod(self.seeds_shape) + packed_bytes(math.prod(self.polynomials_shape))

    def to_bytes(self) -> bytes:
        """The header's `HEADER_BYTES` bytes."""
        return _HEADER.pack(
            MAGIC,
            VERSION,
            _KIND_BYTES[self.kind, self.c1],
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
        kind: upload or sum.
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
        seeds: `header.seeds_shape` uint8.
        polynomials: `header.polynomials_shape` uint32: c0, and c1 if it is whole.
    """

    header: ChunkHeader
    seeds: NDArray[np.uint8]
    polynomials: NDArray[np.uint32]


def write_chunk(header: ChunkHeader, seeds: NDArray[np.uint8], polynomials: NDArray[np.uint32]) -> bytes:
    """Writes a chunk; see `CiphertextChunk` for the shapes."""
    return b"".join([header.to_bytes(), seeds.tobytes(), pack_residues(polynomials).data])


def read_header(data: bytes, *, expect: Expectation) -> ChunkHeader:
    """Reads and checks the header and the length, without looking at the ciphertexts.

    Raises:
        RemoteProtocolError: not a chunk, or not the one expected; says what was expected and what came.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError(f"ciphertext chunk: expected at least {HEADER_BYTES} bytes, got {len(data)}")
    magic, version, kind_byte, primes, prime_bits, degree, index, count, sites, key_id, params_id, context = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise RemoteProtocolError(f"ciphertext chunk: expected it to begin with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise RemoteProtocolError(
            f"ciphertext chunk: expected version {VERSION}, got {version}", "run the same release of fedhe everywhere"
        )
    kind, c1 = _KINDS.get(kind_byte, (None, C1Form.WHOLE))
    _same("kind", expect.kind.name, str(kind_byte) if kind is None else kind.name)
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
    if sites < 1 or (expect.kind is ChunkKind.UPLOAD and sites != 1):
        raise RemoteProtocolError(f"ciphertext chunk: expected one site or a sum, got {sites} sites")
    header = ChunkHeader(expect.kind, c1, primes, prime_bits, degree, index, count, sites, key_id, params_id, context)
    if len(data) - HEADER_BYTES != header.body_bytes:
        raise RemoteProtocolError(
            f"ciphertext chunk: expected {HEADER_BYTES + header.body_bytes} bytes for {count} ciphertexts, "
            f"got {len(data)}"
        )
    return header


def has_seal_seeds(head: bytes) -> bool:
    """Whether a chunk that begins with these bytes is an upload with SEAL's seeds; nothing else is checked."""
    return len(head) > _KIND_OFFSET and _KINDS.get(head[_KIND_OFFSET]) == (ChunkKind.UPLOAD, C1Form.SEAL_SEEDS)


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
    first = HEADER_BYTES + math.prod(header.seeds_shape)
    seeds = np.frombuffer(data, dtype=np.uint8, count=first - HEADER_BYTES, offset=HEADER_BYTES)
    seeds = seeds.reshape(header.seeds_shape)
    if header.c1 is C1Form.AES_SEEDS and not _ascending(seeds):
        raise RemoteProtocolError("ciphertext chunk: expected different seeds in the order of their bytes, got others")
    residues, largest = unpack_residues(memoryview(data)[first:], header.polynomials_shape)
    for most, prime in zip(largest, params.primes, strict=True):
        if most >= prime:
            raise RemoteProtocolError(f"ciphertext chunk: expected residues below {prime}, got {most}")
    return CiphertextChunk(header, seeds, residues)


def _ascending(seeds: NDArray[np.uint8]) -> bool:
    octets = [seed.tobytes() for seed in seeds]
    return all(before < after for before, after in itertools.pairwise(octets))


def _same(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise RemoteProtocolError(f"ciphertext chunk: expected {what} {expected}, got {actual}")
