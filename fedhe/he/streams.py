"""Key streams from OpenSSL (AES-256 in counter mode): a chunk's c1 from its public seed, its errors, its rounding.

c1. The seed is an AES key. The stream from counter 0, read as little-endian 32-bit words, has one word for each residue
of the chunk (ciphertext, prime, coefficient in SEAL's NTT order) and then a reserve. A residue is its word's lowest b
bits, b being the bits of the prime; where that is not below the prime, the next word of the reserve that is takes its
place. So every residue is equally likely, and sites and server, on any machine, expand the same seed alike.

Errors. A fresh key, never sent; 64 bits of its stream give one error, the difference of the numbers of ones in two
times 21 bits: the centred binomial distribution that SEAL samples from.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError
from fedhe.he.compiled import compiled
from fedhe.he.params import ERROR_BOUND, CkksParams
from fedhe.he.residues import add_residues

AES_SEED_BYTES = 32
_COUNTER = bytes(16)
_MIN_RESERVE_WORDS = 256
_EITHER = np.uint64((1 << 2 * ERROR_BOUND) - 1)
_FLIP = np.uint64(((1 << ERROR_BOUND) - 1) << ERROR_BOUND)


def new_seed() -> bytes:
    """A fresh key from the operating system; 32 bytes."""
    return os.urandom(AES_SEED_BYTES)


def reserve_words(count: int, params: CkksParams) -> int:
    """Words behind those of the residues: twice as many as are refused on average, and 256 more."""
    refused = sum((1 << bits) - prime for bits, prime in zip(params.coeff_modulus_bits, params.primes, strict=True)) / (
        1 << params.coeff_modulus_bits[0]
    )
    return _MIN_RESERVE_WORDS + 2 * int(count * params.poly_modulus_degree * refused)


def expand_seed(seed: bytes, count: int, params: CkksParams) -> NDArray[np.uint32]:
    """The c1 of a chunk of `count` ciphertexts; (count, primes, degree) uint32, below the primes.

    Raises:
        RemoteProtocolError: the reserve does not suffice, which no seed does by chance (less than 2^-100).
    """
    shape = count, len(params.primes), params.poly_modulus_degree
    residues = int(np.prod(shape))
    words = _stream(seed, 4 * (residues + reserve_words(count, params))).view(np.uint32)
    found = words[:residues].reshape(shape)
    primes = np.array(params.primes, dtype=np.uint32)
    if not _fit(found, words[residues:], primes, np.uint32((1 << params.coeff_modulus_bits[0]) - 1)):
        raise RemoteProtocolError(f"expected a seed whose stream has residues below {params.primes}, got too few")
    return found


def expand_seeds(seeds: NDArray[np.uint8], count: int, params: CkksParams) -> NDArray[np.uint32]:
    """The sum of the c1 of several sites' chunks; (count, primes, degree) uint32, below the primes.

    Args:
        seeds: (sites, 32) uint8, at least one.
        count: ciphertexts in the chunk.
        params: the job's parameters.

    Raises:
        RemoteProtocolError: a seed that does not expand.
    """
    total = expand_seed(seeds[0].tobytes(), count, params)
    for seed in seeds[1:]:
        add_residues(total, expand_seed(seed.tobytes(), count, params), params.primes)
    return total


def public_words(key: bytes, count: int) -> NDArray[np.uint32]:
    """(count,) uint32 from the stream of a 32-byte key that is no secret, as stochastic rounding needs them."""
    return _stream(key, 4 * count).view(np.uint32)


def fresh_errors(count: int, params: CkksParams) -> NDArray[np.int8]:
    """(count, degree) int8: fresh errors, |e| <= 21. Secret."""
    bits = _stream(new_seed(), 8 * count * params.poly_modulus_degree).view(np.uint64)
    errors = np.empty((count, params.poly_modulus_degree), dtype=np.int8)
    centred_binomial(bits, errors.reshape(-1))
    bits.fill(0)
    return errors


def _stream(key: bytes, octets: int) -> NDArray[np.uint8]:
    stream = np.zeros(octets, dtype=np.uint8)
    Cipher(algorithms.AES(key), modes.CTR(_COUNTER)).encryptor().update_into(stream.data, stream.data)
    return stream


@compiled
def _fit(
    residues: NDArray[np.uint32], reserve: NDArray[np.uint32], primes: NDArray[np.uint32], mask: np.uint32
) -> bool:  # pragma: no cover - compiled
    """Masks the words, and replaces those that are not below their prime; False if the reserve runs out."""
    used = 0
    for polynomial in range(residues.shape[0]):
        for k in range(residues.shape[1]):
            prime, values = primes[k], residues[polynomial, k]
            refused = np.uint32(0)
            for j in range(values.size):
                value = values[j] & mask
                values[j] = value
                refused += np.uint32(value >= prime)
            if refused == 0:
                continue
            for j in range(values.size):
                while values[j] >= prime:
                    if used == reserve.size:
                        return False
                    values[j] = reserve[used] & mask
                    used += 1
    return True


@compiled
def centred_binomial(bits: NDArray[np.uint64], errors: NDArray[np.int8]) -> None:  # pragma: no cover - compiled
    """Ones among the lowest 21 bits less ones among the next 21, without a branch; for each 64-bit word."""
    for j in range(errors.size):
        # ones(a) - ones(b) = ones(a) + ones(not b) - 21; the sum by halves, quarters and so on
        x = (bits[j] & _EITHER) ^ _FLIP
        x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
        x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        errors[j] = np.int8(np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56)) - ERROR_BOUND)
