"""CKKS through Microsoft SEAL: symmetric, seeded, with integers in the polynomial's coefficients; exact.

A ciphertext is (c0, c1) = (Delta m + e - c1 s, c1), all in NTT form modulo two primes. SEAL samples c1 (from a seed
that travels in its place) and e, and holds s. Decryption gives Delta sum(m) + sum(e); with |sum(e)| <= 21 K < Delta / 2
rounding to multiples of Delta leaves the exact sum, and what was rounded away must stay within 21 K, or the key or the
sum is wrong. With nothing approximate in the result, decryptions tell nothing about the key (Li and Micciancio,
EUROCRYPT 2021, attack the error that is rounded away here).

Bytes in and out of sealapi cost more than the arithmetic, so polynomials pass through it as rarely as possible, and two
at a time: fewer than two are no SEAL ciphertext, more do not fit into a core's cache.
"""

import threading
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from fedhe.errors import CapacityError, ConfigError, FedheError, RemoteProtocolError, TrustError
from fedhe.he.ciphertext import (
    MAX_CHUNK_INDEX,
    MAX_CIPHERTEXTS,
    SEED_BYTES,
    ChunkHeader,
    ChunkKind,
    Expectation,
    read_chunk,
    write_chunk,
)
from fedhe.he.keys import SecretKey
from fedhe.he.params import ERROR_BOUND, CkksParams
from fedhe.he.seal_stream import SealStream
from fedhe.he.sums import add_chunks

CONTEXT_BYTES = 32


class SealEngine:
    """The engine (engine.py) on SEAL. One call at a time; a second thread waits. Not across a fork.

    Attributes:
        params: the job's parameters.
        key_id: 16 bytes, the key's id.

    Raises:
        TrustError: the key belongs to another ring.
        ConfigError: this build of SEAL differs from what this program knows, or fails its self-test.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey) -> None:
        if secret_key.ring_id != params.ring_id:
            raise TrustError(
                f"HE secret key {secret_key.key_id.hex()}: expected a key of ring {params.ring_id.hex()}, "
                f"got one of {secret_key.ring_id.hex()}",
                "the project's HE parameters changed: install the newest kit",
            )
        self.params = params
        self.key_id = secret_key.key_id
        self._lock = threading.Lock()
        self._stream = SealStream(params)
        primes, degree = len(params.primes), params.poly_modulus_degree
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
        self._largest = ((params.modulus - 1) // 2 - ERROR_BOUND * params.max_sites) // params.scale
        self._test(degree)

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness; see `Engine.encrypt`."""
        count = self._check(coefficients, context, index)
        primes, degree = len(self.params.primes), self.params.poly_modulus_degree
        with self._lock:
            c0 = np.empty((count, 1, primes, degree), dtype=np.uint32)
            seeds = np.empty((count, SEED_BYTES), dtype=np.uint8)
            for number, plaintext in enumerate(self._plaintexts(coefficients)):
                residues, seed = self._stream.save_seeded(self._encryptor.encrypt_symmetric(plaintext))
                c0[number, 0] = residues
                seeds[number] = np.frombuffer(seed, dtype=np.uint8)
        header = ChunkHeader(
            kind=ChunkKind.SEEDED,
            primes=primes,
            prime_bits=self.params.coeff_modulus_bits[0],
            degree=degree,
            index=index,
            count=count,
            sites=1,
            key_id=self.key_id,
            params_id=self.params.params_id,
            context=context,
        )
        return write_chunk(header, seeds, c0)

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly; see `Engine.decrypt`."""
        if expect.kind is not ChunkKind.FULL:
            raise RemoteProtocolError(f"expected to decrypt a chunk of kind FULL, was asked for {expect.kind.name}")
        if expect.key_id != self.key_id:
            raise TrustError(f"expected ciphertexts of key {self.key_id.hex()}, was asked for {expect.key_id.hex()}")
        chunk = read_chunk(data, expect=expect, params=self.params)
        sites = chunk.header.sites
        if sites > self.params.max_sites:
            raise RemoteProtocolError(f"expected a sum of at most {self.params.max_sites} sites, got one of {sites}")
        try:
            with self._lock:
                noisy = self._decrypt_polynomials(chunk.polynomials)
        except (RuntimeError, ValueError) as error:  # such as a c1 of zeros, which would be no encryption
            raise TrustError(f"SEAL refuses the sum ({error}): expected ciphertexts of the key") from error
        half = self.params.scale // 2
        exact = (noisy + half) >> self.params.scale_bits
        residual = int(np.abs(noisy - (exact << self.params.scale_bits)).max())
        if residual > ERROR_BOUND * sites:
            raise TrustError(
                f"decrypted noise {residual} is larger than {sites} honest sites can cause "
                f"({ERROR_BOUND * sites}): wrong key or altered sum",
                "do not retry: ask the coordinator whether all sites and the server hold the same kit version",
            )
        return exact

    def _check(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> int:
        degree = self.params.poly_modulus_degree
        shape = coefficients.shape
        if len(shape) != 2 or shape[1] != degree or not 1 <= shape[0] <= MAX_CIPHERTEXTS:
            raise CapacityError(f"expected coefficients of shape (1 to {MAX_CIPHERTEXTS}, {degree}), got {shape}")
        worst = max(int(coefficients.max()), -int(coefficients.min()))
        if worst > self._largest:
            raise CapacityError(f"expected coefficients within +-{self._largest}, got {worst}")
        if len(context) != CONTEXT_BYTES or not 0 <= index <= MAX_CHUNK_INDEX:
            raise CapacityError(
                f"expected a context of {CONTEXT_BYTES} bytes and a chunk from 0, got {len(context)} bytes and {index}"
            )
        return len(coefficients)

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

    def _test(self, degree: int) -> None:
        """Encrypts, sums and decrypts one known chunk, so that a build that computes wrongly never sees an update."""
        message = (np.arange(2 * degree, dtype=np.int64).reshape(2, degree) - degree) * (self._largest // degree // 4)
        context = bytes(CONTEXT_BYTES)
        expect = Expectation(ChunkKind.SEEDED, self.key_id, self.params.params_id, context, 0)
        try:
            total = add_chunks(
                [self.encrypt(message, context, 0), self.encrypt(message, context, 0)], self.params, expect
            )
            full = Expectation(ChunkKind.FULL, self.key_id, self.params.params_id, context, 0, 2, 2)
            exact = bool((self.decrypt(total, full) == 2 * message).all())
        except FedheError as error:
            raise ConfigError(f"SEAL failed its self-test: {error.message}") from error
        if not exact:
            raise ConfigError("SEAL failed its self-test: expected the exact sum, got another")


def _residues(scaled: NDArray[np.int64], primes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count, primes, degree) residues, 0 <= r < p, of (count, degree) integers of any sign."""
    return np.stack([scaled - scaled // prime * prime for prime in primes[:, 0]], axis=1)
