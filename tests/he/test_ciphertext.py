"""A chunk is what was expected, to the last byte, or a protocol error that says what came instead."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import RemoteProtocolError
from fedhe.he.ciphertext import (
    HEADER_BYTES,
    ChunkHeader,
    ChunkKind,
    Expectation,
    read_chunk,
    read_header,
    write_chunk,
)
from fedhe.he.params import DEFAULT_PARAMS, CkksParams, CkksParamsLiteral

KEY_ID, CONTEXT = bytes(16), bytes(range(32))
PARAMS_ID = DEFAULT_PARAMS.params_id


def header(kind=ChunkKind.SEEDED, **change):
    sites = 1 if kind is ChunkKind.SEEDED else 3
    found = ChunkHeader(kind, 2, 30, 4096, 7, 2, sites, KEY_ID, PARAMS_ID, CONTEXT)
    return dataclasses.replace(found, **change)


def expectation(kind=ChunkKind.SEEDED, **change):
    return dataclasses.replace(Expectation(kind, KEY_ID, PARAMS_ID, CONTEXT, 7), **change)


def chunk(kind=ChunkKind.SEEDED, count=2, seed=0):
    rng = np.random.default_rng(seed)
    polynomials = 1 if kind is ChunkKind.SEEDED else 2
    seeds = rng.integers(0, 256, (count if polynomials == 1 else 0, 64), dtype=np.uint8)
    limbs = [rng.integers(0, prime, (count, polynomials, 4096)) for prime in DEFAULT_PARAMS.primes]
    residues = np.stack(limbs, axis=2).astype(np.uint32)
    return seeds, residues, write_chunk(header(kind, count=count), seeds, residues)


@pytest.mark.parametrize("kind", ChunkKind)
@pytest.mark.parametrize("count", [1, 2, 16])
def test_reading_brings_back_what_was_written(kind, count):
    seeds, residues, data = chunk(kind, count)
    found = read_chunk(data, expect=expectation(kind, count=count), params=DEFAULT_PARAMS)
    assert found.header == header(kind, count=count)
    assert np.array_equal(found.seeds, seeds)
    assert np.array_equal(found.polynomials, residues)


def test_a_full_chunk_is_below_a_mebibyte_and_costs_what_the_design_says():
    values = 16 * 4096 * 3
    up, down = (HEADER_BYTES + header(kind, count=16).body_bytes for kind in ChunkKind)
    assert (up, down) == (492_628, 983_124)
    assert up / values < 2.51
    assert down / values < 5.01
    assert down < 1 << 20


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": ChunkKind.FULL}, "expected kind FULL, got SEEDED"),
        ({"key_id": b"k" * 16}, f"expected key id {(b'k' * 16).hex()}, got {KEY_ID.hex()}"),
        ({"params_id": b"p" * 16}, "expected parameters id"),
        ({"context": b"c" * 32}, f"expected context {(b'c' * 32).hex()}, got {CONTEXT.hex()}"),
        ({"index": 8}, "expected index 8, got 7"),
        ({"count": 3}, "expected number of ciphertexts 3, got 2"),
        ({"sites": 2}, "expected number of sites 2, got 1"),
    ],
)
def test_what_is_not_expected_is_named_with_what_came(change, told):
    with pytest.raises(RemoteProtocolError, match=told):
        read_header(chunk()[2], expect=expectation(**change))
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_chunk(chunk()[2], expect=expectation(**change), params=DEFAULT_PARAMS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"count": 0}, "expected 1 to 16 ciphertexts, got 0"),
        ({"count": 17}, "expected 1 to 16 ciphertexts, got 17"),
        ({"count": 3}, "bytes for 3 ciphertexts, got"),
        ({"sites": 0}, "got 0 sites"),
        ({"sites": 2}, "got 2 sites"),
        ({"primes": 3}, "bytes for 2 ciphertexts, got"),
        ({"degree": 0xFFFFFFFF}, "bytes for 2 ciphertexts, got"),
        ({"degree": 8192, "primes": 1}, "expected polynomial degree 4096, got 8192"),
        ({"prime_bits": 29}, r"expected bits of the primes \(30, 30\), got \(29, 29\)"),
    ],
)
def test_a_header_that_lies_is_refused(change, told):
    data = header(**change).to_bytes() + chunk()[2][HEADER_BYTES:]
    with pytest.raises(RemoteProtocolError, match=told):
        read_chunk(data, expect=expectation(), params=DEFAULT_PARAMS)


@pytest.mark.parametrize(
    ("place", "byte", "told"), [(0, 0, "begin with b'FHCT'"), (4, 2, "expected version 1, got 2"), (5, 9, "got 9")]
)
def test_another_magic_version_or_kind_is_refused(place, byte, told):
    data = bytearray(chunk()[2])
    data[place] = byte
    with pytest.raises(RemoteProtocolError, match=told):
        read_chunk(bytes(data), expect=expectation(), params=DEFAULT_PARAMS)


def test_other_parameters_than_the_expected_are_refused():
    other = CkksParams.from_literal(CkksParamsLiteral(field_bits=12))
    with pytest.raises(RemoteProtocolError, match="parameters id"):
        read_chunk(chunk()[2], expect=expectation(), params=other)


@pytest.mark.parametrize("limb", [0, 1])
def test_a_residue_that_is_not_below_its_prime_is_refused(limb):
    seeds, residues, _ = chunk()
    residues[1, 0, limb, 4095] = DEFAULT_PARAMS.primes[limb]
    data = write_chunk(header(), seeds, residues)
    with pytest.raises(RemoteProtocolError, match=f"below {DEFAULT_PARAMS.primes[limb]}, got"):
        read_chunk(data, expect=expectation(), params=DEFAULT_PARAMS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 61_651))
def test_a_truncated_chunk_is_refused(length):
    data = chunk()[2]
    assert length < len(data)
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_chunk(data[:length], expect=expectation(), params=DEFAULT_PARAMS)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_chunk_or_a_protocol_error(data):
    for prefix in (b"", header().to_bytes()[:84], header(ChunkKind.FULL).to_bytes()[:20]):
        with pytest.raises(RemoteProtocolError):
            read_chunk(prefix + data, expect=expectation(), params=DEFAULT_PARAMS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_flipped_bit_of_the_header_is_noticed(bit):
    data = bytearray(chunk()[2])
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_chunk(bytes(data), expect=expectation(), params=DEFAULT_PARAMS)
