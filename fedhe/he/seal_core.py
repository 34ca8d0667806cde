"""SEAL itself behind a site's engine: integers in the polynomial's coefficients to ciphertexts and back.

A ciphertext is (c0, c1) = (Delta m + e - c1 s, c1), all in NTT form modulo two primes. SEAL samples c1 (from a seed
that travels in its place) and e, and holds s. Decryption gives Delta sum(m) + sum(e).

Bytes in and out of sealapi cost more than the arithmetic, so polynomials pass through it as rarely as possible, and two
at a time: fewer than two are no SEAL ciphertext, more do not fit into a core's cache.
"""

import threading
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from fedhe.he.keys import SecretKey
from fedhe.he.params import SEAL_SEED_BYTES, CkksParams
from fedhe.he.seal_stream import SealStream


class SealCore:
    """SEAL with one key, in this process. One call at a time; a second thread waits. Not across a fork.

    Raises:
        ConfigError: this build of SEAL differs from what this program knows.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey) -> None:
        self.params = params
        self._lock = threading.Lock()
        self._stream = SealStream(params)
        primes = len(params.primes)
        residues = secret_key.residues()
        self._encryptor = seal.Encryptor(self._stream.context, self._stream.load_key(residues))
        self._secret = self._stream.load_plaintext(residues[:primes])
        self._stream.wipe()
        # Decryption by the keys 0 and 1 gives c0 and c0 + c1: the way to a plaintext in NTT form, which SEAL's
        # interface does not otherwise make from integers, and which never becomes bytes.
        self._first_of = seal.Decryptor(self._stream.context, self._stream.load_key(np.zeros_like(residues)))
        self._sum_of = seal.Decryptor(self._stream.context, self._stream.load_key(np.ones_like(residues)))
        self._prime_column = np.array(params.primes, dtype=np.int64).reshape(primes, 1)
        self._inverse = pow(params.primes[0], -1, params.primes[1])

    def encrypt(self, coefficients: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """c0 as (count, primes, degree) residues, and (count, 64) seeds of c1, for (count, degree) coefficients."""
        count = len(coefficients)
        with self._lock:
            c0 = np.empty((count, len(self.params.primes), self.params.poly_modulus_degree), dtype=np.uint32)
            seeds = np.empty((count, SEAL_SEED_BYTES), dtype=np.uint8)
            for number, plaintext in enumerate(self._plaintexts(coefficients)):
                residues, seed = self._stream.save_seeded(self._encryptor.encrypt_symmetric(plaintext))
                c0[number] = residues
                seeds[number] = np.frombuffer(seed, dtype=np.uint8)
        return c0, seeds

    def decrypt(self, c0: NDArray[np.uint32], c1: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Delta sum(m) + sum(e), centred, (count, degree), for (count, primes, degree) residues each.

        Raises:
            RuntimeError: SEAL refuses, such as a c1 of zeros, which would be no encryption.
            ValueError: the same.
        """
        with self._lock:
            return self._decrypt_polynomials(np.stack([c0, c1], axis=1))

    def _plaintexts(self, coefficients: NDArray[np.int64]) -> list[Any]:
        """SEAL plaintexts Delta m in NTT form, for (count, degree) coefficients."""
        count = len(coefficients)
        scaled = coefficients << self.params.scale_bits
        if count % 2:
            scaled = np.concatenate([scaled, scaled[:1]])
        plaintexts = []
        for first, second in zip(scaled[0::2], scaled[1::2], strict=True):
            # (m0, m1 - m0), so that the keys 0 and 1 give m0 and m1
            pair = _residues(np.stack([first, second]), self._prime_column)
            pair[1] -= pair[0]
            pair[1] += (pair[1] < 0) * self._prime_column
            keys = self._first_of, self._sum_of
            if not pair[1].any():  # equal messages: SEAL refuses a ciphertext (m, 0), so put anything beside them
                pair[1] = 1
                keys = self._first_of, self._first_of
            ciphertext = self._stream.load_ciphertext(pair, is_ntt=False)
            self._stream.evaluator.transform_to_ntt_inplace(ciphertext)
            for key in keys:
                plaintext = seal.Plaintext()
                key.decrypt(ciphertext, plaintext)
                plaintexts.append(plaintext)
        self._stream.wipe()
        return plaintexts[:count]

    def _decrypt_polynomials(self, polynomials: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Delta sum(m) + sum(e) as (count, degree) int64, centred, for (count, 2, primes, degree) residues."""
        count = len(polynomials)
        if count % 2:  # SEAL's ciphertexts have two polynomials at least
            polynomials = np.concatenate([polynomials, polynomials[:1]])
        noisy = np.empty((len(polynomials), polynomials.shape[-1]), dtype=np.int64)
        for begin in range(0, count, 2):
            c0 = self._stream.load_ciphertext(polynomials[begin : begin + 2, 0], is_ntt=True)
            c1 = self._stream.load_ciphertext(polynomials[begin : begin + 2, 1], is_ntt=True)
            self._stream.evaluator.multiply_plain_inplace(c1, self._secret)
            self._stream.evaluator.add_inplace(c0, c1)
            self._stream.evaluator.transform_from_ntt_inplace(c0)
            residues = self._stream.save_ciphertext(c0).view(np.int64)
            noisy[begin : begin + 2] = self._combine(residues[:, 0], residues[:, 1])
        self._stream.wipe()
        return noisy[:count]

    def _combine(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
        """Chinese remainder of residues modulo the two primes, centred around 0."""
        p0, p1 = self.params.primes
        factor = second - first
        factor += (factor < 0) * p1  # p0 < p1, so first - second < p1
        factor *= self._inverse
        factor -= factor // p1 * p1  # NumPy divides by a constant with vector instructions, but takes no remainder
        factor *= p0
        factor += first
        factor -= (factor > self.params.modulus // 2) * self.params.modulus
        return factor


def _residues(scaled: NDArray[np.int64], primes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count, primes, degree) residues, 0 <= r < p, of (count, degree) integers of any sign."""
    return np.stack([scaled - scaled // prime * prime for prime in primes[:, 0]], axis=1)
