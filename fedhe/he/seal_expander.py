"""Expanding SEAL's seeds with its generator, which needs no key: here, or in other processes (seal_sums.py)."""

import json
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhe.he.params import SEAL_SEED_BYTES, CkksParams, read_literal
from fedhe.he.processes import Octets, serve
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

    def add(self, seeds: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """The sum of what several sites' seeds stand for.

        Args:
            seeds: (sites, count, 64) uint8, at least one site's.

        Returns:
            (count, primes, degree) uint32, below the primes.
        """
        with self._lock:
            return np.stack([self._add_one(column) for column in seeds.swapaxes(0, 1)])

    def _add_one(self, seeds: NDArray[np.uint8]) -> NDArray[np.uint32]:
        total: Any = self._stream.expand(seeds[0].tobytes())
        for seed in seeds[1:]:
            self._stream.evaluator.add_inplace(total, self._stream.expand(seed.tobytes()))
        c1: NDArray[np.uint32] = self._stream.save_ciphertext(total)[1].astype(np.uint32)
        return c1


@lru_cache(maxsize=4)
def expander_for(params: CkksParams) -> SealExpander:
    """One expander for each parameter set and process; making one takes milliseconds."""
    return SealExpander(params)


def _begin(greeting: bytes) -> "_Answering":
    return _Answering(SealExpander(CkksParams.from_literal(read_literal(json.loads(greeting)))))


class _Answering:
    def __init__(self, expander: SealExpander) -> None:
        self._expander = expander

    def __call__(self, request: bytes) -> list[Octets]:
        """Answers with the sum's residues; asked is the number of ciphertexts in two bytes, and the seeds."""
        count = int.from_bytes(request[:2], "little")
        seeds = np.frombuffer(request, dtype=np.uint8, offset=2).reshape(-1, count, SEAL_SEED_BYTES)
        return [self._expander.add(seeds).astype("<u4", copy=False).data.cast("B")]


if __name__ == "__main__":
    serve(_begin)
