"""SEAL's bytes are those this program knows, and another SEAL is noticed before it does harm."""

import contextlib
import dataclasses
import gc
from pathlib import Path

import numpy as np
import pytest

from fedhe.errors import ConfigError
from fedhe.he import seal_stream
from fedhe.he.seal_stream import SealStream


@pytest.fixture(scope="module")
def stream(params):
    return SealStream(params)


def test_a_ciphertext_comes_back_unchanged(stream, params):
    rng = np.random.default_rng(0)
    polynomials = np.stack([rng.integers(0, prime, (2, 4096)) for prime in params.primes], axis=1)
    loaded = stream.load_ciphertext(polynomials, is_ntt=True)
    assert np.array_equal(stream.save_ciphertext(loaded), polynomials)


def test_the_ntt_is_undone_by_its_inverse_and_keeps_constants(stream):
    polynomials = np.zeros((2, 2, 4096), dtype=np.int64)
    polynomials[0, :, 0], polynomials[1, :, 5] = 123, 7
    ciphertext = stream.load_ciphertext(polynomials, is_ntt=False)
    stream.evaluator.transform_to_ntt_inplace(ciphertext)
    assert (stream.save_ciphertext(ciphertext)[0] == 123).all()
    stream.evaluator.transform_from_ntt_inplace(ciphertext)
    assert np.array_equal(stream.save_ciphertext(ciphertext), polynomials)


def test_a_seed_expands_to_uniform_residues_and_always_the_same(stream, params):
    one, again, other = (stream.save_ciphertext(stream.expand(seed * 64)) for seed in (b"a", b"a", b"b"))
    assert np.array_equal(one, again)
    assert not one[0].any()
    assert (one[1] != other[1]).mean() > 0.99
    for limb, prime in zip(one[1], params.primes, strict=True):
        assert limb.max() < prime
        assert abs(limb.mean() / prime - 0.5) < 0.03


def test_a_seal_that_expands_otherwise_is_noticed(params, monkeypatch):
    monkeypatch.setitem(seal_stream._KNOWN_ANSWERS, 30, "0" * 64)
    with pytest.raises(ConfigError, match="known answer: expected 0000000000000000, got"):
        SealStream(params)


def test_a_seal_with_other_streams_is_noticed(params, monkeypatch):
    monkeypatch.setattr(seal_stream, "_BLAKE2XB", b"\x09")
    with pytest.raises(ConfigError, match="SEAL refuses the streams"):
        SealStream(params)


def test_a_seal_that_picks_other_primes_is_noticed(params):
    with pytest.raises(ConfigError, match=r"SEAL's primes: expected \(12289, 40961\)"):
        SealStream(dataclasses.replace(params, primes=(12289, 40961)))


def test_a_stream_of_another_form_is_refused(stream):
    class Foreign:
        def __init__(self, data):
            self.data = data

        def save(self, path):
            with open(path, "wb") as file:  # noqa: PTH123 -- as SEAL does
                file.write(self.data)

    head = b"\x5e\xa1\x10\x04\x00"
    with pytest.raises(ConfigError, match="expected 5ea1"):
        stream.save(Foreign(b"\x5e\xa2" + head[2:] + bytes(3) + (16).to_bytes(8, "little")))
    with pytest.raises(ConfigError, match="got mode 1"):
        stream.save(Foreign(head + b"\x01\0\0" + (16).to_bytes(8, "little")))
    assert stream.save(Foreign(head + bytes(3) + (18).to_bytes(8, "little") + b"ok")) == b"ok"
    with pytest.raises(ConfigError, match="seeded ciphertext"):
        stream.save_seeded(Foreign(head + bytes(3) + (18).to_bytes(8, "little") + b"ok"))


def test_nothing_touches_a_disk_and_descriptors_are_given_back(params):
    def open_files():
        found = {}
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
                found[entry.name] = str(entry.readlink())
        return {number for number, name in found.items() if "memfd:seal" in name}

    gc.collect()
    before = open_files()
    stream = SealStream(params)
    assert len(open_files() - before) == 3
    del stream
    gc.collect()
    assert open_files() == before
