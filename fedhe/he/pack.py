"""Fields to integer coefficients and back: P = sum_j v_j 2^(bits j), k signed fields in one coefficient.

Sums of packed coefficients are packed sums, as long as every summed field stays within its bits. Unpacking first adds
half a field's range to each place, which makes all places non-negative, so no borrow crosses from one to the next.
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, TrustError
from fedhe.he.compiled import compiled


def pack(fields: NDArray[np.int64], bits: int, k: int) -> NDArray[np.int64]:
    """Packs fields, the first one lowest; the last coefficient is filled up with zeros.

    Args:
        fields: (n,) int64, each within +-(2^(bits-1) - 1).
        bits: width of a field.
        k: fields in one coefficient; bits * k <= 62.

    Returns:
        (ceil(n / k),) int64.

    Raises:
        CapacityError: a field does not fit.
    """
    limit = (1 << (bits - 1)) - 1
    coefficients = np.zeros(-(-fields.size // k), dtype=np.int64)
    smallest, largest = _pack(np.ascontiguousarray(fields), bits, k, coefficients)
    if largest > limit or smallest < -limit:
        worst = largest if largest > limit else smallest
        raise CapacityError(f"expected fields within +-{limit} ({bits} bits), got {worst}")
    return coefficients


def unpack(coefficients: NDArray[np.int64], bits: int, k: int, n: int) -> NDArray[np.int64]:
    """Unpacks the first n fields of summed coefficients.

    Args:
        coefficients: (m,) int64.
        bits: width of a field.
        k: fields in one coefficient.
        n: number of fields; more than (m - 1) k, at most m k.

    Returns:
        (n,) int64.

    Raises:
        TrustError: a coefficient that no sum of honest sites gives: outside of k fields, or not 0 behind the n-th.
    """
    fields = np.empty(coefficients.size * k, dtype=np.int64)
    if _unpack(np.ascontiguousarray(coefficients), bits, k, fields):
        raise TrustError(
            f"expected sums within {k} fields of {bits} bits, got a coefficient beyond them",
            "a site sent fields beyond the agreed grid, or the sum was altered",
        )
    if fields[n:].any():
        raise TrustError("expected zeros behind the last field of the sum, got others", "the sum was altered")
    return fields[:n]


@compiled
def _pack(
    fields: NDArray[np.int64], bits: int, k: int, coefficients: NDArray[np.int64]
) -> tuple[np.int64, np.int64]:  # pragma: no cover - compiled
    """The smallest and the largest field; the last coefficients stay 0 where there are no fields."""
    smallest = largest = np.int64(0)
    for place in range(k):
        part = fields[place::k]
        shift = bits * place
        for j in range(part.size):
            smallest, largest = min(smallest, part[j]), max(largest, part[j])
            coefficients[j] += part[j] << shift
    return smallest, largest


@compiled
def _unpack(
    coefficients: NDArray[np.int64], bits: int, k: int, fields: NDArray[np.int64]
) -> np.int64:  # pragma: no cover - compiled
    """What is left above the last field of any coefficient; 0 if all is well."""
    half, mask = np.int64(1) << (bits - 1), (np.int64(1) << bits) - 1
    bias = np.int64(0)
    for place in range(k):
        bias += half << (bits * place)
        part = fields[place::k]
        for j in range(part.size):
            part[j] = coefficients[j]
    beyond = np.int64(0)
    for j in range(coefficients.size):
        beyond |= (coefficients[j] + bias) >> (bits * k)
    for place in range(k):
        part = fields[place::k]
        shift = bits * place
        for j in range(part.size):
            part[j] = (((part[j] + bias) >> shift) & mask) - half
    return beyond
