"""A model's tensors to one flat float32 vector and back, and how far a vector moved."""

import math
from collections.abc import Callable, Container, Mapping

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import TrainingError
from fedhe.model.layout import Layout


def flatten(tensors: Mapping[str, NDArray[np.floating]], layout: Layout) -> NDArray[np.float32]:
    """Lays the layout's tensors end to end, row-major; tensors that the layout does not name stay out.

    Args:
        tensors: arrays by name; each of its spec's shape, of any real dtype.
        layout: which tensors, in which order.

    Returns:
        (layout.n_values,) float32.

    Raises:
        TrainingError: a tensor is missing, has another shape, or has a value that is NaN, infinite or too large
            for float32.
    """
    return gather(tensors.keys(), tensors.__getitem__, layout)


def gather(names: Container[str], read: Callable[[str], NDArray[np.floating]], layout: Layout) -> NDArray[np.float32]:
    """`flatten` for tensors that are read one after the other, such as a file's.

    Args:
        names: of the tensors that there are.
        read: gives a tensor by its name.
        layout: which tensors, in which order.
    """
    vector = np.empty(layout.n_values, dtype=np.float32)
    for tensor, part in zip(layout.tensors, layout.slices(), strict=True):
        if tensor.name not in names:
            raise TrainingError(
                f"expected tensor '{tensor.name}' of shape {tensor.shape} in the model, got none of that name",
                "the model's tensors must be the same at every site and in every round",
            )
        values = np.asarray(read(tensor.name))
        if values.shape != tensor.shape:
            raise TrainingError(
                f"tensor '{tensor.name}': expected shape {tensor.shape}, got {values.shape}",
                "the model's tensors must be the same at every site and in every round",
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            vector[part] = values.reshape(-1)
    check_finite(vector, layout, "model")
    return vector


def unflatten(vector: NDArray[np.floating], layout: Layout) -> dict[str, NDArray[np.float32]]:
    """Cuts a flat vector back into the layout's tensors.

    Args:
        vector: (layout.n_values,) of any float dtype.
        layout: which tensors, in which order.

    Returns:
        New float32 arrays by name, in the layout's order.

    Raises:
        TrainingError: the vector has another length.
    """
    _check_length(vector, layout)
    return {
        tensor.name: vector[part].astype(np.float32).reshape(tensor.shape)
        for tensor, part in zip(layout.tensors, layout.slices(), strict=True)
    }


def max_changes(change: NDArray[np.floating], layout: Layout) -> dict[str, float]:
    """The largest absolute change of each tensor; 0.0 for an empty one.

    Args:
        change: (layout.n_values,) float, the model after training less the model before.
        layout: which tensors, in which order.

    Raises:
        TrainingError: the vector has another length, or a value that is NaN or infinite.
    """
    _check_length(change, layout)
    largest = {
        tensor.name: float(max(change[part].max(initial=0.0), -change[part].min(initial=0.0)))
        for tensor, part in zip(layout.tensors, layout.slices(), strict=True)
    }
    if not all(map(math.isfinite, largest.values())):  # NaN, too, is its own maximum
        check_finite(change, layout, "update")
    return largest


def check_finite(vector: NDArray[np.floating], layout: Layout, what: str) -> None:
    """Refuses NaN and infinity, and names the tensor.

    Args:
        vector: (layout.n_values,) float.
        layout: which tensors, in which order.
        what: "model" or "update", for the message.

    Raises:
        TrainingError: a value is NaN or infinite.
    """
    if np.isfinite(vector).all():
        return
    for tensor, part in zip(layout.tensors, layout.slices(), strict=True):
        wrong = ~np.isfinite(vector[part])
        if wrong.any():
            raise TrainingError(
                f"tensor '{tensor.name}' of the {what}: expected finite values, "
                f"got NaN or infinity at {int(wrong.sum())} of {wrong.size} places",
                "training diverged: lower the learning rate, clip gradients, or check the data",
            )


def _check_length(vector: NDArray[np.floating], layout: Layout) -> None:
    if vector.shape != (layout.n_values,):
        raise TrainingError(f"expected a flat vector of shape ({layout.n_values},), got {vector.shape}")
