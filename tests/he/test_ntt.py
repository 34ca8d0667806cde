"""The transform is SEAL's, for every size of prime, and goes back."""

import numpy as np
import pytest

from fedhe.he.ntt import forward, inverse, ring_tables, times, with_companion
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.seal_stream import SealStream


@pytest.fixture(params=[24, 25, 28, 30], ids="{} bits".format)
def ring(request):
    bits = request.param
    return CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(bits, bits), field_bits=12))


def polynomials(params, kind):
    rng = np.random.default_rng(7)
    shape = (2, 2, 4096)
    top = np.array(params.primes).reshape(1, 2, 1) - 1
    found = {
        "random": rng.integers(0, top, shape, endpoint=True),
        "largest": np.broadcast_to(top, shape),
        "zero but one": np.where(np.arange(4096) == 4095, top, 0) + np.zeros(shape, dtype=np.int64),
        "alternating": np.where(np.arange(4096) % 2, top, 0) + np.zeros(shape, dtype=np.int64),
    }[kind]
    return found.astype(np.uint32)


def transformed(values, params, transform):
    """Each polynomial of (2, 2, 4096) through one of the kernels."""
    tables = ring_tables(params.primes)
    found, scratch = values.copy(), np.empty((64, 64), dtype=np.uint32)
    for polynomial in found:
        for k in range(2):
            transform(polynomial[k], k, tables, scratch)
    return found


@pytest.mark.parametrize("kind", ["random", "largest", "zero but one", "alternating"])
def test_the_transform_is_seals_and_goes_back(ring, kind):
    values = polynomials(ring, kind)
    stream = SealStream(ring)
    ciphertext = stream.load_ciphertext(values, is_ntt=False)
    stream.evaluator.transform_to_ntt_inplace(ciphertext)
    expected = stream.save_ciphertext(ciphertext)
    found = transformed(values, ring, forward)
    assert np.array_equal(found, expected)
    assert np.array_equal(transformed(found, ring, inverse), values)


def test_values_need_not_be_reduced_before(ring):
    """The kernel gives the transform values below 4p, and the inverse one values below 2p."""
    values = polynomials(ring, "random")
    primes = np.array(ring.primes, dtype=np.uint32).reshape(1, 2, 1)
    for multiple in (1, 2, 3):
        assert np.array_equal(
            transformed(values + multiple * primes, ring, forward), transformed(values, ring, forward)
        )
    assert np.array_equal(transformed(values + primes, ring, inverse), transformed(values, ring, inverse))


@pytest.mark.parametrize("prime", [1073668097, 16760833])
def test_a_product_with_a_constant_is_right_and_below_2p(prime):
    rng = np.random.default_rng(1)
    constants = np.array([0, 1, 2, prime // 2, prime - 1, *rng.integers(0, prime, 200)], dtype=np.uint32)
    values = np.array([0, 1, prime - 1, prime, 2 * prime, 2**32 - 1, *rng.integers(0, 2**32, 200)], dtype=np.uint32)
    for constant, companion in with_companion(constants, prime).T:
        for value in values:
            found = int(times(value, constant, companion, np.uint32(prime)))
            assert found % prime == int(value) * int(constant) % prime
            assert found < 2 * prime
