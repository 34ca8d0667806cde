"""Residues below 2^30 to 30-bit words and back, vectorised; and modular sums of them.

Sixteen equal planes of residues become fifteen planes of 32-bit words: word plane i holds residue plane i, and in its
two upper bits the bits 2i and 2i + 1 of residue plane 15. Every step works on whole contiguous planes.
"""

import numpy as np
from numpy.typing import NDArray

RESIDUE_BITS = 30
_PLANES = 16
_WORDS = 15
_MASK = np.uint32((1 << RESIDUE_BITS) - 1)


def packed_bytes(residues: int) -> int:
    """Bytes of that many residues, a multiple of 16."""
    return residues // _PLANES * _WORDS * 4


def pack_residues(residues: NDArray[np.uint32]) -> bytes:
    """Packs (..., n) residues below 2^30, n a multiple of 16; 3.75 bytes each, little-endian."""
    planes = residues.reshape(-1, _PLANES, residues.shape[-1] // _PLANES)
    words = np.empty((planes.shape[0], _WORDS, planes.shape[2]), dtype="<u4")
    last = planes[:, _WORDS]
    for place in range(_WORDS):
        top = (last >> np.uint32(2 * place)) << np.uint32(RESIDUE_BITS)
        np.bitwise_or(top, planes[:, place], out=words[:, place])
    return words.tobytes()


def unpack_residues(data: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Unpacks residues into an array of `shape`, whose last size is a multiple of 16; inverse of `pack_residues`.

    Args:
        data: exactly `packed_bytes` of the shape's size; the caller has checked it.
        shape: (..., n).
    """
    width = shape[-1] // _PLANES
    words = np.frombuffer(data, dtype="<u4").reshape(-1, _WORDS, width)
    planes = np.empty((words.shape[0], _PLANES, width), dtype=np.uint32)
    np.bitwise_and(words, _MASK, out=planes[:, :_WORDS])
    last = planes[:, _WORDS]
    last[:] = 0
    for place in range(_WORDS):
        top = words[:, place] >> np.uint32(RESIDUE_BITS)
        top <<= np.uint32(2 * place)
        last |= top
    return planes.reshape(shape)


def add_residues(total: NDArray[np.uint32], addend: NDArray[np.uint32], primes: tuple[int, ...]) -> None:
    """Adds modulo each prime, into `total`; both (..., len(primes), n), below p, which is below 2^31."""
    total += addend
    for number, prime in enumerate(primes):
        part = total[..., number, :]
        # part - p wraps around to a huge number exactly where part < p
        np.minimum(part, part - np.uint32(prime), out=part)
