"""The interface of an engine: coefficients to ciphertexts and back, with one project's key."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhe.he.ciphertext import Expectation
from fedhe.he.params import CkksParams


class Engine(Protocol):
    """Encrypts and decrypts one chunk at a time. Engines of one key read each other's chunks."""

    @property
    def params(self) -> CkksParams:
        """The job's parameters."""
        ...

    @property
    def key_id(self) -> bytes:
        """16 bytes: the key's id, which every chunk carries."""
        ...

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness.

        Args:
            coefficients: (1 to 16, degree) int64, as `plan.encode_chunk` gives them.
            context: 32 bytes, the round's roster.
            index: the chunk's place in its update.

        Returns:
            A seeded chunk (ciphertext.py).

        Raises:
            CapacityError: another shape, or a coefficient that the modulus cannot hold.
        """
        ...

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly.

        Args:
            data: a full chunk, as `sums.add_chunks` gives it.
            expect: what it must say of itself; give `sites`, so that the server cannot claim a larger sum.

        Returns:
            (count, degree) int64, the sums of the sites' coefficients.

        Raises:
            RemoteProtocolError: not the chunk that was expected.
            TrustError: an error beyond what honest sites cause: another key, or an altered sum.
        """
        ...
