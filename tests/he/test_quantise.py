"""The grid holds every sum, rounding is unbiased and never moves a whole number, NaN is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import CapacityError, RemoteProtocolError, TrainingError
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.quantise import add_fields, quantise, steps


def words(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


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
    step = float(np.float32(largest)) / DEFAULT_PARAMS.grid_max(bits, sites)
    total = np.zeros(40, dtype=np.int64)
    for count in samples:
        change = np.full(40, np.float32(largest))
        change[20:] *= -1
        total += quantise(change, int(count) / int(samples.sum()), step, words(40, rng))
    assert np.abs(total).max() <= DEFAULT_PARAMS.field_max(bits, sites)


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_whole_numbers_never_move(values, seed):
    fields = quantise(np.array(values, dtype=np.float64), 1.0, 1.0, words(len(values), seed))
    assert fields.dtype == np.int64
    assert fields.tolist() == values


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_a_value_goes_to_one_of_its_neighbours(values, seed):
    fields = quantise(np.array(values), 1.0, 1.0, words(len(values), seed))
    assert (fields >= np.floor(values)).all()
    assert (fields <= np.ceil(values)).all()


def test_rounding_is_unbiased():
    values = np.full(200_000, -2.3)
    fields = quantise(values, 1.0, 1.0, words(len(values), 1))
    assert set(fields.tolist()) == {-3, -2}
    assert abs(fields.mean() + 2.3) < 5 * 0.46 / np.sqrt(len(values))


def test_every_word_rounds_as_documented():
    """Up where word / 2^32 < x - floor(x); the words at the border decide exactly."""
    scaled = np.float64(np.float32(0.7)) * 0.3 / 7e-4
    border = int((scaled - np.floor(scaled)) * 2**32)
    assert border < (scaled - np.floor(scaled)) * 2**32
    change = np.full(4, 0.7, dtype=np.float32)
    found = quantise(change, 0.3, 7e-4, np.array([0, border, border + 1, 2**32 - 1], dtype=np.uint32))
    assert found.tolist() == [np.floor(scaled) + up for up in (1, 1, 0, 0)]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]), st.floats(0, 1), st.floats(1e-6, 1e3))
def test_the_compiled_form_is_the_plain_one(seed, dtype, weight, step):
    change = np.random.default_rng(seed).normal(size=300).astype(dtype)
    drawn = words(300, seed)
    scaled = change.astype(np.float64) * weight / step
    below = np.floor(scaled)
    plain = below.astype(np.int64) + (drawn / 2**32 < scaled - below)
    assert np.array_equal(quantise(change, weight, step, drawn), plain)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.1, 1e-300, 1e30]))
def test_the_next_model_is_one_multiplication_and_one_sum_in_float64(seed, step):
    rng = np.random.default_rng(seed)
    before, fields = rng.normal(size=300).astype(np.float32), rng.integers(-(2**40), 2**40, 300) >> rng.integers(0, 40)
    after = before.copy()
    with np.errstate(over="ignore"):
        plain = (before.astype(np.float64) + fields.astype(np.float64) * step).astype(np.float32)
    if np.isfinite(plain).all():
        add_fields(after, fields, step)
        assert after.tobytes() == plain.tobytes()


def test_the_next_model_is_rounded_to_float32_once():
    before = np.array([1.0, 2.0**24, -3.5], dtype=np.float32)
    after = before.copy()
    add_fields(after, np.array([1, 2**24, 0]), 2.0**-24)
    assert after.tolist() == [1.0, 2.0**24, -3.5]
    after = before.copy()
    add_fields(after, np.array([3, 3 * 2**24, 0]), 2.0**-25)
    assert after.tolist() == [float(np.float32(1 + 1.5 * 2.0**-24)), 2.0**24 + 2, -3.5]


def test_a_model_that_leaves_float32_or_has_another_shape_is_refused():
    with pytest.raises(TrainingError, match="at 1 places"):
        add_fields(np.array([3e38, 0], dtype=np.float32), np.array([1, 1]), 3e38)
    with pytest.raises(TrainingError, match=r"\(3,\), got \(2,\)"):
        add_fields(np.ones(3, dtype=np.float32), np.ones(2, dtype=np.int64), 1.0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(wrong):
    with pytest.raises(TrainingError, match="NaN or infinity"):
        quantise(np.array([1.0, wrong]), 0.5, 1.0, words(2))
    with pytest.raises(TrainingError):
        quantise(np.array([1.0, wrong]), 0.5, 0.0, words(2))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(TrainingError, match="weight from 0 to 1"):
        quantise(np.ones(2), weight, 1.0, words(2))


def test_where_no_site_changed_anything_the_step_is_zero_and_so_is_the_field():
    assert quantise(np.zeros(2), 1.0, 0.0, words(2)).tolist() == [0, 0]
    with pytest.raises(TrainingError, match="grid has step 0"):
        quantise(np.array([0.0, 2.0]), 1.0, 0.0, words(2))


def test_an_empty_tensor_has_no_fields():
    assert quantise(np.zeros(0, dtype=np.float32), 0.5, 0.0, words(0)).shape == (0,)


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
