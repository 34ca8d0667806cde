"""A layout knows its limits, its digest, its JSON and how it differs from another."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import RemoteProtocolError, TrainingError
from fedhe.model import layout as limits
from fedhe.model.layout import DTYPES, Layout, TensorSpec

specs = st.builds(
    TensorSpec,
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    shape=st.lists(st.integers(0, 7), max_size=4).map(tuple),
    dtype=st.sampled_from(DTYPES),
    statistic=st.booleans(),
    field_bits=st.integers(8, 32),
)
layouts = st.lists(specs, max_size=8, unique_by=lambda spec: spec.name).map(lambda found: Layout(tuple(found)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def spec(name="w", shape=(2, 3), dtype="float32", statistic=False, field_bits=16):
    return TensorSpec(name, shape, dtype, statistic, field_bits)


@given(layouts)
def test_json_brings_back_the_same_layout_and_digest(layout):
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.digest == layout.digest
    assert len(layout.digest) == 32
    assert layout.difference(again) == ""


@given(layouts)
def test_slices_cover_the_flat_vector_in_order(layout):
    end = 0
    for tensor, part in zip(layout.tensors, layout.slices(), strict=True):
        assert part.start == end
        end = part.stop
        assert end - part.start == tensor.size
    assert end == layout.n_values


@given(layouts, layouts)
def test_two_layouts_differ_exactly_where_their_digests_do(one, other):
    assert (one.difference(other) == "") == (one.digest == other.digest)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), json_values.map(json.dumps)))
def test_any_text_is_a_layout_or_a_protocol_error(text):
    with contextlib.suppress(RemoteProtocolError):
        Layout.from_json(text)


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "name": json_values,
            "shape": json_values,
            "dtype": json_values,
            "statistic": json_values,
            "field_bits": json_values,
        }
    )
)
def test_any_tensor_of_the_right_keys_is_a_layout_or_a_protocol_error(tensor):
    with contextlib.suppress(RemoteProtocolError):
        Layout.from_json(json.dumps({"version": 1, "tensors": [tensor]}))


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": ""},
        {"name": "x" * (limits.MAX_NAME_BYTES + 1)},
        {"shape": (-1,)},
        {"shape": (True,)},
        {"shape": (1,) * (limits.MAX_DIMENSIONS + 1)},
        {"dtype": "int64"},
        {"dtype": "complex64"},
        {"statistic": 1},
        {"field_bits": 7},
        {"field_bits": 33},
        {"field_bits": 16.0},
    ],
)
def test_a_tensor_outside_of_the_limits_is_refused(tensor):
    with pytest.raises(TrainingError, match="expected"):
        spec(**tensor)


def test_a_name_twice_and_too_many_values_are_refused():
    with pytest.raises(TrainingError, match="'w' twice"):
        Layout((spec(), spec()))
    with pytest.raises(TrainingError, match="at most"):
        Layout((spec(shape=(limits.MAX_VALUES, 2)),))
    with pytest.raises(TrainingError, match="at most 65536 tensors"):
        Layout((spec(),) * (limits.MAX_TENSORS + 1))


def test_too_long_a_json_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(limits, "MAX_LAYOUT_JSON_BYTES", 10)
    with pytest.raises(RemoteProtocolError, match="at most 10 bytes, got 11"):
        Layout.from_json("[" * 11)


def test_deep_nesting_is_a_protocol_error():
    with pytest.raises(RemoteProtocolError):
        Layout.from_json("[" * 200_000)


def test_scalars_and_empty_tensors_have_their_place():
    layout = Layout((spec("a", ()), spec("b", (0,)), spec("c", (2,))))
    assert layout.slices() == (slice(0, 1), slice(1, 1), slice(1, 3))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ((spec("a"),), "tensor 'b' is here but not there"),
        ((spec("a"), spec("b"), spec("c")), "tensor 'c' is there but not here"),
        ((spec("a"), spec("b", (3, 2))), "tensor 'b': shape is (2, 3) here and (3, 2) there"),
        ((spec("a", dtype="float64"), spec("b")), "tensor 'a': dtype is float32 here and float64 there"),
        ((spec("a"), spec("b", field_bits=24)), "tensor 'b': field_bits is 16 here and 24 there"),
        ((spec("b"), spec("a")), "tensor 'a' is here where 'b' is there: the order differs"),
    ],
)
def test_the_first_difference_is_named_for_people(other, told):
    assert Layout((spec("a"), spec("b"))).difference(Layout(other)) == told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [10**4000] * 16),  # Python makes no text of so large a product
        ("shape", [1] * 100_000),
        ("name", [1] * 100_000),
        ("dtype", "x" * 100_000),
        ("field_bits", 10**4000),
    ],
)
def test_a_refusal_does_not_quote_all_that_came(key, value):
    tensor = {"name": "a", "shape": [1], "dtype": "float32", "statistic": False, "field_bits": 16, key: value}
    with pytest.raises(RemoteProtocolError) as caught:
        Layout.from_json(json.dumps({"version": 1, "tensors": [tensor]}))
    assert len(caught.value.message) < 500
