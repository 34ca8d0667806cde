"""From a site's change of the model to encrypted chunks on the round's grid, and from the sum back to a model.

All sites compute the same weights and steps from the same notes, in float64 and in the order of the sorted roster,
so the sum of what they encrypt is fixed-point FedAvg, exactly, and all of them end with the same bytes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhe.client.note import Note
from fedhe.he.params import CkksParams
from fedhe.he.plan import UpdatePlan, decode_chunk, encode_chunk
from fedhe.he.quantise import add_fields, quantise, steps
from fedhe.he.streams import public_words
from fedhe.model.layout import Layout

_ROUNDING_LABEL = b"fedhe/v1/rounding\0"


@dataclass(frozen=True)
class Grid:
    """What a round's sites agree on.

    Attributes:
        weights: each site's share n_i / sum(n) of the average, by name.
        steps: (n_tensors,) float64, the value of one unit of a field in each tensor.
        ends: (n_tensors,) int64, where each tensor ends in the flat vector.
    """

    weights: dict[str, float]
    steps: NDArray[np.float64]
    ends: NDArray[np.int64]

    def parts(self, within: slice) -> Iterator[tuple[slice, float]]:
        """The pieces of a slice of the flat vector that lie in one tensor each, in order, with their step."""
        tensor, begin = int(np.searchsorted(self.ends, within.start, side="right")), within.start
        while begin < within.stop:
            end = min(within.stop, int(self.ends[tensor]))
            if begin < end:
                yield slice(begin, end), float(self.steps[tensor])
            begin, tensor = end, tensor + 1


def agree_on_grid(notes: Mapping[str, Note], layout: Layout, params: CkksParams) -> Grid:
    """Computes weights and steps from the opened notes, sorted by site name.

    Raises:
        CapacityError: more sites than the HE parameters can sum.
    """
    total = sum(note.samples for note in notes.values())
    weights = {site: note.samples / total for site, note in notes.items()}
    per_tensor = steps([note.max_change for note in notes.values()], layout, params, len(notes))
    return Grid(weights, per_tensor, np.array([part.stop for part in layout.slices()], dtype=np.int64))


@dataclass(frozen=True)
class UpdateEncoder:
    """Turns one site's update into coefficients, chunk by chunk; the same every time it is asked.

    Attributes:
        change: (n_values,) float32, weights after training less weights before.
        weight: this site's share of the average.
        seed: the job's seed; with site, round and chunk it decides how values are rounded.
    """

    plan: UpdatePlan
    grid: Grid
    change: NDArray[np.float32]
    weight: float
    seed: int
    site: str
    round: int

    def coefficients(self, chunk: int, keep: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The chunk's (ciphertexts, 4096) int64 coefficients.

        Args:
            chunk: index of the chunk.
            keep: (n_values,) int64 that receives the chunk's fields, for the site's own record.

        Raises:
            TrainingError: the update has a value that is not finite.
        """
        n_values = sum(part.stop - part.start for part in self.plan.value_slices(chunk))
        words = rounding_words(self.seed, self.site, self.round, chunk, n_values)
        used = 0

        def fields_of(within: slice) -> NDArray[np.int64]:
            nonlocal used
            fields = np.empty(within.stop - within.start, dtype=np.int64)
            for part, step in self.grid.parts(within):
                size = part.stop - part.start
                place = part.start - within.start
                into, drawn = fields[place : place + size], words[used : used + size]
                quantise(self.change[part], self.weight, step, drawn, into)
                used += size
            if keep is not None:
                keep[within] = fields
            return fields

        return encode_chunk(self.plan, chunk, fields_of)


def rounding_words(seed: int, site: str, round_: int, chunk: int, count: int) -> NDArray[np.uint32]:
    """(count,) uint32 for stochastic rounding of one chunk; a site that starts over rounds the same way again."""
    text = _ROUNDING_LABEL + f"{seed}\0{site}\0{round_}\0{chunk}".encode()
    return public_words(hashlib.sha256(text).digest(), count)


def apply_chunk(
    plan: UpdatePlan, chunk: int, coefficients: NDArray[np.int64], grid: Grid, model: NDArray[np.float32]
) -> list[tuple[slice, NDArray[np.int64]]]:
    """Takes a decrypted chunk of the sum into the model, in place; the same bytes at every site.

    Args:
        plan: the layout's plan.
        chunk: index of the chunk.
        coefficients: (ciphertexts, 4096) int64.
        grid: what the round's sites agreed on.
        model: (n_values,) float32: the global model before the round in the chunk's places, and after it when this
            returns. Each chunk must be applied once.

    Returns:
        The chunk's summed fields, with their places.

    Raises:
        TrustError: a sum that no honest sites give.
        TrainingError: a weight leaves float32's range.
    """
    decoded = decode_chunk(plan, chunk, coefficients)
    for within, fields in decoded:
        for part, step in grid.parts(within):
            add_fields(model[part], fields[part.start - within.start : part.stop - within.start], step)
    return decoded
