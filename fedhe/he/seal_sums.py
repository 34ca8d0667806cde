"""What SEAL's seeds stand for, added up in processes of their own: this one never loads SEAL."""

import json
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from fedhe.he.params import CkksParams
from fedhe.he.processes import Processes

WORKER = "fedhe.he.seal_expander"


class SealSums:
    """Any number of threads may ask at once.

    Args:
        params: of the project; a job's have the same ring.
        most: how many processes, at most.
    """

    def __init__(self, params: CkksParams, most: int) -> None:
        self._shape = len(params.primes), params.poly_modulus_degree
        self._processes = Processes(WORKER, json.dumps(asdict(params.literal)).encode(), most)

    def add(self, seeds: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """As `seal_expander.SealExpander.add`.

        Raises:
            ConfigError: this build of SEAL differs from what the federation uses.
            ResourceError: a process was killed; trying again may help.
        """
        answer = self._processes.ask(seeds.shape[1].to_bytes(2, "little"), seeds.tobytes())
        return np.frombuffer(bytearray(answer), dtype="<u4").reshape(-1, *self._shape)

    def close(self) -> None:
        """Ends the processes."""
        self._processes.close()
