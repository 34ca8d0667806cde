"""Residues below 2^30 to 30-bit words and back, and modular sums of them; compiled, vectorised, without the GIL.

Sixteen equal planes of residues become fifteen planes of 32-bit words: word plane i holds residue plane i, and in its
two upper bits the bits 2i and 2i + 1 of residue plane 15. Every step works on whole contiguous planes.
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.he.compiled import compiled

RESIDUE_BITS = 30
PLANES = 16
_WORDS = 15
_MASK = np.uint32((1 << RESIDUE_BITS) - 1)
_TOP = np.uint32(RESIDUE_BITS)


def packed_bytes(residues: int) -> int:
    """Bytes of that many residues, a multiple of 16."""
    return residues // PLANES * _WORDS * 4


def pack_residues(residues: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Packs (..., n) residues below 2^30, n a multiple of 16; 3.75 bytes each, little-endian."""
    planes = np.ascontiguousarray(residues).reshape(-1, PLANES, residues.shape[-1] // PLANES)
    words = np.empty((planes.shape[0], _WORDS, planes.shape[2]), dtype=np.uint32)
    _pack(planes, words)
    return words.reshape(-1).view(np.uint8)


def unpack_residues(data: bytes | memoryview, shape: tuple[int, ...]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Unpacks residues into an array of `shape`, whose last size is a multiple of 16; inverse of `pack_residues`.

    Args:
        data: exactly `packed_bytes` of the shape's size; the caller has checked it.
        shape: (..., primes, n).

    Returns:
        The residues, and (primes,) uint32: the largest one modulo each prime.
    """
    width = shape[-1] // PLANES
    words = np.frombuffer(data, dtype="<u4").reshape(-1, _WORDS, width)
    planes = np.empty((words.shape[0], PLANES, width), dtype=np.uint32)
    largest = np.zeros(shape[-2], dtype=np.uint32)
    _unpack(words, planes, largest)
    return planes.reshape(shape), largest


def add_residues(total: NDArray[np.uint32], addend: NDArray[np.uint32], primes: tuple[int, ...]) -> None:
    """Adds modulo each prime, into `total`; both (..., len(primes), n), below p, which is below 2^31."""
    flat = total.reshape(-1, *total.shape[-2:])
    _add(flat, addend.reshape(flat.shape), np.array(primes, dtype=np.uint32))


@compiled
def _pack(planes: NDArray[np.uint32], words: NDArray[np.uint32]) -> None:  # pragma: no cover - compiled
    for group in range(planes.shape[0]):
        last = planes[group, _WORDS]
        for place in range(_WORDS):
            shift = np.uint32(2 * place)
            plane, word = planes[group, place], words[group, place]
            for j in range(plane.size):
                word[j] = ((last[j] >> shift) << _TOP) | plane[j]


@compiled
def _unpack(
    words: NDArray[np.uint32], planes: NDArray[np.uint32], largest: NDArray[np.uint32]
) -> None:  # pragma: no cover - compiled
    for group in range(words.shape[0]):
        last = planes[group, _WORDS]
        last[:] = np.uint32(0)
        for place in range(_WORDS):
            shift = np.uint32(2 * place)
            plane, word = planes[group, place], words[group, place]
            for j in range(plane.size):
                plane[j] = word[j] & _MASK
            for j in range(last.size):
                last[j] |= (word[j] >> _TOP) << shift
        prime = group % largest.size
        most = largest[prime]
        for place in range(PLANES):
            for value in planes[group, place]:
                most = max(most, value)
        largest[prime] = most


@compiled
def _add(
    total: NDArray[np.uint32], addend: NDArray[np.uint32], primes: NDArray[np.uint32]
) -> None:  # pragma: no cover - compiled
    for polynomial in range(total.shape[0]):
        for k in range(total.shape[1]):
            prime, into, other = primes[k], total[polynomial, k], addend[polynomial, k]
            for j in range(into.size):
                added = np.uint32(into[j] + other[j])
                # added - p wraps around to a huge number exactly where added < p
                into[j] = min(added, np.uint32(added - prime))
