"""A round's grid: float changes to integer fields by unbiased rounding, and summed fields back to floats.

Each tensor has a step that all sites compute alike from the largest changes in their notes. A site's weight is applied
before rounding, so the sum of all sites' fields never leaves the field, and the sum needs no division.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError, TrainingError
from fedhe.he.params import CkksParams
from fedhe.model.layout import Layout


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
    change: NDArray[np.floating], weight: float, step_per_value: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Puts weighted changes on the grid: x = float64(change) * weight / step, then floor(x) or floor(x) + 1.

    The upper one is taken with probability x - floor(x), so the result is unbiased, and a whole x never moves.

    Args:
        change: (m,) float32 or float64.
        weight: this site's share of the average, 0 to 1.
        step_per_value: (m,) float64, or one value for all; where it is 0 the change must be 0.
        rng: draws one uniform number for each value; not a secret, so the same seed may give the same fields again.

    Returns:
        (m,) int64.

    Raises:
        TrainingError: a change is NaN or infinite, or not 0 where the step is 0.
    """
    if not (math.isfinite(weight) and 0 <= weight <= 1):
        raise TrainingError(f"expected a weight from 0 to 1, got {weight}")
    step = np.broadcast_to(np.asarray(step_per_value, dtype=np.float64), change.shape)
    scaled = change.astype(np.float64)
    scaled *= weight
    if step.size and float(step.min()) > 0.0:
        scaled /= step
    else:
        still = step == 0.0
        if bool((scaled[still] != 0.0).any()):
            raise TrainingError(
                "expected no change where the round's grid has step 0, got one",
                "the site's note and its update do not belong together",
            )
        np.divide(scaled, step, out=scaled, where=~still)
    # One pass finds NaN and infinity: both survive the sum, and |fields| < 2^32 cannot overflow it.
    if not math.isfinite(float(np.abs(scaled).sum())):
        raise TrainingError(
            "expected finite changes, got NaN or infinity", "training diverged: lower the learning rate, clip gradients"
        )
    below = np.floor(scaled)
    scaled -= below
    fields = below.astype(np.int64)
    fields += rng.random(fields.shape) < scaled
    return fields


def dequantise(fields: NDArray[np.int64], step_per_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of the sites' changes: float64(fields) * step, elementwise.

    Args:
        fields: (n,) int64, summed over the sites.
        step_per_value: (n,) float64.
    """
    return fields.astype(np.float64) * step_per_value
