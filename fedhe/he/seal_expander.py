"""Expanding SEAL's seeds with SEAL's generator, which needs no key."""

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhe.he.params import CkksParams
from fedhe.he.seal_stream import SealStream


class SealExpander:
    """Expands the seeds of c1 with SEAL's generator, and adds them. A second thread waits. Not across a fork.

    Raises:
        ConfigError: this build of SEAL differs from what the federation uses.
    """

    def __init__(self, params: CkksParams) -> None:
        self.params = params
        self._stream = SealStream(params)
        self._lock = threading.Lock()

    def add(self, totals: list[Any], seeds: NDArray[np.uint8]) -> list[Any]:
        """Adds the expansions of a chunk's seeds to what came before.

        Args:
            totals: what the last call returned; empty at first.
            seeds: (count, 64) uint8.

        Returns:
            count SEAL ciphertexts.
        """
        with self._lock:
            expanded = [self._stream.expand(seed.data) for seed in seeds]
            if not totals:
                return expanded
            for total, addend in zip(totals, expanded, strict=True):
                self._stream.evaluator.add_inplace(total, addend)
        return totals

    def read(self, totals: list[Any]) -> NDArray[np.uint32]:
        """(count, primes, degree) uint32: the sums of the c1."""
        with self._lock:
            return np.stack([self._stream.save_ciphertext(total)[1].astype(np.uint32) for total in totals])


@lru_cache(maxsize=4)
def expander_for(params: CkksParams) -> SealExpander:
    """One expander for each parameter set and process; making one takes milliseconds."""
    return SealExpander(params)
