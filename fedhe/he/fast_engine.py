"""CKKS by a compiled kernel of our own: the ciphertexts of seal_engine.py, in a fraction of the time.

The key is SEAL's, seeds and errors come from OpenSSL's AES (streams.py), the arithmetic is in fast_kernel.py. Each
engine decrypts what the other encrypts; tests hold this one against SEAL over random and extreme inputs, and that is
the licence for it to exist.
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.he.ciphertext import C1Form, Expectation, write_chunk
from fedhe.he.engine import (
    check_coefficients,
    check_key,
    halves,
    largest_magnitude,
    read_sum,
    round_exactly,
    self_test,
    upload_header,
)
from fedhe.he.fast_kernel import decrypt_chunk, encrypt_chunk, ring_key
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams
from fedhe.he.streams import expand_seed, fresh_errors, new_seed


class FastEngine:
    """The engine (engine.py) on the compiled kernel. Any number of threads may use it at once.

    Attributes:
        params: the job's parameters.
        key_id: 16 bytes, the key's id.

    Raises:
        TrustError: the key belongs to another ring.
        ConfigError: the kernel fails its self-test on this computer.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey) -> None:
        check_key(params, secret_key)
        self.params = params
        self.key_id = secret_key.key_id
        self._key = ring_key(secret_key, params)
        self_test(self)

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness; see `Engine.encrypt`."""
        check_coefficients(self.params, coefficients.shape, largest_magnitude(coefficients))
        header = upload_header(self, len(coefficients), context, index, C1Form.AES_SEEDS)
        seed, errors = new_seed(), fresh_errors(header.count, self.params)
        c1 = expand_seed(seed, header.count, self.params)
        c0 = np.empty(c1.shape, dtype=np.uint32)
        encrypt_chunk(np.ascontiguousarray(coefficients), errors, c1, self._key, c0)
        errors.fill(0)
        return write_chunk(header, np.frombuffer(seed, dtype=np.uint8), c0)

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly; see `Engine.decrypt`."""
        chunk = read_sum(self, data, expect)
        c0, c1 = halves(chunk, self.params)
        noisy = np.empty((len(c0), self.params.poly_modulus_degree), dtype=np.int64)
        decrypt_chunk(c0, c1, self._key, noisy)
        return round_exactly(noisy, self.params, chunk.header.sites)
