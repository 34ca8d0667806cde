"""Tensors to the flat vector and back, and the largest changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedhe.errors import TrainingError
from fedhe.model.flatten import flatten, max_changes, unflatten
from fedhe.model.layout import Layout, TensorSpec

arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32),
)


def layout_of(tensors):
    return Layout(tuple(TensorSpec(name, array.shape, "float32", False, 16) for name, array in tensors.items()))


@given(st.dictionaries(st.text("abcdef.", min_size=1, max_size=5), arrays, max_size=5))
def test_unflatten_brings_back_what_flatten_laid_out(tensors):
    layout = layout_of(tensors)
    vector = flatten(tensors, layout)
    assert vector.dtype == np.float32
    assert vector.shape == (layout.n_values,)
    again = unflatten(vector, layout)
    assert list(again) == list(tensors)
    for name, array in tensors.items():
        assert again[name].shape == array.shape
        assert np.array_equal(again[name], array)


@given(st.dictionaries(st.text("abcdef.", min_size=1, max_size=5), arrays, max_size=5))
def test_the_largest_change_is_of_each_tensor(tensors):
    found = max_changes(flatten(tensors, layout_of(tensors)), layout_of(tensors))
    assert found == {name: float(np.abs(array).max(initial=0)) for name, array in tensors.items()}


def test_arrays_that_are_not_contiguous_are_laid_out_row_major():
    array = np.arange(12, dtype=np.float64).reshape(3, 4).T
    assert flatten({"w": array}, layout_of({"w": array})).tolist() == array.reshape(-1).tolist()


def test_tensors_outside_of_the_layout_stay_out():
    layout = layout_of({"w": np.ones(2)})
    assert flatten({"w": np.ones(2), "local": np.full(3, np.nan)}, layout).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "expected tensor 'b' of shape"),
        ({"b": np.ones((3, 2))}, r"tensor 'b': expected shape \(2, 3\), got \(3, 2\)"),
        ({"b": np.array([[1, 2, np.nan], [np.inf, 5, 6]])}, "tensor 'b' of the model: .* at 2 of 6 places"),
        ({"b": np.full((2, 3), 1e300)}, "tensor 'b' of the model: .* at 6 of 6 places"),
    ],
)
def test_a_wrong_tensor_is_named(tensors, told):
    layout = layout_of({"a": np.ones(1), "b": np.ones((2, 3))})
    with pytest.raises(TrainingError, match=told):
        flatten({"a": np.ones(1)} | tensors, layout)


def test_nan_in_an_update_names_its_tensor():
    layout = layout_of({"a": np.ones(1), "bn.running_var": np.ones(2)})
    with pytest.raises(TrainingError, match=r"tensor 'bn\.running_var' of the update"):
        max_changes(np.array([0, 1, np.nan], dtype=np.float32), layout)


def test_a_vector_of_another_length_is_refused():
    layout = layout_of({"a": np.ones(3)})
    for call in (unflatten, max_changes):
        with pytest.raises(TrainingError, match=r"\(3,\), got \(2,\)"):
            call(np.ones(2, dtype=np.float32), layout)
