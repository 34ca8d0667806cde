"""Thirty-bit packing loses nothing and takes 3.75 bytes; modular sums are exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedhe.he.residues import add_residues, pack_residues, packed_bytes, unpack_residues

PRIMES = (1073668097, 1073692673)


@given(
    hnp.arrays(
        np.uint32,
        st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([16, 32, 160])),
        elements=st.integers(0, 2**30 - 1),
    )
)
def test_unpack_brings_back_what_was_packed(residues):
    data = pack_residues(residues)
    assert len(data) == packed_bytes(residues.size) == residues.size * 15 // 4
    found, largest = unpack_residues(data, residues.shape)
    assert np.array_equal(found, residues)
    assert np.array_equal(largest, residues.max(axis=(0, 2)))


def test_the_packed_form_is_as_documented():
    residues = np.arange(16, dtype=np.uint32)
    residues[15] = 0b10_01_11
    words = np.frombuffer(pack_residues(residues), dtype="<u4")
    assert words.tolist() == [0 | 3 << 30, 1 | 1 << 30, 2 | 2 << 30, *range(3, 15)]


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_modular(seed):
    rng = np.random.default_rng(seed)
    one, other = (np.stack([rng.integers(0, p, (2, 64)) for p in PRIMES], axis=1).astype(np.uint32) for _ in range(2))
    one[0, :, 0], other[0, :, 0] = [p - 1 for p in PRIMES], [p - 1 for p in PRIMES]
    one[0, :, 1], other[0, :, 1] = [p - 1 for p in PRIMES], 1
    modulus = np.array(PRIMES).reshape(2, 1)
    expected = (one.astype(np.int64) + other) % modulus
    add_residues(one, other, PRIMES)
    assert np.array_equal(one, expected)
