"""Packing is exact, also for sums, and says so when a field does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import CapacityError, TrustError
from fedhe.he.pack import pack, unpack

shapes = st.sampled_from([(8, 6), (12, 4), (16, 3), (24, 2), (32, 1), (16, 1)])


@given(shapes, st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_unpack_brings_back_what_was_packed(shape, n, seed):
    bits, k = shape
    limit = (1 << (bits - 1)) - 1
    fields = np.random.default_rng(seed).integers(-limit, limit, n, endpoint=True)
    coefficients = pack(fields, bits, k)
    assert coefficients.shape == (-(-n // k),)
    assert np.array_equal(unpack(coefficients, bits, k, n), fields)


@given(shapes, st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=7, max_size=7), min_size=1, max_size=9))
def test_sums_of_packed_fields_unpack_to_the_sums(shape, signs):
    """Every site at its extreme, all signs mixed: no borrow crosses from field to field."""
    bits, k = shape
    share = ((1 << (bits - 1)) - 1) // len(signs)
    sites = [np.array(row, dtype=np.int64) * share for row in signs]
    total = np.sum([pack(fields, bits, k) for fields in sites], axis=0)
    assert np.array_equal(unpack(total, bits, k, 7), np.sum(sites, axis=0))


def test_a_coefficient_is_the_sum_of_shifted_fields():
    assert pack(np.array([1, -2, 3, 4]), 16, 3).tolist() == [1 - (2 << 16) + (3 << 32), 4]


@pytest.mark.parametrize("wrong", [32768, -32768, 1 << 40])
def test_a_field_that_does_not_fit_is_refused(wrong):
    with pytest.raises(CapacityError, match=f"within \\+-32767 \\(16 bits\\), got {wrong}"):
        pack(np.array([0, wrong]), 16, 3)


@pytest.mark.parametrize("wrong", [1 << 47, -(1 << 48), 1 << 60])
def test_a_sum_beyond_its_fields_is_refused(wrong):
    with pytest.raises(TrustError, match="beyond them"):
        unpack(np.array([0, wrong]), 16, 3, 6)


def test_padding_that_is_not_zero_is_refused():
    with pytest.raises(TrustError, match="expected zeros"):
        unpack(pack(np.array([1, 2, 3]), 16, 3), 16, 3, 2)
