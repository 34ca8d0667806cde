"""The number-theoretic transform modulo one prime below 2^30, in SEAL's order; compiled, vectorised.

Negacyclic, N = 4096, with the smallest primitive 2N-th root of unity, as SEAL has it, so that transformed polynomials
are SEAL's. Butterflies after Harvey ("Faster arithmetic for number-theoretic transforms", 2014): products with a
constant w take floor(2^32 w / p) beside it (Shoup) and come back below 2p, values stay below 4p < 2^32, and a reduction
is a minimum: x - 2p wraps around to a huge number where x < 2p. No branch and no index depends on a value.

Half of the stages combine values that lie far apart. For the other half the 64 x 64 matrix of values is transposed, so
that these too run over whole rows; their constants lie in tables of the same form.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fedhe.he.compiled import compiled

DEGREE = 4096
SIDE = 64
_STAGES = 6  # of the 12, on each side of the transposition


class RingTables(NamedTuple):
    """Constants of the ring modulo each prime, in the order of the primes. A tuple, because the compiler knows those.

    Attributes:
        primes: (k,) uint32.
        forward: (k, 2, 64) uint32, the first 64 constants of the transform and their companions.
        forward_rows: (k, 2, 63, 64) uint32, those of the other stages, by row.
        inverse: the same of the inverse transform.
        inverse_rows: the same of the inverse transform.
        shrink: (k, 2) uint32, 1 / N modulo the prime, and its companion.
    """

    primes: NDArray[np.uint32]
    forward: NDArray[np.uint32]
    forward_rows: NDArray[np.uint32]
    inverse: NDArray[np.uint32]
    inverse_rows: NDArray[np.uint32]
    shrink: NDArray[np.uint32]


@cache
def ring_tables(primes: tuple[int, ...]) -> RingTables:
    """The tables for these primes, each 1 modulo 2N and below 2^30."""
    there = [_tables_of(_smallest_root(prime), prime) for prime in primes]
    back = [_tables_of(pow(_smallest_root(prime), -1, prime), prime) for prime in primes]
    shrink = [with_companion(np.array(pow(DEGREE, -1, prime), dtype=np.uint32), prime) for prime in primes]
    return RingTables(
        primes=np.array(primes, dtype=np.uint32),
        forward=np.stack([flat for flat, _ in there]),
        forward_rows=np.stack([rows for _, rows in there]),
        inverse=np.stack([flat for flat, _ in back]),
        inverse_rows=np.stack([rows for _, rows in back]),
        shrink=np.stack(shrink),
    )


def _tables_of(root: int, prime: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    constants = _powers(root, prime)
    return with_companion(constants[:SIDE], prime), with_companion(_by_row(constants), prime)


def with_companion(constants: NDArray[np.uint32], prime: int) -> NDArray[np.uint32]:
    """(2, ...) uint32: constants w below p, and floor(2^32 w / p)."""
    return np.stack([constants, (constants.astype(np.uint64) << np.uint64(32)) // np.uint64(prime)]).astype(np.uint32)


def _smallest_root(prime: int) -> int:
    """The smallest primitive 2N-th root of unity."""
    exponent = (prime - 1) // (2 * DEGREE)
    root = next(
        found for base in range(2, prime) if pow(found := pow(base, exponent, prime), DEGREE, prime) == prime - 1
    )
    square, smallest = root * root % prime, root
    for _ in range(DEGREE):
        root = root * square % prime
        smallest = min(smallest, root)
    return smallest


def _powers(root: int, prime: int) -> NDArray[np.uint32]:
    """(4096,) powers of the root, in bit-reversed order."""
    bits = DEGREE.bit_length() - 1
    return np.array([pow(root, int(f"{i:0{bits}b}"[::-1], 2), prime) for i in range(DEGREE)], dtype=np.uint32)


def _by_row(constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(63, 64): row 2^s - 1 + u has, for each block of 64 values, the constant of part u in stage s."""
    blocks = np.arange(SIDE)
    rows = [constants[(SIDE << s) + (blocks << s) + u] for s in range(_STAGES) for u in range(1 << s)]
    return np.stack(rows)


@njit(nogil=True, inline="always")
def times(
    value: np.uint32, constant: np.uint32, companion: np.uint32, prime: np.uint32
) -> np.uint32:  # pragma: no cover - compiled
    """Any value times a constant, modulo p, below 2p."""
    quotient = np.uint32((np.uint64(value) * np.uint64(companion)) >> np.uint64(32))
    return np.uint32(np.uint32(value * constant) - np.uint32(quotient * prime))


