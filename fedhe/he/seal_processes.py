"""SEAL in several processes, each with the key, so that a site encrypts on as many cores."""

import json
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from fedhe.he.keys import KEY_FILE_BYTES, SecretKey
from fedhe.he.params import SEAL_SEED_BYTES, CkksParams, read_literal
from fedhe.he.processes import Octets, Processes, serve
from fedhe.he.seal_core import SealCore

_ENCRYPT, _DECRYPT = b"e", b"d"


class SealProcesses:
    """`SealCore` in processes of their own; any number of threads at once.

    Args:
        params: the job's parameters.
        secret_key: passes to the processes through pipes.
        most: how many processes, at most.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey, most: int) -> None:
        self._shape = len(params.primes), params.poly_modulus_degree
        greeting = secret_key.to_bytes() + json.dumps(asdict(params.literal)).encode()
        self._processes = Processes("fedhe.he.seal_processes", greeting, most)

    def encrypt(self, coefficients: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """As `SealCore.encrypt`.

        Raises:
            ConfigError: this build of SEAL differs from what this program knows.
            ResourceError: a process was killed; trying again may help.
        """
        answer = self._processes.ask(_ENCRYPT, np.ascontiguousarray(coefficients, dtype="<i8").data.cast("B"))
        residues = len(coefficients) * self._shape[0] * self._shape[1]
        c0 = np.frombuffer(answer, dtype="<u4", count=residues).reshape(-1, *self._shape)
        return c0, np.frombuffer(answer, dtype=np.uint8, offset=4 * residues).reshape(-1, SEAL_SEED_BYTES)

    def decrypt(self, c0: NDArray[np.uint32], c1: NDArray[np.uint32]) -> NDArray[np.int64]:
        """As `SealCore.decrypt`, and as `encrypt` here."""
        halves = (np.ascontiguousarray(half, dtype="<u4").data.cast("B") for half in (c0, c1))
        answer = bytearray(self._processes.ask(_DECRYPT, *halves))
        return np.frombuffer(answer, dtype="<i8").reshape(-1, self._shape[1])


def _begin(greeting: bytes) -> "_Answering":
    params = CkksParams.from_literal(read_literal(json.loads(greeting[KEY_FILE_BYTES:])))
    return _Answering(SealCore(params, SecretKey.from_bytes(greeting[:KEY_FILE_BYTES])))


class _Answering:
    def __init__(self, core: SealCore) -> None:
        self._core = core
        self._shape = len(core.params.primes), core.params.poly_modulus_degree

    def __call__(self, request: bytes) -> list[Octets]:
        if request[:1] == _ENCRYPT:
            coefficients = np.frombuffer(request, dtype="<i8", offset=1).reshape(-1, self._shape[1])
            c0, seeds = self._core.encrypt(coefficients)
            return [c0.data.cast("B"), seeds.data.cast("B")]
        c0, c1 = np.frombuffer(request, dtype="<u4", offset=1).reshape(2, -1, *self._shape)
        return [self._core.decrypt(c0, c1).data.cast("B")]


if __name__ == "__main__":
    serve(_begin)
