"""The layout of a model: names, shapes and field widths of its shared tensors, in order, and a digest of that.

Laid end to end in the layout's order, row-major, a model's tensors form the *flat vector* that all else works on.
"""

import hashlib
import itertools
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedhe.errors import RemoteProtocolError, TrainingError

MAX_TENSORS = 65_536
"""Tensors of one layout."""
MAX_VALUES = 1 << 31
"""Values of one layout: 8 GiB of float32."""
MAX_DIMENSIONS = 16
"""Dimensions of one tensor."""
MAX_NAME_BYTES = 1_024
"""Bytes of a tensor's name in UTF-8."""
MAX_LAYOUT_JSON_BYTES = 64 * 1024 * 1024
"""Bytes of a layout as JSON that are parsed."""
MIN_FIELD_BITS = 8
MAX_FIELD_BITS = 32
"""Width of a field in bits: below 8 rounding drowns the update, above 32 nothing is gained over float32."""
DTYPES = ("float16", "bfloat16", "float32", "float64")
"""What a tensor may be in the model; the flat vector holds float32 always."""

_DIGEST_LABEL = b"fedhe/v1/layout\0"
_KEYS = frozenset({"name", "shape", "dtype", "statistic", "field_bits"})


@dataclass(frozen=True)
class TensorSpec:
    """One shared tensor.

    Attributes:
        name: its key in the model's state, unique in the layout.
        shape: sizes of its dimensions; () for a scalar, a 0 makes it empty.
        dtype: one of `DTYPES`.
        statistic: a running statistic (of batch norm), not a trained weight.
        field_bits: width in bits of the fields that carry its values.

    Raises:
        TrainingError: a name, shape, dtype or width outside of the limits above.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    statistic: bool
    field_bits: int

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.shape) > MAX_DIMENSIONS or any(not _is_int(s) or not 0 <= s <= MAX_VALUES for s in self.shape):
            raise TrainingError(
                f"tensor '{self.name}': expected a shape of at most {MAX_DIMENSIONS} sizes from 0 to {MAX_VALUES}, "
                f"got {_shown(self.shape)}"
            )
        if self.dtype not in DTYPES:
            raise TrainingError(
                f"tensor '{self.name}': expected dtype {' or '.join(DTYPES)}, got {_shown(self.dtype)}",
                "integer and complex tensors stay local; leave them out of the layout",
            )
        if not isinstance(self.statistic, bool):
            raise TrainingError(f"tensor '{self.name}': expected statistic true or false, got {_shown(self.statistic)}")
        if not _is_int(self.field_bits) or not MIN_FIELD_BITS <= self.field_bits <= MAX_FIELD_BITS:
            raise TrainingError(
                f"tensor '{self.name}': expected field_bits {MIN_FIELD_BITS} to {MAX_FIELD_BITS}, "
                f"got {_shown(self.field_bits)}"
            )

    @property
    def size(self) -> int:
        """Number of values; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All shared tensors of a model, in the order of the flat vector.

    Raises:
        TrainingError: a name twice, or more than `MAX_TENSORS` tensors or `MAX_VALUES` values.
    """

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) > MAX_TENSORS:
            raise TrainingError(f"layout: expected at most {MAX_TENSORS} tensors, got {len(self.tensors)}")
        seen: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in seen:
                raise TrainingError(f"layout: expected each name once, got tensor '{tensor.name}' twice")
            seen.add(tensor.name)
        if self.n_values > MAX_VALUES:
            raise TrainingError(f"layout: expected at most {MAX_VALUES} values, got {self.n_values}")

    @cached_property
    def n_values(self) -> int:
        """Length of the flat vector."""
        return sum(tensor.size for tensor in self.tensors)

    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the flat vector, in the order of `tensors`."""
        ends = list(itertools.accumulate((tensor.size for tensor in self.tensors), initial=0))
        return tuple(itertools.starmap(slice, itertools.pairwise(ends)))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over a label and the canonical JSON; 32 bytes."""
        return hashlib.sha256(_DIGEST_LABEL + self.to_json().encode()).digest()

    def to_json(self) -> str:
        """Canonical JSON: the same layout gives the same text everywhere."""
        tensors = [
            {
                "dtype": tensor.dtype,
                "field_bits": tensor.field_bits,
                "name": tensor.name,
                "shape": list(tensor.shape),
                "statistic": tensor.statistic,
            }
            for tensor in self.tensors
        ]
        return json.dumps({"tensors": tensors, "version": 1}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Layout":
        """Reads what `to_json` wrote.

        Raises:
            RemoteProtocolError: too long, no JSON, another version, or not a valid layout.
        """
        if len(text) > MAX_LAYOUT_JSON_BYTES:
            raise RemoteProtocolError(f"layout: expected at most {MAX_LAYOUT_JSON_BYTES} bytes, got {len(text)}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise RemoteProtocolError(f"layout: expected JSON, got {text[:40]!r}") from error
        if not isinstance(document, dict) or document.get("version") != 1 or set(document) != {"tensors", "version"}:
            raise RemoteProtocolError(f"layout: expected version 1 with tensors, got {text[:40]!r}")
        tensors = document["tensors"]
        if not isinstance(tensors, list) or len(tensors) > MAX_TENSORS:
            raise RemoteProtocolError(f"layout: expected a list of at most {MAX_TENSORS} tensors")
        try:
            return cls(tuple(_read_tensor(tensor) for tensor in tensors))
        except TrainingError as error:
            raise RemoteProtocolError(error.message, error.hint) from error

    def difference(self, other: "Layout") -> str:
        """Names the first tensor in which two layouts differ, for people; empty where they are equal.

        Says "here" for this layout and "there" for the other.
        """
        here, there = _by_name(self), _by_name(other)
        for mine in self.tensors:
            theirs = there.get(mine.name)
            if theirs is None:
                return f"tensor '{mine.name}' is here but not there"
            for what in ("shape", "dtype", "statistic", "field_bits"):
                if getattr(mine, what) != getattr(theirs, what):
                    return (
                        f"tensor '{mine.name}': {what} is {getattr(mine, what)} here and {getattr(theirs, what)} there"
                    )
        for theirs in other.tensors:
            if theirs.name not in here:
                return f"tensor '{theirs.name}' is there but not here"
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            if mine.name != theirs.name:
                return f"tensor '{mine.name}' is here where '{theirs.name}' is there: the order differs"
        return ""


def _by_name(layout: Layout) -> Mapping[str, TensorSpec]:
    return {tensor.name: tensor for tensor in layout.tensors}


_shown = reprlib.repr
"""A few elements of whatever came; it may be as long as a whole layout."""


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TrainingError(f"layout: expected a tensor's name as text, got {_shown(name)}")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise TrainingError(f"layout: expected a tensor's name in Unicode, got {_shown(name)}") from error
    if not 1 <= length <= MAX_NAME_BYTES:
        raise TrainingError(f"layout: expected a tensor's name of 1 to {MAX_NAME_BYTES} bytes, got {length}")


def _read_tensor(tensor: Any) -> TensorSpec:
    if not isinstance(tensor, dict) or set(tensor) != _KEYS:
        raise RemoteProtocolError(f"layout: expected a tensor with {', '.join(sorted(_KEYS))}, got {str(tensor)[:80]}")
    if not isinstance(tensor["shape"], list):
        raise RemoteProtocolError(f"layout: expected a shape as list, got {str(tensor['shape'])[:80]}")
    return TensorSpec(
        name=tensor["name"],
        shape=tuple(tensor["shape"]),
        dtype=tensor["dtype"],
        statistic=tensor["statistic"],
        field_bits=tensor["field_bits"],
    )
