"""Every value of a layout has one place in the chunks, whatever the tensors and field widths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import CapacityError, TrustError
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.plan import decode_chunk, encode_chunk, plan_update
from fedhe.model.layout import Layout, TensorSpec

tensors = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 5, 4096, 12288, 12289, 70_001, 200_000]), st.sampled_from([8, 12, 16, 24])),
    min_size=1,
    max_size=6,
)


def layout_of(sizes):
    return Layout(tuple(TensorSpec(f"t{i}", (size,), "float32", False, bits) for i, (size, bits) in enumerate(sizes)))


@settings(max_examples=40, deadline=None)
@given(tensors.filter(lambda found: any(size for size, _ in found)), st.integers(0, 2**32 - 1))
def test_what_is_encoded_decodes_to_its_own_place(sizes, seed):
    layout = layout_of(sizes)
    plan = plan_update(layout, DEFAULT_PARAMS)
    rng = np.random.default_rng(seed)
    vector = np.concatenate([rng.integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), size) for size, bits in sizes])
    found = np.zeros_like(vector)
    times = np.zeros(len(vector), dtype=int)
    for chunk in range(plan.chunks):
        asked = []

        def fields_of(part, asked=asked):
            asked.append(part)
            return vector[part]

        coefficients = encode_chunk(plan, chunk, fields_of)
        assert asked == plan.value_slices(chunk)
        assert coefficients.shape == (plan.ciphertexts_in(chunk), 4096)
        for part, fields in decode_chunk(plan, chunk, coefficients):
            found[part] = fields
            times[part] += 1
    assert (times == 1).all()
    assert np.array_equal(found, vector)
    assert plan.n_values == layout.n_values
    assert plan.ciphertexts == sum(plan.ciphertexts_in(chunk) for chunk in range(plan.chunks))


def test_sections_are_of_one_width_and_narrow_ones_come_first(make_layout, params):
    layout = make_layout(("w", (5,), 16), ("mean", (3,), 24), ("v", (2,), 16), ("u", (1,), 16))
    plan = plan_update(layout, params)
    assert [(each.bits, each.k, each.first, each.end, each.runs) for each in plan.sections] == [
        (16, 3, 0, 3, (slice(0, 5), slice(8, 11))),
        (24, 2, 3, 5, (slice(5, 8),)),
    ]
    assert (plan.chunks, plan.ciphertexts, plan.n_values) == (1, 1, 11)
    assert plan.value_slices(0) == [slice(0, 5), slice(8, 11), slice(5, 8)]


def test_a_full_chunk_takes_196608_values_of_16_bits(make_layout, params):
    values = 16 * 4096 * 3
    assert plan_update(make_layout(("w", (values,), 16)), params).chunks == 1
    plan = plan_update(make_layout(("w", (values + 1,), 16)), params)
    assert (plan.chunks, plan.ciphertexts, plan.ciphertexts_in(1)) == (2, 17, 1)


def test_a_layout_without_values_is_refused(make_layout, params):
    with pytest.raises(CapacityError, match="at least one shared value"):
        plan_update(make_layout(("empty", (0,), 16)), params)


def test_a_chunk_that_does_not_exist_is_refused(make_layout, params):
    plan = plan_update(make_layout(("w", (5,), 16)), params)
    for chunk in (-1, 1):
        with pytest.raises(CapacityError, match=f"from 0 to 0, got {chunk}"):
            plan.value_slices(chunk)


def test_wrong_numbers_of_fields_and_coefficients_are_refused(make_layout, params):
    plan = plan_update(make_layout(("w", (5,), 16)), params)
    with pytest.raises(CapacityError, match="expected 5 fields"):
        encode_chunk(plan, 0, lambda _: np.zeros(4, dtype=np.int64))
    with pytest.raises(CapacityError, match=r"shape \(1, 4096\), got \(2, 4096\)"):
        decode_chunk(plan, 0, np.zeros((2, 4096), dtype=np.int64))


@pytest.mark.parametrize("place", [1, 2, 4095])
def test_padding_of_the_sum_that_is_not_zero_is_refused(place, make_layout, params):
    plan = plan_update(make_layout(("w", (5,), 16)), params)
    coefficients = encode_chunk(plan, 0, lambda _: np.arange(5))
    coefficients[0, place] += 1 << 32
    with pytest.raises(TrustError, match="expected zeros"):
        decode_chunk(plan, 0, coefficients)
