"""CKKS through Microsoft SEAL: symmetric, seeded, with integers in the polynomial's coefficients; exact.

SEAL samples, transforms and multiplies (seal_core.py), here or in several processes, because its binding keeps Python's
lock. With |sum(e)| <= 21 K < Delta / 2 rounding to multiples of Delta leaves the exact sum, and what was rounded away
must stay within 21 K, or the key or the sum is wrong. With nothing approximate in the result, decryptions tell nothing
about the key (Li and Micciancio, EUROCRYPT 2021, attack the error that is rounded away here).
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import TrustError
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
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams
from fedhe.he.seal_core import SealCore
from fedhe.he.seal_processes import SealProcesses


class SealEngine:
    """The engine (engine.py) on SEAL. Any number of threads may use it; as many at once as it has processes.

    Attributes:
        params: the job's parameters.
        key_id: 16 bytes, the key's id.

    Args:
        params: the job's parameters.
        secret_key: the project's key.
        processes: 1 computes in this process, more in as many others.

    Raises:
        TrustError: the key belongs to another ring.
        ConfigError: this build of SEAL differs from what this program knows, or fails its self-test.
        ResourceError: a process cannot be started.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey, processes: int = 1) -> None:
        check_key(params, secret_key)
        self.params = params
        self.key_id = secret_key.key_id
        self._core: SealCore | SealProcesses = (
            SealCore(params, secret_key) if processes == 1 else SealProcesses(params, secret_key, processes)
        )
        self_test(self)

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness; see `Engine.encrypt`."""
        check_coefficients(self.params, coefficients.shape, largest_magnitude(coefficients))
        header = upload_header(self, len(coefficients), context, index, C1Form.SEAL_SEEDS)
        c0, seeds = self._core.encrypt(coefficients)
        return write_chunk(header, seeds, c0[:, np.newaxis])

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly; see `Engine.decrypt`."""
        chunk = read_sum(self, data, expect)
        try:
            noisy = self._core.decrypt(*halves(chunk, self.params))
        except (RuntimeError, ValueError) as error:  # such as a c1 of zeros, which would be no encryption
            raise TrustError(f"SEAL refuses the sum ({error}): expected ciphertexts of the key") from error
        return round_exactly(noisy, self.params, chunk.header.sites)
