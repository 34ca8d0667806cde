"""How a layout's flat vector is cut into chunks of ciphertexts.

Values whose fields have the same width form a *section*, narrow ones first; within a section they keep the layout's
order. A section starts on a new coefficient, sections follow each other, and zeros fill the last ciphertext.
"""

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, TrustError
from fedhe.he.pack import pack, unpack
from fedhe.he.params import CkksParams
from fedhe.model.layout import Layout


@dataclass(frozen=True)
class Section:
    """Values whose fields share one width.

    Attributes:
        bits: width of a field.
        k: fields in one coefficient.
        first: the section's first coefficient, counted over the whole update.
        runs: where the values lie in the flat vector, in order; neighbours are merged.
        starts: for each run, how many of the section's values lie before it; then their total.
    """

    bits: int
    k: int
    first: int
    runs: tuple[slice, ...]
    starts: tuple[int, ...]

    @property
    def n_values(self) -> int:
        """Values in the section."""
        return self.starts[-1]

    @property
    def end(self) -> int:
        """The coefficient behind the section's last one."""
        return self.first + -(-self.n_values // self.k)

    def cut(self, begin: int, end: int) -> list[slice]:
        """Where the section's values begin:end lie in the flat vector."""
        parts = []
        number = bisect.bisect_right(self.starts, begin) - 1
        while begin < end:
            run = self.runs[number]
            offset = begin - self.starts[number]
            stop = min(run.stop, run.start + offset + end - begin)
            parts.append(slice(run.start + offset, stop))
            begin += stop - run.start - offset
            number += 1
        return parts


@dataclass(frozen=True)
class Piece:
    """The part of a section that lies in one chunk.

    Attributes:
        section: whose values these are.
        begin: the first coefficient within the chunk.
        end: the coefficient behind the last, within the chunk.
        slices: where the values lie in the flat vector.
        n_values: their number.
    """

    section: Section
    begin: int
    end: int
    slices: tuple[slice, ...]
    n_values: int


@dataclass(frozen=True)
class UpdatePlan:
    """Sections, ciphertexts and chunks of one layout. Make it with `plan_update`.

    Attributes:
        sections: in the order of their coefficients.
        degree: coefficients of a ciphertext.
        ciphertexts_per_chunk: in all chunks but the last, which may have fewer.
    """

    sections: tuple[Section, ...]
    degree: int
    ciphertexts_per_chunk: int

    @property
    def n_values(self) -> int:
        """Values in the update."""
        return sum(section.n_values for section in self.sections)

    @property
    def coefficients(self) -> int:
        """Coefficients that carry values."""
        return self.sections[-1].end

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of the update."""
        return -(-self.coefficients // self.degree)

    @property
    def chunks(self) -> int:
        """Chunks of the update; at least 1."""
        return -(-self.ciphertexts // self.ciphertexts_per_chunk)

    def ciphertexts_in(self, chunk: int) -> int:
        """Ciphertexts of one chunk.

        Raises:
            CapacityError: there is no such chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise CapacityError(f"expected a chunk from 0 to {self.chunks - 1}, got {chunk}")
        return min(self.ciphertexts_per_chunk, self.ciphertexts - chunk * self.ciphertexts_per_chunk)

    def pieces(self, chunk: int) -> list[Piece]:
        """The sections' parts that one chunk carries, in the order of coefficients.

        Raises:
            CapacityError: there is no such chunk.
        """
        low = chunk * self.ciphertexts_per_chunk * self.degree
        high = low + self.ciphertexts_in(chunk) * self.degree
        found = []
        for section in self.sections:
            begin, end = max(low, section.first), min(high, section.end)
            if begin >= end:
                continue
            first = (begin - section.first) * section.k
            last = min((end - section.first) * section.k, section.n_values)
            found.append(Piece(section, begin - low, end - low, tuple(section.cut(first, last)), last - first))
        return found

    def value_slices(self, chunk: int) -> list[slice]:
        """Where a chunk's values lie in the flat vector, in the order in which they are packed.

        Raises:
            CapacityError: there is no such chunk.
        """
        return [part for piece in self.pieces(chunk) for part in piece.slices]


def plan_update(layout: Layout, params: CkksParams) -> UpdatePlan:
    """Plans how a layout's values travel.

    Raises:
        CapacityError: the layout has no values, or fields that do not fit into a coefficient.
    """
    if layout.n_values == 0:
        raise CapacityError(
            "expected a model with at least one shared value, got none", "check the job's `exclude` patterns"
        )
    runs: dict[int, list[slice]] = {}
    for tensor, part in zip(layout.tensors, layout.slices(), strict=True):
        if tensor.size == 0:
            continue
        of_width = runs.setdefault(tensor.field_bits, [])
        if of_width and of_width[-1].stop == part.start:
            of_width[-1] = slice(of_width[-1].start, part.stop)
        else:
            of_width.append(part)
    sections: list[Section] = []
    for bits, parts in sorted(runs.items()):
        starts = itertools.accumulate((part.stop - part.start for part in parts), initial=0)
        first = sections[-1].end if sections else 0
        sections.append(Section(bits, params.fields_per_coefficient(bits), first, tuple(parts), tuple(starts)))
    return UpdatePlan(tuple(sections), params.poly_modulus_degree, params.CIPHERTEXTS_PER_CHUNK)


def encode_chunk(plan: UpdatePlan, chunk: int, fields_of: Callable[[slice], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Packs one chunk's fields.

    Args:
        plan: the layout's plan.
        chunk: index of the chunk.
        fields_of: gives the fields of a slice of the flat vector; called once for each of `value_slices`, in order.

    Returns:
        (ciphertexts_in(chunk), degree) int64 coefficients.

    Raises:
        CapacityError: no such chunk, a field that does not fit, or a wrong number of fields.
    """
    coefficients = np.empty(plan.ciphertexts_in(chunk) * plan.degree, dtype=np.int64)
    end = 0
    for piece in plan.pieces(chunk):
        end = piece.end
        parts = [fields_of(part) for part in piece.slices]
        fields = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if fields.shape != (piece.n_values,):
            raise CapacityError(f"chunk {chunk}: expected {piece.n_values} fields, got shape {fields.shape}")
        pack(fields, piece.section.bits, piece.section.k, coefficients[piece.begin : end])
    coefficients[end:] = 0
    return coefficients.reshape(-1, plan.degree)


def decode_chunk(
    plan: UpdatePlan, chunk: int, coefficients: NDArray[np.int64]
) -> list[tuple[slice, NDArray[np.int64]]]:
    """Unpacks one chunk of the decrypted sum.

    Args:
        plan: the layout's plan.
        chunk: index of the chunk.
        coefficients: (ciphertexts_in(chunk), degree) int64.

    Returns:
        For each of `value_slices`, in order: the slice of the flat vector, and its summed fields (m,) int64.

    Raises:
        CapacityError: no such chunk, or another shape.
        TrustError: a sum beyond its fields, or padding that is not zero: altered, or a site left the agreed grid.
    """
    expected = (plan.ciphertexts_in(chunk), plan.degree)
    if coefficients.shape != expected:
        raise CapacityError(f"chunk {chunk}: expected coefficients of shape {expected}, got {coefficients.shape}")
    flat = coefficients.reshape(-1)
    decoded = []
    end = 0
    for piece in plan.pieces(chunk):
        section, end = piece.section, piece.end
        fields = unpack(flat[piece.begin : end], section.bits, section.k, piece.n_values)
        at = 0
        for part in piece.slices:
            length = part.stop - part.start
            decoded.append((part, fields[at : at + length]))
            at += length
    if flat[end:].any():
        raise TrustError(f"chunk {chunk}: expected zeros behind the last value of the sum", "the sum was altered")
    return decoded
