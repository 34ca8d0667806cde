"""The compiled kernel against SEAL, over random and extreme inputs; the rest of its contract is in test_engines.py."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.he.ciphertext import AES_SEED_BYTES, HEADER_BYTES, C1Form, read_chunk, write_chunk
from fedhe.he.engine import largest_coefficient
from fedhe.he.fast_kernel import decrypt_chunk
from fedhe.he.sums import add_chunks

LARGEST = 1 << 46  # below what the default modulus holds


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, -1, LARGEST, -LARGEST, LARGEST - 1, 4095, -4096, 1 << 29, -(1 << 30)]), min_size=1),
    st.integers(1, 16),
    st.integers(0, 2**32 - 1),
)
def test_seal_decrypts_what_the_kernel_encrypts(seal_engine, fast_engine, expect_of, values, count, seed):
    message = np.resize(np.array(values, dtype=np.int64), (count, 4096))
    message[:, ::7] = np.random.default_rng(seed).integers(-LARGEST, LARGEST, message[:, ::7].shape)
    expect = expect_of(fast_engine)
    upload = fast_engine.encrypt(message, expect.context, 0)
    for max_forwarded in (0, 1):
        total = add_chunks([upload], fast_engine.params, expect.upload(), max_forwarded=max_forwarded)
        assert np.array_equal(seal_engine.decrypt(total, expect.sum(1)), message)
        assert np.array_equal(fast_engine.decrypt(total, expect.sum(1)), message)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_the_kernel_decrypts_to_the_same_noise_as_seal(seal_engine, fast_engine, expect_of, count, seed):
    """Not the rounded message alone: every bit of what comes out of the ring."""
    rng = np.random.default_rng(seed)
    expect = expect_of(seal_engine)
    message = rng.integers(-LARGEST, LARGEST, (count, 4096))
    total = add_chunks([seal_engine.encrypt(message, expect.context, 0)], seal_engine.params, expect.upload())
    chunk = read_chunk(total, expect=expect.sum(1), params=seal_engine.params)
    assert np.array_equal(
        noisy_of(fast_engine, chunk.polynomials[:, 0], chunk.polynomials[:, 1]),
        seal_engine._core.decrypt(chunk.polynomials[:, 0], chunk.polynomials[:, 1]),
    )


def noisy_of(engine, c0, c1):
    noisy = np.empty((len(c0), 4096), dtype=np.int64)
    decrypt_chunk(np.ascontiguousarray(c0), np.ascontiguousarray(c1), engine._key, noisy)
    return noisy


@pytest.mark.parametrize("residue", ["zero", "largest", "random"])
def test_any_residues_decrypt_alike(residue, seal_engine, fast_engine, params):
    """Also such as no honest site makes: the centre, the borders of the modulus, and anything between."""
    rng = np.random.default_rng(3)
    top = np.array(params.primes).reshape(1, 1, 2, 1) - 1
    polynomials = {
        "zero": np.ones((2, 2, 2, 4096)),
        "largest": np.broadcast_to(top, (2, 2, 2, 4096)),
        "random": rng.integers(0, top, (2, 2, 2, 4096), endpoint=True),
    }[residue].astype(np.uint32)
    if residue == "zero":
        polynomials[:, 0] = 0
    c0, c1 = polynomials[:, 0], polynomials[:, 1]
    assert np.array_equal(noisy_of(fast_engine, c0, c1), seal_engine._core.decrypt(c0, c1))


def test_the_largest_sum_that_97_sites_may_have_comes_back(fast_engine, seal_engine, expect_of):
    params = fast_engine.params
    limit = largest_coefficient(params)
    assert params.max_sites == 97
    expect = expect_of(fast_engine)
    for sign in (1, -1):
        parts = np.full((97, 1, 4096), sign * (limit // 97))
        parts[0] += sign * (limit - 97 * (limit // 97))
        total = add_chunks(
            [fast_engine.encrypt(part, expect.context, 0) for part in parts], params, expect.upload(), max_forwarded=97
        )
        for engine in (fast_engine, seal_engine):
            assert np.array_equal(engine.decrypt(total, expect.sum(97)), np.full((1, 4096), sign * limit))


@pytest.fixture
def forwarded(fast_engine, expect_of, messages):
    """The sum of three sites' two ciphertexts, with their seeds."""
    expect = expect_of(fast_engine)
    uploads = [fast_engine.encrypt(message, expect.context, 0) for message in messages(3, 2)]
    return add_chunks(uploads, fast_engine.params, expect.upload()), expect


def test_seeds_are_handed_on_for_few_sites_and_expanded_for_many(fast_engine, expect_of, messages):
    expect, params = expect_of(fast_engine), fast_engine.params
    uploads = [fast_engine.encrypt(message, expect.context, 0) for message in messages(3, 2)]
    forms = {
        most: read_chunk(
            add_chunks(uploads, params, expect.upload(), max_forwarded=most), expect=expect.sum(3), params=params
        ).header.c1
        for most in (2, 3)
    }
    assert forms == {2: C1Form.WHOLE, 3: C1Form.AES_SEEDS}


@pytest.mark.parametrize("place", [0, 40, 95])
def test_an_altered_seed_of_the_sum_is_noticed(forwarded, fast_engine, seal_engine, place):
    total, expect = forwarded
    data = bytearray(total)
    data[HEADER_BYTES + place] ^= 1
    chunk = read_chunk(total, expect=expect.sum(3), params=fast_engine.params)
    seeds = np.frombuffer(bytes(data[HEADER_BYTES : HEADER_BYTES + 3 * AES_SEED_BYTES]), dtype=np.uint8).reshape(3, -1)
    ordered = np.stack(sorted(seeds, key=bytes))  # so that only the noise can tell
    altered = write_chunk(chunk.header, ordered, chunk.polynomials)
    for engine in (fast_engine, seal_engine):
        with pytest.raises(TrustError, match="wrong key or altered sum"):
            engine.decrypt(altered, expect.sum(3))


def test_a_dropped_contribution_is_noticed_by_its_seed(forwarded, fast_engine):
    total, expect = forwarded
    chunk = read_chunk(total, expect=expect.sum(3), params=fast_engine.params)
    fewer = write_chunk(replace(chunk.header, sites=2), chunk.seeds[:2], chunk.polynomials)
    with pytest.raises(TrustError, match="wrong key or altered sum"):
        fast_engine.decrypt(fewer, expect.sum(2))
