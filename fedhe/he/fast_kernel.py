"""The arithmetic of encryption and decryption over a whole chunk; compiled, without the GIL.

Loops have fixed lengths, reductions are minima, and no branch and no index depends on a value, so the time taken tells
nothing of key or message. tests/he/test_fast_engine.py holds all of it against SEAL.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedhe.he.compiled import compiled
from fedhe.he.keys import SecretKey
from fedhe.he.ntt import DEGREE, SIDE, RingTables, forward, inverse, ring_tables, times, with_companion
from fedhe.he.params import CkksParams

_LOW_BITS = 30
_LOW_MASK = (1 << _LOW_BITS) - 1


class RingKey(NamedTuple):
    """The secret key and the constants of its ring, as the kernel takes them; made by `ring_key`.

    Attributes:
        secret: (2, 2, 4096) uint32: for each prime the key in NTT form, and its companions (ntt.py).
        tables: the transform's constants.
        fold: (2, 2, 2) uint32: for each prime 2^30 and 1 modulo it, each with its companion.
        garner: (2,) uint32: 1 / p0 modulo p1, and its companion.
        scale_bits: log2 of Delta.
    """

    secret: NDArray[np.uint32]
    tables: RingTables
    fold: NDArray[np.uint32]
    garner: NDArray[np.uint32]
    scale_bits: int

    def __repr__(self) -> str:
        return "RingKey(...)"


def ring_key(secret_key: SecretKey, params: CkksParams) -> RingKey:
    """A key for the kernel; it must belong to the parameters' ring."""
    p0, p1 = params.primes
    residues = secret_key.residues()
    powers = np.array([[(1 << _LOW_BITS) % prime, 1] for prime in params.primes], dtype=np.uint32)
    return RingKey(
        secret=np.stack([with_companion(residues[k], prime) for k, prime in enumerate(params.primes)]),
        tables=ring_tables(params.primes),
        fold=np.stack([with_companion(powers[k], prime) for k, prime in enumerate(params.primes)]),
        garner=with_companion(np.array(pow(p0, -1, p1), dtype=np.uint32), p1),
        scale_bits=params.scale_bits,
    )


@compiled
def encrypt_chunk(
    coefficients: NDArray[np.int64],
    errors: NDArray[np.int8],
    c1: NDArray[np.uint32],
    key: RingKey,
    c0: NDArray[np.uint32],
) -> None:  # pragma: no cover - compiled
    """c0 = NTT(Delta m + e) - c1 s.

    Args:
        coefficients: (count, 4096) int64, |Delta m + e| below half the modulus.
        errors: (count, 4096) int8.
        c1: (count, 2, 4096) uint32, below the primes.
        key: the secret key.
        c0: (count, 2, 4096) uint32, receives the result, below the primes.
    """
    scratch = np.empty((SIDE, SIDE), dtype=np.uint32)
    for number in range(coefficients.shape[0]):
        message, error = coefficients[number], errors[number]
        for k in range(2):
            prime, values = key.tables.primes[k], c0[number, k]
            twice = np.uint32(2) * prime
            high, low = key.fold[k, :, 0], key.fold[k, :, 1]
            for j in range(DEGREE):
                # x = 2^30 (x >> 30) + (x mod 2^30); adding p to the first part makes it positive
                x = (message[j] << key.scale_bits) + np.int64(error[j])
                upper = np.uint32((x >> _LOW_BITS) + np.int64(prime))
                lower = np.uint32(x & _LOW_MASK)
                values[j] = times(upper, high[0], high[1], prime) + times(lower, low[0], low[1], prime)
            forward(values, k, key.tables, scratch)
            uniform, secret, companion = c1[number, k], key.secret[k, 0], key.secret[k, 1]
            for j in range(DEGREE):
                masked = np.uint32(values[j] + twice - times(uniform[j], secret[j], companion[j], prime))
                masked = min(masked, np.uint32(masked - twice))
                values[j] = min(masked, np.uint32(masked - prime))


@compiled
def decrypt_chunk(
    c0: NDArray[np.uint32], c1: NDArray[np.uint32], key: RingKey, noisy: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    """Delta sum(m) + sum(e), centred around 0.

    Args:
        c0: (count, 2, 4096) uint32, below the primes.
        c1: the same.
        key: the secret key.
        noisy: (count, 4096) int64, receives the result.
    """
    scratch = np.empty((SIDE, SIDE), dtype=np.uint32)
    both = np.empty((2, DEGREE), dtype=np.uint32)
    p0, p1 = np.uint64(key.tables.primes[0]), key.tables.primes[1]
    modulus = np.int64(p0 * np.uint64(p1))
    half = modulus // 2
    for number in range(c0.shape[0]):
        for k in range(2):
            prime, values = key.tables.primes[k], both[k]
            twice = np.uint32(2) * prime
            first, second, secret, companion = c0[number, k], c1[number, k], key.secret[k, 0], key.secret[k, 1]
            for j in range(DEGREE):
                opened = np.uint32(first[j] + times(second[j], secret[j], companion[j], prime))
                values[j] = min(opened, np.uint32(opened - twice))
            inverse(values, k, key.tables, scratch)
        result, residue0, residue1 = noisy[number], both[0], both[1]
        for j in range(DEGREE):
            # Garner: x = r0 + p0 ((r1 - r0) / p0 mod p1); p0 < p1, so r1 - r0 + p1 is positive
            factor = times(np.uint32(residue1[j] + p1 - residue0[j]), key.garner[0], key.garner[1], p1)
            factor = min(factor, np.uint32(factor - p1))
            x = np.int64(np.uint64(residue0[j]) + p0 * np.uint64(factor))
            result[j] = x - modulus * np.int64(x > half)
