"""A round's grid: float changes to integer fields by unbiased rounding, and summed fields back onto the model.

Each tensor has a step that all sites compute alike from the largest changes in their notes. A site's weight is applied
before rounding, so the sum of all sites' fields never leaves the field, and the sum needs no division.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError, TrainingError
from fedhe.he.compiled import compiled
from fedhe.he.params import CkksParams
from fedhe.model.layout import Layout

_WORD = 2.0**-32


def steps(
    max_changes: Sequence[Mapping[str, float]], layout: Layout, params: CkksParams, sites: int
) -> NDArray[np.float64]:
    """The value of one unit of a field, for each tensor: max over sites / grid_max(the tensor's field bits).

    With weights that sum to one, sum_i |w_i c_i / step| <= grid_max, and each site's rounding adds less than 1, so
    the sum of fields stays within field_max = grid_max + sites.

    Args:
        max_changes: for each site, the largest absolute change of each tensor.
        layout: the model's tensors.
        params: whose capacity sets the grid.
        sites: number of sites in the sum; the length of `max_changes`.

    Returns:
        (n_tensors,) float64; 0.0 where no site changed the tensor.

    Raises:
        RemoteProtocolError: a site names other tensors, or a change that is negative, NaN or infinite.
        CapacityError: more sites than the parameters can sum.
    """
    if len(max_changes) != sites:
        raise RemoteProtocolError(f"expected the largest changes of {sites} sites, got those of {len(max_changes)}")
    names = {tensor.name for tensor in layout.tensors}
    for number, changes in enumerate(max_changes, start=1):
        if set(changes) != names:
            odd = min(set(changes) ^ names)
            raise RemoteProtocolError(
                f"site {number} of {sites}: expected the largest change of the layout's {len(names)} tensors, "
                f"got {len(changes)}, which differ at '{odd}'"
            )
        for name, change in changes.items():
            if not (math.isfinite(change) and change >= 0):
                raise RemoteProtocolError(
                    f"site {number} of {sites}: expected a finite largest change >= 0 of tensor '{name}', got {change}"
                )
    return np.array(
        [
            max(float(changes[tensor.name]) for changes in max_changes) / params.grid_max(tensor.field_bits, sites)
            for tensor in layout.tensors
        ],
        dtype=np.float64,
    )


def quantise(
    change: NDArray[np.floating],
    weight: float,
    step: float,
    words: NDArray[np.uint32],
    fields: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Puts weighted changes of one tensor on its grid: x = float64(change) * weight / step, then floor(x) or the next.

    The upper one is taken where word / 2^32 < x - floor(x): with uniform words the result is unbiased within 2^-32 of
    a step, and a whole x never moves.

    Args:
        change: (m,) float32 or float64.
        weight: this site's share of the average, 0 to 1.
        step: the value of one unit; where it is 0 the changes must be 0.
        words: (m,) uint32, uniform; no secret, so that a site which starts over rounds the same way.
        fields: (m,) int64 that receives the result; a new one if None.

    Returns:
        (m,) int64.

    Raises:
        TrainingError: a change is NaN or infinite, or not 0 where the step is 0.
    """
    if not (math.isfinite(weight) and 0 <= weight <= 1):
        raise TrainingError(f"expected a weight from 0 to 1, got {weight}")
    if fields is None:
        fields = np.empty(change.shape, dtype=np.int64)
    if step > 0:
        finite = _round(change, weight, step, words, fields)
    else:
        finite = bool(np.isfinite(change).all())
        fields.fill(0)
    if not finite:
        raise TrainingError(
            "expected finite changes, got NaN or infinity", "training diverged: lower the learning rate, clip gradients"
        )
    if not step > 0 and change.any() and weight > 0:
        raise TrainingError(
            "expected no change where the round's grid has step 0, got one",
            "the site's note and its update do not belong together",
        )
    return fields


@compiled
def _round(
    change: NDArray[np.floating], weight: float, step: float, words: NDArray[np.uint32], fields: NDArray[np.int64]
) -> bool:  # pragma: no cover - compiled
    """Whether all changes are finite, and all quotients; else the fields mean nothing."""
    beyond = 0
    for j in range(fields.size):
        value = np.float64(change[j])
        scaled = value * weight / step
        below = np.floor(scaled)
        fields[j] = np.int64(below) + np.int64(np.float64(words[j]) * _WORD < scaled - below)
        # NaN and infinity are the values x for which x - x is not 0
        beyond += int(value - value != 0.0) | int(scaled - scaled != 0.0)
    return beyond == 0


def add_fields(model: NDArray[np.float32], fields: NDArray[np.int64], step: float) -> None:
    """The next global model: float32(float64(model) + float64(fields) * step), elementwise, in place.

    Every site must end with the same bytes: two float64 operations and one conversion for each value, in this order
    and never fused, so the result does not depend on the machine, on threads or on vector units.

    Args:
        model: (n,) float32, values of one tensor.
        fields: (n,) int64, summed over the sites.
        step: the value of one unit.

    Raises:
        TrainingError: lengths differ, or the result leaves float32's range; the model is not to be used then.
    """
    if model.shape != fields.shape:
        raise TrainingError(f"expected fields of shape {model.shape}, got {fields.shape}")
    if places := _add(model, fields, step):
        raise TrainingError(
            f"expected finite weights after the round, got NaN or infinity at {places} places",
            "lower the learning rate, or clip gradients",
        )


@compiled
def _add(model: NDArray[np.float32], fields: NDArray[np.int64], step: float) -> int:  # pragma: no cover - compiled
    """At how many places the result is NaN or infinite."""
    beyond = 0
    for j in range(model.size):
        after = np.float32(np.float64(model[j]) + np.float64(fields[j]) * step)
        model[j] = after
        beyond += int(after - after != np.float32(0))
    return beyond
