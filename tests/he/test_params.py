"""Parameters are refused below 128 bits of security and when capacity is short; capacity is exact."""

import dataclasses

import pytest
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import CapacityError, ConfigError
from fedhe.he.params import DEFAULT_PARAMS, CkksParams, CkksParamsLiteral


def test_the_default_is_that_of_the_design():
    params = DEFAULT_PARAMS
    assert params.primes == (1073668097, 1073692673)
    assert params.security_bits == 192
    assert params.max_sites == 97
    assert [params.fields_per_coefficient(bits) for bits in (12, 16, 24, 32)] == [4, 3, 2, 1]
    assert params.CIPHERTEXTS_PER_CHUNK == 16
    assert params.to_dict() == {
        "scheme": "CKKS",
        "poly_modulus_degree": 4096,
        "coeff_modulus_bits": [30, 30],
        "scale_bits": 12,
        "field_bits": 16,
        "statistics_bits": 24,
        "security_bits": 192,
    }


@pytest.mark.parametrize("bits", range(24, 31))
def test_primes_are_those_that_seal_picks(bits):
    params = CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(bits, bits), field_bits=12))
    moduli = [prime.value() for prime in seal.CoeffModulus.Create(4096, [bits, bits, bits + 1])]
    assert list(params.primes) == moduli[:2]


@pytest.mark.parametrize(("bits", "level"), [(30, 192), (28, 192), (26, 256)])
def test_the_security_level_is_the_lowest_of_the_tables(bits, level):
    literal = CkksParamsLiteral(coeff_modulus_bits=(bits, bits))
    assert CkksParams.from_literal(literal).security_bits == level


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"poly_modulus_degree": 2048, "coeff_modulus_bits": (27, 27)}, "at most 53 bits for 128 bits of security"),
        ({"poly_modulus_degree": 2048, "coeff_modulus_bits": (24, 24)}, "expected 4096, got 2048"),
        ({"poly_modulus_degree": 8192}, "expected 4096, got 8192"),
        ({"coeff_modulus_bits": (60,)}, r"2 primes of equal size, 24 to 30 bits each, got \[60\]"),
        ({"coeff_modulus_bits": (30, 29)}, r"got \[30, 29\]"),
        ({"coeff_modulus_bits": (31, 31)}, r"got \[31, 31\]"),
    ],
)
def test_a_ring_that_is_unsafe_or_not_supported_is_refused(change, told):
    with pytest.raises(ConfigError, match=told):
        CkksParams.from_literal(dataclasses.replace(CkksParamsLiteral(), **change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scale_bits": 6}, "scale_bits: expected 7 to 40, got 6"),
        ({"scale_bits": -1}, "scale_bits: expected 7 to 40, got -1"),
        ({"field_bits": 7}, "field_bits: expected 8 to 32, got 7"),
        ({"statistics_bits": 33}, "statistics_bits: expected 8 to 32, got 33"),
        ({"scale_bits": 40, "field_bits": 16}, "fields of 24 bits: expected 1 to 20 bits"),
    ],
)
def test_fields_and_scale_that_do_not_fit_are_refused(change, told):
    with pytest.raises(CapacityError, match=told):
        CkksParams.from_literal(dataclasses.replace(CkksParamsLiteral(), **change))


def test_more_sites_than_the_scale_allows_are_refused_and_a_larger_scale_allows_more():
    with pytest.raises(CapacityError, match="expected 1 to 97 sites, got 98"):
        DEFAULT_PARAMS.field_max(16, 98)
    larger = CkksParams.from_literal(CkksParamsLiteral(scale_bits=16, field_bits=14, statistics_bits=22))
    assert larger.max_sites == 1560
    assert larger.grid_max(14, 1000) == 8191 - 1000


def test_a_grid_without_steps_is_refused():
    params = CkksParams.from_literal(CkksParamsLiteral(scale_bits=16, field_bits=8))
    assert params.grid_max(8, 126) == 1
    with pytest.raises(CapacityError, match="leave 0 steps for 127 sites"):
        params.grid_max(8, 127)


@given(st.integers(8, 32), st.integers(2, 97), st.integers(24, 30))
def test_capacity_is_exact(bits, sites, prime_bits):
    """The largest sum fits into the modulus with all errors, and one more would not fit the field or the modulus."""
    literal = CkksParamsLiteral(coeff_modulus_bits=(prime_bits, prime_bits), field_bits=8, statistics_bits=8)
    params = CkksParams.from_literal(literal)
    try:
        most = params.field_max(bits, sites)
    except CapacityError:
        assert bits > params.modulus.bit_length() - 12
        return
    places = sum(1 << (bits * j) for j in range(params.fields_per_coefficient(bits)))

    def fits(field):
        return field < 1 << (bits - 1) and params.scale * field * places + 21 * sites <= (params.modulus - 1) // 2

    assert fits(most)
    assert not fits(most + 1)


def test_the_id_of_parameters_covers_the_fields_and_that_of_the_ring_does_not():
    literals = [CkksParamsLiteral(), CkksParamsLiteral(field_bits=12), CkksParamsLiteral(scale_bits=13)]
    literals += [CkksParamsLiteral(statistics_bits=16), CkksParamsLiteral(coeff_modulus_bits=(29, 29))]
    params = [CkksParams.from_literal(literal) for literal in literals]
    assert len({each.params_id for each in params}) == 5
    assert all(len(each.params_id) == 16 for each in params)
    assert len({each.ring_id for each in params}) == 2
    assert DEFAULT_PARAMS.with_precision(12, 24) == params[1]
    assert params[1].literal == literals[1]
