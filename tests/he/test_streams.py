"""Seeds expand as documented, without bias, alike everywhere; errors have SEAL's distribution, exactly."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedhe.errors import RemoteProtocolError
from fedhe.he import streams
from fedhe.he.params import DEFAULT_PARAMS, CkksParams, CkksParamsLiteral
from fedhe.he.streams import centred_binomial, expand_seed, expand_seeds, fresh_errors, new_seed, reserve_words

SEED = bytes(range(32))
SMALL = CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(24, 24), field_bits=12))


def as_documented(seed, count, params):
    """The module's text, word by word in Python."""
    octets = 4 * (count * 2 * 4096 + reserve_words(count, params))
    stream = Cipher(algorithms.AES(seed), modes.CTR((2).to_bytes(16, "big"))).encryptor().update(bytes(octets))
    words = [int.from_bytes(stream[i : i + 4], "little") for i in range(0, octets, 4)]
    reserve = iter(words[count * 2 * 4096 :])
    mask = (1 << params.coeff_modulus_bits[0]) - 1
    found = []
    for place, word in enumerate(words[: count * 2 * 4096]):
        residue = word & mask
        while residue >= params.primes[place // 4096 % 2]:
            residue = next(reserve) & mask
        found.append(residue)
    return np.array(found).reshape(count, 2, 4096)


@pytest.mark.parametrize(("params", "count"), [(DEFAULT_PARAMS, 1), (DEFAULT_PARAMS, 5), (SMALL, 2)])
def test_a_seed_expands_as_documented(params, count):
    assert np.array_equal(expand_seed(SEED, count, params), as_documented(SEED, count, params))


def test_the_reserve_is_used(params):
    """Else the test before says nothing of it."""
    words = streams._stream(SEED, 4 * 16 * 2 * 4096).view(np.uint32) & ((1 << 30) - 1)
    assert (words.reshape(16, 2, 4096) >= np.array(params.primes).reshape(1, 2, 1)).sum() >= 3


def test_a_seed_expands_to_the_same_bytes_in_every_release(params):
    digest = hashlib.sha256(expand_seed(SEED, 16, params).astype("<u4").tobytes()).hexdigest()
    assert digest == "755b83f1fcff56bcf56c12039305b04bb5d0f77f9cedadde22466cfb06956d46"


def test_a_stream_without_enough_residues_is_refused(monkeypatch, params):
    monkeypatch.setattr(streams, "_stream", lambda _key, octets: np.full(octets, 0xFF, dtype=np.uint8))
    with pytest.raises(RemoteProtocolError, match="whose stream has residues below"):
        expand_seed(SEED, 1, params)


def test_residues_are_uniform(params):
    """Chi-square over 64 bins of equal width; 20 standard deviations would be 287."""
    for k, prime in enumerate(params.primes):
        residues = np.concatenate([expand_seed(new_seed(), 16, params)[:, k].reshape(-1) for _ in range(4)])
        assert residues.max() < prime
        counts = np.bincount(residues.astype(np.int64) * 64 // prime, minlength=64)
        expected = residues.size / 64
        assert ((counts - expected) ** 2 / expected).sum() < 287


def test_several_seeds_expand_to_the_sum(params):
    seeds = np.frombuffer(b"".join(new_seed() for _ in range(3)), dtype=np.uint8).reshape(3, 32)
    parts = [expand_seed(seed.tobytes(), 2, params).astype(np.int64) for seed in seeds]
    modulus = np.array(params.primes).reshape(2, 1)
    assert np.array_equal(expand_seeds(seeds, 2, params), sum(parts) % modulus)


def errors_of(bits):
    errors = np.empty(bits.size, dtype=np.int8)
    words = np.stack([(bits >> np.uint64(16 * place)).astype(np.uint16) for place in range(3)])
    centred_binomial(words, errors)
    return errors


@pytest.mark.parametrize("other", [0, (1 << 21) - 1, 0b1010101010101_01010101])
def test_an_error_is_the_difference_of_ones_for_every_half(other):
    """Exhaustive over each half of 21 bits, the other one fixed; the upper 6 bits do not count."""
    each = np.arange(1 << 21, dtype=np.uint64)
    junk = np.uint64(0x3F << 42)
    ones = np.bitwise_count(each).astype(np.int8)
    fixed = np.int8(other.bit_count())
    assert np.array_equal(errors_of(each | np.uint64(other << 21)), ones - fixed)
    assert np.array_equal(errors_of(each << np.uint64(21) | np.uint64(other) | junk), fixed - ones)


def test_fresh_errors_have_the_centred_binomial_distribution(params):
    errors = np.concatenate([fresh_errors(16, params).reshape(-1) for _ in range(4)])
    assert np.abs(errors).max() <= 21
    one = np.ones(1)
    for _ in range(42):
        one = np.convolve(one, [0.5, 0.5])
    counts = np.bincount(errors + 21, minlength=43)
    likely = one * errors.size > 20
    expected = one[likely] * errors.size
    chi_square = ((counts[likely] - expected) ** 2 / expected).sum()
    assert chi_square < likely.sum() + 20 * np.sqrt(2 * likely.sum())
    assert not np.array_equal(errors[: errors.size // 4], errors[-errors.size // 4 :])
