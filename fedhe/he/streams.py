"""Key streams from OpenSSL (AES-256 in counter mode): a chunk's c1 from its public seed, its errors, its rounding.

The counter block is a big-endian number that begins at 2. That is what GCM encrypts with under a nonce of zeros, and
OpenSSL's GCM is nearly twice as fast as its plain counter mode; the tag is never made. A key has one stream.

c1. The seed is an AES key. The stream, read as little-endian 32-bit words, has one word for each residue
of the chunk (ciphertext, prime, coefficient in SEAL's NTT order) and then a reserve. A residue is its word's lowest b
bits, b being the bits of the prime; where that is not below the prime, the next word of the reserve that is takes its
place. So every residue is equally likely, and sites and server, on any machine, expand the same seed alike.

Errors. A fresh key, never sent; 48 bits of its stream give one error, the difference of the numbers of ones in two
times 21 of them: the centred binomial distribution that SEAL samples from.
"""

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError
from fedhe.he.compiled import compiled
from fedhe.he.params import ERROR_BOUND, CkksParams

AES_SEED_BYTES = 32
_NONCE = bytes(12)
_ZEROS = memoryview(bytes(64 * 1024))  # what is encrypted; it stays in the processor's cache
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
    found, reserve = _words(seed, count, params)
    _fit(found, reserve, params, np.empty((0, *found.shape[1:]), dtype=np.uint32))
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
        found, reserve = _words(seed.tobytes(), count, params)
        _fit(found, reserve, params, total)
    return total


def public_words(key: bytes, count: int) -> NDArray[np.uint32]:
    """(count,) uint32 from the stream of a 32-byte key that is no secret, as stochastic rounding needs them."""
    return _stream(key, 4 * count).view(np.uint32)


def fresh_errors(count: int, params: CkksParams) -> NDArray[np.int8]:
    """(count, degree) int8: fresh errors, |e| <= 21. Secret."""
    errors = np.empty((count, params.poly_modulus_degree), dtype=np.int8)
    words = _stream(new_seed(), 6 * errors.size).view(np.uint16).reshape(3, errors.size)
    centred_binomial(words, errors.reshape(-1))
    words.fill(0)
    return errors


def _stream(key: bytes, octets: int) -> NDArray[np.uint8]:
    stream = np.empty(octets, dtype=np.uint8)
    cipher = Cipher(algorithms.AES(key), modes.GCM(_NONCE)).encryptor()
    for begin in range(0, octets, len(_ZEROS)):
        part = stream[begin : begin + len(_ZEROS)]
        cipher.update_into(_ZEROS[: part.size], part.data)
    return stream


def _words(seed: bytes, count: int, params: CkksParams) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """A seed's stream: a word for each residue of a chunk, (count, primes, degree), and the reserve."""
    shape = count, len(params.primes), params.poly_modulus_degree
    residues = int(np.prod(shape))
    words = _stream(seed, 4 * (residues + reserve_words(count, params))).view(np.uint32)
    return words[:residues].reshape(shape), words[residues:]


def _fit(words: NDArray[np.uint32], reserve: NDArray[np.uint32], params: CkksParams, total: NDArray[np.uint32]) -> None:
    """Makes residues of the words, in place, and adds them to `total`, of their shape or (0, primes, degree)."""
    primes = np.array(params.primes, dtype=np.uint32)
    if not _fit_all(words, reserve, primes, np.uint32((1 << params.coeff_modulus_bits[0]) - 1), total):
        raise RemoteProtocolError(f"expected a seed whose stream has residues below {params.primes}, got too few")


@compiled
def _fit_all(
    residues: NDArray[np.uint32],
    reserve: NDArray[np.uint32],
    primes: NDArray[np.uint32],
    mask: np.uint32,
    total: NDArray[np.uint32],
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
            if refused != 0:
                for j in range(values.size):
                    while values[j] >= prime:
                        if used == reserve.size:
                            return False
                        values[j] = reserve[used] & mask
                        used += 1
            if total.size != 0:
                into = total[polynomial, k]
                for j in range(values.size):
                    added = np.uint32(into[j] + values[j])
                    into[j] = min(added, np.uint32(added - prime))
    return True


@compiled
def centred_binomial(words: NDArray[np.uint16], errors: NDArray[np.int8]) -> None:  # pragma: no cover - compiled
    """Ones among the lowest 21 of 48 bits less ones among the next 21, without a branch.

    Args:
        words: (3, n) uint16: bits 0 to 15, 16 to 31 and 32 to 47 for each error.
        errors: (n,) int8, receives the result.
    """
    low, middle, high = words[0], words[1], words[2]
    for j in range(errors.size):
        bits = np.uint64(low[j]) | np.uint64(middle[j]) << np.uint64(16) | np.uint64(high[j]) << np.uint64(32)
        # ones(a) - ones(b) = ones(a) + ones(not b) - 21; the sum by halves, quarters and so on
        x = (bits & _EITHER) ^ _FLIP
        x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
        x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
        x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
        errors[j] = np.int8(np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56)) - ERROR_BOUND)
