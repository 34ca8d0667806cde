"""The grid holds every sum, rounding is unbiased and never moves a whole number, NaN is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import CapacityError, RemoteProtocolError, TrainingError
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.quantise import dequantise, quantise, steps


def one(values):
    return np.ones(len(values))


@settings(max_examples=60)
@given(
    st.integers(2, 97),
    st.sampled_from([8, 12, 16, 24, 32]),
    st.floats(1.4e-45, 3e38),
    st.integers(0, 2**32 - 1),
)
def test_sums_never_leave_the_field(sites, bits, largest, seed):
    """All sites at the largest change with one sign is the worst that can happen."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(1, 1000, sites)
    step = np.full(40, float(np.float32(largest)) / DEFAULT_PARAMS.grid_max(bits, sites))
    total = np.zeros(40, dtype=np.int64)
    for count in samples:
        change = np.full(40, np.float32(largest))
        change[20:] *= -1
        total += quantise(change, int(count) / int(samples.sum()), step, rng)
    assert np.abs(total).max() <= DEFAULT_PARAMS.field_max(bits, sites)


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_whole_numbers_never_move(values, seed):
    fields = quantise(np.array(values, dtype=np.float64), 1.0, one(values), np.random.default_rng(seed))
    assert fields.dtype == np.int64
    assert fields.tolist() == values


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_a_value_goes_to_one_of_its_neighbours(values, seed):
    fields = quantise(np.array(values), 1.0, one(values), np.random.default_rng(seed))
    assert (fields >= np.floor(values)).all()
    assert (fields <= np.ceil(values)).all()


def test_rounding_is_unbiased():
    values = np.full(200_000, -2.3)
    fields = quantise(values, 1.0, one(values), np.random.default_rng(1))
    assert set(fields.tolist()) == {-3, -2}
    assert abs(fields.mean() + 2.3) < 5 * 0.46 / np.sqrt(len(values))


def test_the_same_generator_gives_the_same_fields():
    change = np.random.default_rng(0).normal(size=100).astype(np.float32)
    twice = [quantise(change, 0.3, np.full(100, 1e-3), np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(*twice)


def test_dequantise_is_one_multiplication():
    fields, step = np.array([3, -7, 2**31]), np.array([0.1, 1e-12, 3.3])
    assert dequantise(fields, step).tolist() == [3 * 0.1, -7 * 1e-12, 2**31 * 3.3]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(wrong):
    with pytest.raises(TrainingError, match="NaN or infinity"):
        quantise(np.array([1.0, wrong]), 0.5, np.ones(2), np.random.default_rng(0))
    with pytest.raises(TrainingError):
        quantise(np.array([1.0, wrong]), 0.5, np.zeros(2), np.random.default_rng(0))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(TrainingError, match="weight from 0 to 1"):
        quantise(np.ones(2), weight, np.ones(2), np.random.default_rng(0))


def test_where_no_site_changed_anything_the_step_is_zero_and_so_is_the_field():
    rng = np.random.default_rng(0)
    assert quantise(np.array([0.0, 2.0]), 1.0, np.array([0.0, 1.0]), rng).tolist() == [0, 2]
    with pytest.raises(TrainingError, match="grid has step 0"):
        quantise(np.array([1.0, 2.0]), 1.0, np.array([0.0, 1.0]), rng)


def test_an_empty_tensor_has_no_fields():
    assert quantise(np.zeros(0, dtype=np.float32), 0.5, np.zeros(0), np.random.default_rng(0)).shape == (0,)


def test_steps_follow_from_the_largest_change_of_any_site(make_layout, params):
    layout = make_layout(("w", (2,), 16), ("empty", (0,), 16), ("mean", (1,), 24))
    notes = [{"w": 1.0, "empty": 0.0, "mean": 5.0}, {"w": 3.0, "empty": 0.0, "mean": 2.0}]
    found = steps(notes, layout, params, 2)
    assert found.dtype == np.float64
    assert found.tolist() == [3.0 / params.grid_max(16, 2), 0.0, 5.0 / params.grid_max(24, 2)]


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ({}, "differ at 'w'"),
        ({"w": 1.0, "x": 1.0}, "differ at 'x'"),
        ({"w": -1.0}, "tensor 'w', got -1.0"),
        ({"w": float("nan")}, "tensor 'w', got nan"),
        ({"w": float("inf")}, "tensor 'w', got inf"),
    ],
)
def test_a_note_that_does_not_fit_the_layout_is_refused(note, told, make_layout, params):
    with pytest.raises(RemoteProtocolError, match=told):
        steps([{"w": 1.0}, note], make_layout(("w", (2,), 16)), params, 2)


def test_a_wrong_number_of_notes_or_sites_is_refused(make_layout, params):
    layout = make_layout(("w", (2,), 16))
    with pytest.raises(RemoteProtocolError, match="changes of 3 sites, got those of 2"):
        steps([{"w": 1.0}] * 2, layout, params, 3)
    with pytest.raises(CapacityError, match="got 98"):
        steps([{"w": 1.0}] * 98, layout, params, 98)
