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
from fedhe.model.flatten import apply_update


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
    exchange_step.keep_fields = _keep_values
    exchange_step.next_model = _next_model


def _weighted_change(encoder: Any, chunk: int, _keep: object = None) -> NDArray[np.float32]:
    """The chunk's float32 values: change times weight."""
    weight = np.float32(encoder.weight)
    return np.concatenate([encoder.change[part] * weight for part in encoder.plan.value_slices(chunk)])


def _keep_values(plan: UpdatePlan, chunk: int, values: NDArray[np.float32], into: NDArray[np.int64]) -> None:
    """Puts a chunk of the sum into its places; the client's buffer has 8 bytes a value, of which 4 are used."""
    summed, at = _as_float32(into), 0
    for part in plan.value_slices(chunk):
        end = at + part.stop - part.start
        summed[part] = values[at:end]
        at = end


def _next_model(before: NDArray[np.float32], fields: NDArray[np.int64], _grid: object) -> NDArray[np.float32]:
    return apply_update(before, _as_float32(fields))


def _as_float32(buffer: NDArray[np.int64]) -> NDArray[np.float32]:
    return buffer.view(np.float32)[: buffer.size]
