"""CKKS on a GPU, or whatever else torch computes on: the ciphertexts of fast_engine.py, by the kernel gpu_kernel.py.

Seeds and errors come from OpenSSL's AES on the host, as with FastEngine, and go to the device; a change that lies there
is encrypted without a plaintext copy on the host. In fedhe.he only this module and its kernel import torch: import them
late, so that a program which does not use them starts without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhe.errors import ConfigError, ResourceError
from fedhe.he.ciphertext import C1Form, ChunkHeader, Expectation, write_chunk
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
from fedhe.he.gpu_kernel import decrypt_chunk, device_key, encrypt_chunk
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams
from fedhe.he.streams import expand_seed, fresh_errors, new_seed

_OUT_OF_MEMORY = torch.cuda.OutOfMemoryError
_DEVICE_ERRORS = (_OUT_OF_MEMORY, getattr(torch, "AcceleratorError", _OUT_OF_MEMORY))  # the latter since torch 2.8


class GpuEngine:
    """The engine (engine.py) on a torch device. Any number of threads may use it at once.

    Attributes:
        params: the job's parameters.
        key_id: 16 bytes, the key's id.
        device: where it computes. The secret key lies in that device's memory.

    Raises:
        TrustError: the key belongs to another ring.
        ConfigError: the device is not there, or fails its self-test.
        ResourceError: the device lacks memory.
    """

    def __init__(self, params: CkksParams, secret_key: SecretKey, device: torch.device) -> None:
        check_key(params, secret_key)
        self.params = params
        self.key_id = secret_key.key_id
        self.device = device
        with _device_errors(device):
            self._key = device_key(secret_key, params, device)
        self_test(self)

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness; see `Engine.encrypt`.

        Raises:
            ResourceError: the device lacks memory, or failed.
        """
        check_coefficients(self.params, coefficients.shape, largest_magnitude(coefficients))
        header = upload_header(self, len(coefficients), context, index, C1Form.AES_SEEDS)
        with _device_errors(self.device):
            return self._encrypt(header, torch.tensor(np.ascontiguousarray(coefficients), device=self.device))

    def encrypt_tensor(self, coefficients: Tensor, context: bytes, index: int) -> bytes:
        """Encrypts a chunk that lies on the device; nothing of it but its extremes leaves the device in plaintext.

        Args:
            coefficients: (1 to 16, degree) int64, as `gpu_kernel.pack_tensor` gives them.
            context: 32 bytes, the round's roster.
            index: the chunk's place in its update.

        Raises:
            CapacityError: another shape, or a coefficient that the modulus cannot hold.
            ResourceError: the device lacks memory, or failed.
        """
        with _device_errors(self.device):
            worst = max(int(coefficients.max()), -int(coefficients.min())) if coefficients.numel() else 0
            check_coefficients(self.params, tuple(coefficients.shape), worst)
            header = upload_header(self, len(coefficients), context, index, C1Form.AES_SEEDS)
            return self._encrypt(header, coefficients)

    def _encrypt(self, header: ChunkHeader, coefficients: Tensor) -> bytes:
        seed, errors = new_seed(), fresh_errors(header.count, self.params)
        noise = torch.tensor(errors, device=self.device)
        c1 = self._sent(expand_seed(seed, header.count, self.params))
        c0 = encrypt_chunk(coefficients, noise, c1, self._key).numpy(force=True).view(np.uint32)
        errors.fill(0)
        noise.zero_()
        return write_chunk(header, np.frombuffer(seed, dtype=np.uint8), c0)

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly; see `Engine.decrypt`.

        Raises:
            ResourceError: the device lacks memory, or failed.
        """
        chunk = read_sum(self, data, expect)
        c0, c1 = halves(chunk, self.params)
        with _device_errors(self.device):
            noisy = decrypt_chunk(self._sent(c0), self._sent(c1), self._key).numpy(force=True)
        return round_exactly(noisy, self.params, chunk.header.sites)

    def _sent(self, residues: NDArray[np.uint32]) -> Tensor:
        """Residues on the device, as int32."""
        return torch.from_numpy(residues.view(np.int32)).to(self.device)


def find_gpu(number: int) -> torch.device:
    """The GPU of that number, as torch counts those it sees.

    Raises:
        ConfigError: there is none.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        raise ConfigError(
            f"encrypt_on: gpu: expected torch to see GPU {number}, it sees {count or 'none'}",
            "set encrypt_on: cpu in policy.yml, or mend gpus there, the driver or the build of torch",
        )
    return torch.device("cuda", number)


@contextmanager
def _device_errors(device: torch.device) -> Iterator[None]:
    """Translates what a device may lack; any other exception of torch is a bug.

    Raises:
        ResourceError: the device lacks memory, or failed.
    """
    try:
        yield
    except _DEVICE_ERRORS as error:
        raise ResourceError(
            f"{device}: cannot encrypt or decrypt there: {str(error).splitlines()[0]}",
            "training may hold all its memory; set encrypt_on: cpu in policy.yml and start the agent again",
        ) from error
