"""Plain float32 FedAvg through the real client, as the floor that encryption is measured against. Benchmarks only.

Replaces, in the process that calls `leave_encryption_out`, the functions between a site's change of the model and the
bytes of a chunk, and back. Everything else stays: READY, roster, chunks, spool, digests, TLS. It reaches into the
client's modules from outside on purpose: the product has no switch for this, and must not get one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhe.client import exchange_step, round_codec, site
from fedhe.he.plan import UpdatePlan


class PlainEngine:
    """In the place of an engine: float32 values to little-endian bytes and back."""

    def encrypt(self, values: NDArray[np.float32], _context: bytes, _index: int) -> bytes:
        """The values' bytes."""
        return values.tobytes()

    def decrypt(self, data: bytes, _expect: object) -> NDArray[np.float32]:
        """The bytes' values."""
        return np.frombuffer(data, dtype="<f4")


def leave_encryption_out() -> None:
    """Makes this process a plain site; there is no way back."""
    engine = PlainEngine()
    site.Site.engine = lambda _site, _params: engine
    round_codec.UpdateEncoder.coefficients = _weighted_change
    exchange_step.apply_chunk = _apply_values


def _weighted_change(encoder: Any, chunk: int, _keep: object = None) -> NDArray[np.float32]:
    """The chunk's float32 values: change times weight."""
    weight = np.float32(encoder.weight)
    return np.concatenate([encoder.change[part] * weight for part in encoder.plan.value_slices(chunk)])


def _apply_values(
    plan: UpdatePlan, chunk: int, values: NDArray[np.float32], _grid: object, model: NDArray[np.float32]
) -> list[tuple[slice, NDArray[np.float32]]]:
    """Adds a chunk of the sum to its places of the model."""
    at = 0
    for part in plan.value_slices(chunk):
        end = at + part.stop - part.start
        model[part] += values[at:end]
        at = end
    return []
