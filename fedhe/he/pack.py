"""Fields to integer coefficients and back: P = sum_j v_j 2^(bits j), k signed fields in one coefficient.

Sums of packed coefficients are packed sums, as long as every summed field stays within its bits. Unpacking first adds
half a field's range to each place, which makes all places non-negative, so no borrow crosses from one to the next.
"""

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, TrustError


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
    largest, smallest = int(fields.max(initial=0)), int(fields.min(initial=0))
    if largest > limit or smallest < -limit:
        worst = largest if largest > limit else smallest
        raise CapacityError(f"expected fields within +-{limit} ({bits} bits), got {worst}")
    count = -(-fields.size // k)
    if fields.size != count * k:
        fields = np.concatenate([fields, np.zeros(count * k - fields.size, dtype=np.int64)])
    places = fields.reshape(count, k)
    coefficients = places[:, k - 1].copy()
    for place in range(k - 2, -1, -1):
        coefficients <<= bits
        coefficients += places[:, place]
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
    fields = np.empty((coefficients.size, k), dtype=np.int64)
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    rest = coefficients + sum(half << (bits * place) for place in range(k))
    for place in range(k):
        column = fields[:, place]
        np.bitwise_and(rest, mask, out=column)
        column -= half
        rest >>= bits
    if rest.any():
        raise TrustError(
            f"expected sums within {k} fields of {bits} bits, got a coefficient beyond them",
            "a site sent fields beyond the agreed grid, or the sum was altered",
        )
    flat = fields.reshape(-1)
    if flat[n:].any():
        raise TrustError("expected zeros behind the last field of the sum, got others", "the sum was altered")
    return flat[:n]