@compiled
def forward(
    values: NDArray[np.uint32], k: int, tables: RingTables, scratch: NDArray[np.uint32]
) -> None:  # pragma: no cover - compiled
    """Coefficients to SEAL's NTT form, in place.

    Args:
        values: (4096,) uint32 below 4p; below p afterwards.
        k: which prime p.
        tables: of the primes.
        scratch: (64, 64) uint32, overwritten.
    """
    prime, constants, rows = tables.primes[k], tables.forward[k], tables.forward_rows[k]
    twice = np.uint32(2) * prime
    length = DEGREE // 2
    parts = 1
    while parts < SIDE:
        for part in range(parts):
            constant, companion = constants[0, parts + part], constants[1, parts + part]
            begin = 2 * part * length
            upper, lower = values[begin : begin + length], values[begin + length : begin + 2 * length]
            for j in range(length):
                x = min(upper[j], np.uint32(upper[j] - twice))
                y = times(lower[j], constant, companion, prime)
                upper[j] = np.uint32(x + y)
                lower[j] = np.uint32(x + twice - y)
        parts <<= 1
        length >>= 1
    _transpose(values.reshape(SIDE, SIDE), scratch)
    length = SIDE // 2
    for stage in range(_STAGES):
        for part in range(1 << stage):
            row = (1 << stage) - 1 + part
            for offset in range(length):
                first = 2 * part * length + offset
                upper, lower = scratch[first], scratch[first + length]
                for j in range(SIDE):
                    x = min(upper[j], np.uint32(upper[j] - twice))
                    y = times(lower[j], rows[0, row, j], rows[1, row, j], prime)
                    upper[j] = np.uint32(x + y)
                    lower[j] = np.uint32(x + twice - y)
        length >>= 1
    _transpose(scratch, values.reshape(SIDE, SIDE))
    for j in range(DEGREE):
        x = min(values[j], np.uint32(values[j] - twice))
        values[j] = min(x, np.uint32(x - prime))


@compiled
def inverse(
    values: NDArray[np.uint32], k: int, tables: RingTables, scratch: NDArray[np.uint32]
) -> None:  # pragma: no cover - compiled
    """SEAL's NTT form back to coefficients, in place.

    Args:
        values: (4096,) uint32 below 2p; below p afterwards.
        k: which prime p.
        tables: of the primes.
        scratch: (64, 64) uint32, overwritten.
    """
    prime, constants, rows = tables.primes[k], tables.inverse[k], tables.inverse_rows[k]
    shrink = tables.shrink[k]
    twice = np.uint32(2) * prime
    _transpose(values.reshape(SIDE, SIDE), scratch)
    length = 1
    for back in range(_STAGES):
        stage = _STAGES - 1 - back
        for part in range(1 << stage):
            row = (1 << stage) - 1 + part
            for offset in range(length):
                first = 2 * part * length + offset
                upper, lower = scratch[first], scratch[first + length]
                for j in range(SIDE):
                    x, y = upper[j], lower[j]
                    added = np.uint32(x + y)
                    upper[j] = min(added, np.uint32(added - twice))
                    lower[j] = times(np.uint32(x + twice - y), rows[0, row, j], rows[1, row, j], prime)
        length <<= 1
    _transpose(scratch, values.reshape(SIDE, SIDE))
    length = SIDE
    parts = SIDE // 2
    while parts > 0:
        for part in range(parts):
            constant, companion = constants[0, parts + part], constants[1, parts + part]
            begin = 2 * part * length
            upper, lower = values[begin : begin + length], values[begin + length : begin + 2 * length]
            for j in range(length):
                x, y = upper[j], lower[j]
                added = np.uint32(x + y)
                upper[j] = min(added, np.uint32(added - twice))
                lower[j] = times(np.uint32(x + twice - y), constant, companion, prime)
        parts >>= 1
        length <<= 1
    for j in range(DEGREE):
        x = times(values[j], shrink[0], shrink[1], prime)
        values[j] = min(x, np.uint32(x - prime))


@njit(nogil=True)
def _transpose(matrix: NDArray[np.uint32], into: NDArray[np.uint32]) -> None:  # pragma: no cover - compiled
    for i in range(0, SIDE, 8):
        for j in range(0, SIDE, 8):
            for row in range(8):
                for column in range(8):
                    into[j + row, i + column] = matrix[i + column, j + row]
