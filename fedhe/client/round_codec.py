"""From a site's change of the model to encrypted chunks on the round's grid, and from the sum back to a model.

All sites compute the same weights and steps from the same notes, in float64 and in the order of the sorted roster,
so the sum of what they encrypt is fixed-point FedAvg, exactly, and all of them end with the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhe.client.note import Note
from fedhe.he.params import CkksParams
from fedhe.he.plan import UpdatePlan, decode_chunk, encode_chunk
from fedhe.he.quantise import dequantise, quantise, steps
from fedhe.model.flatten import apply_update
from fedhe.model.layout import Layout

_ROUNDING_LABEL = b"fedhe/v1/rounding\0"


@dataclass(frozen=True)
class Grid:
    """What a round's sites agree on.

    Attributes:
        weights: each site's share n_i / sum(n) of the average, by name.
        steps: (n_tensors,) float64, the value of one unit of a field in each tensor.
        step_of_value: (n_values,) float64, the same for each value of the flat vector.
    """

    weights: dict[str, float]
    steps: NDArray[np.float64]
    step_of_value: NDArray[np.float64]


def agree_on_grid(notes: Mapping[str, Note], layout: Layout, params: CkksParams) -> Grid:
    """Computes weights and steps from the opened notes, sorted by site name.

    Raises:
        CapacityError: more sites than the HE parameters can sum.
    """
    total = sum(note.samples for note in notes.values())
    weights = {site: note.samples / total for site, note in notes.items()}
    per_tensor = steps([note.max_change for note in notes.values()], layout, params, len(notes))
    sizes = [part.stop - part.start for part in layout.slices()]
    return Grid(weights, per_tensor, np.repeat(per_tensor, sizes))


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
        rng = rounding_generator(self.seed, self.site, self.round, chunk)

        def fields_of(part: slice) -> NDArray[np.int64]:
            fields = quantise(self.change[part], self.weight, self.grid.step_of_value[part], rng)
            if keep is not None:
                keep[part] = fields
            return fields

        return encode_chunk(self.plan, chunk, fields_of)


def rounding_generator(seed: int, site: str, round_: int, chunk: int) -> np.random.Generator:
    """The generator for stochastic rounding of one chunk; a site that starts over rounds the same way again."""
    text = _ROUNDING_LABEL + f"{seed}\0{site}\0{round_}\0{chunk}".encode()
    digest = hashlib.sha256(text).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))


def keep_fields(plan: UpdatePlan, chunk: int, coefficients: NDArray[np.int64], into: NDArray[np.int64]) -> None:
    """Unpacks a decrypted chunk of the sum into its places of `into`, (n_values,) int64."""
    for part, fields in decode_chunk(plan, chunk, coefficients):
        into[part] = fields


def next_model(before: NDArray[np.float32], sum_fields: NDArray[np.int64], grid: Grid) -> NDArray[np.float32]:
    """The global model after the round; (n_values,) float32, the same bytes at every site."""
    return apply_update(before, dequantise(sum_fields, grid.step_of_value))
