"""Fields to integer coefficients and back: P = sum_j v_j 2^(bits j), k signed fields in one coefficient.

Sums of packed coefficients are packed sums, as long as every summed field stays within its bits. Unpacking first adds
half a field's range to each place, which makes all places non-negative, so no borrow crosses from one to the next.
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, TrustError
from fedhe.he.compiled import compiled

_USUAL = 3  # of k: 16-bit fields; a loop of a known stride is twice as fast


def pack(
    fields: NDArray[np.int64], bits: int, k: int, coefficients: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Packs fields, the first one lowest; the last coefficient is filled up with zeros.

    Args:
        fields: (n,) int64, each within +-(2^(bits-1) - 1).
        bits: width of a field.
        k: fields in one coefficient; bits * k <= 62.
        coefficients: (ceil(n / k),) int64, contiguous, that receives the result; a new one if None.

    Returns:
        (ceil(n / k),) int64.

    Raises:
        CapacityError: a field does not fit.
    """
    limit = (1 << (bits - 1)) - 1
    if coefficients is None:
        coefficients = np.empty(-(-fields.size // k), dtype=np.int64)
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
    """The smallest and the largest field, or 0; the last coefficient is filled up with zeros."""
    smallest = largest = np.int64(0)
    for j in range(fields.size):
        smallest, largest = min(smallest, fields[j]), max(largest, fields[j])
    whole = fields.size // k
    if k == _USUAL:
        for j in range(whole):
            coefficients[j] = fields[3 * j] + (fields[3 * j + 1] << bits) + (fields[3 * j + 2] << 2 * bits)
    else:
        for j in range(whole):
            coefficients[j] = fields[k * j]
            for place in range(1, k):
                coefficients[j] += fields[k * j + place] << (bits * place)
    for place in range(fields.size - whole * k):
        if place == 0:
            coefficients[whole] = 0
        coefficients[whole] += fields[whole * k + place] << (bits * place)
    return smallest, largest


@compiled
def _unpack(
    coefficients: NDArray[np.int64], bits: int, k: int, fields: NDArray[np.int64]
) -> np.int64:  # pragma: no cover - compiled
    """What is left above the last field of any coefficient; 0 if all is well."""
    half, mask = np.int64(1) << (bits - 1), (np.int64(1) << bits) - 1
    bias = beyond = np.int64(0)
    for place in range(k):
        bias += half << (bits * place)
    if k == _USUAL:
        for j in range(coefficients.size):
            lifted = coefficients[j] + bias
            beyond |= lifted >> (3 * bits)
            fields[3 * j] = (lifted & mask) - half
            fields[3 * j + 1] = ((lifted >> bits) & mask) - half
            fields[3 * j + 2] = ((lifted >> 2 * bits) & mask) - half
    else:
        for j in range(coefficients.size):
            lifted = coefficients[j] + bias
            beyond |= lifted >> (bits * k)
            for place in range(k):
                fields[k * j + place] = ((lifted >> (bits * place)) & mask) - half
    return beyond
