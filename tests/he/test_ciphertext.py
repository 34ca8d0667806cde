"""A chunk is what was expected, to the last byte, or a protocol error that says what came instead."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import RemoteProtocolError
from fedhe.he.ciphertext import (
    HEADER_BYTES,
    C1Form,
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


FORMS = {
    "upload, SEAL seeds": (ChunkKind.UPLOAD, C1Form.SEAL_SEEDS),
    "upload, AES seed": (ChunkKind.UPLOAD, C1Form.AES_SEEDS),
    "sum, whole": (ChunkKind.SUM, C1Form.WHOLE),
    "sum, AES seeds": (ChunkKind.SUM, C1Form.AES_SEEDS),
}
each_form = pytest.mark.parametrize(("kind", "c1"), FORMS.values(), ids=FORMS)


def header(kind=ChunkKind.UPLOAD, c1=C1Form.SEAL_SEEDS, **change):
    sites = 1 if kind is ChunkKind.UPLOAD else 3
    found = ChunkHeader(kind, c1, 2, 30, 4096, 7, 2, sites, KEY_ID, PARAMS_ID, CONTEXT)
    return dataclasses.replace(found, **change)


def expectation(kind=ChunkKind.UPLOAD, **change):
    return dataclasses.replace(Expectation(kind, KEY_ID, PARAMS_ID, CONTEXT, 7), **change)


def chunk(kind=ChunkKind.UPLOAD, c1=C1Form.SEAL_SEEDS, count=2, seed=0):
    rng = np.random.default_rng(seed)
    head = header(kind, c1, count=count)
    seeds = rng.integers(0, 256, head.seeds_shape, dtype=np.uint8)
    seeds = seeds[np.argsort(seeds[:, 0])] if c1 is C1Form.AES_SEEDS else seeds
    limbs = [rng.integers(0, prime, (count, head.polynomials_shape[1], 4096)) for prime in DEFAULT_PARAMS.primes]
    residues = np.stack(limbs, axis=2).astype(np.uint32)
    return seeds, residues, write_chunk(head, seeds, residues)


@each_form
@pytest.mark.parametrize("count", [1, 2, 16])
def test_reading_brings_back_what_was_written(kind, c1, count):
    seeds, residues, data = chunk(kind, c1, count)
    found = read_chunk(data, expect=expectation(kind, count=count), params=DEFAULT_PARAMS)
    assert found.header == header(kind, c1, count=count)
    assert np.array_equal(found.seeds, seeds)
    assert np.array_equal(found.polynomials, residues)


def test_a_full_chunk_is_below_a_mebibyte_and_costs_what_the_design_says():
    values = 16 * 4096 * 3
    sizes = {form: HEADER_BYTES + header(*FORMS[form], count=16).body_bytes for form in FORMS}
    assert list(sizes.values()) == [492_628, 491_636, 983_124, 491_700]
    assert sizes["upload, SEAL seeds"] / values < 2.51
    assert sizes["sum, whole"] / values < 5.01
    assert (sizes["upload, AES seed"] + sizes["sum, AES seeds"]) / values < 5.01
    assert max(sizes.values()) < 1 << 20


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": ChunkKind.SUM}, "expected kind SUM, got UPLOAD"),
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


@each_form
@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_chunk_is_refused(kind, c1, part):
    data = chunk(kind, c1)[2]
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_chunk(data[: int(part * len(data))], expect=expectation(kind), params=DEFAULT_PARAMS)


@each_form
def test_a_longer_chunk_is_refused(kind, c1):
    with pytest.raises(RemoteProtocolError, match="bytes for 2 ciphertexts"):
        read_chunk(chunk(kind, c1)[2] + b"\0", expect=expectation(kind), params=DEFAULT_PARAMS)


@pytest.mark.parametrize("order", [[0, 0, 2], [1, 0, 2], [0, 2, 1]])
def test_seeds_of_a_sum_that_are_repeated_or_out_of_order_are_refused(order):
    """So that a sum has one form only, whoever wrote it, and no contribution counts twice."""
    seeds, residues, _ = chunk(ChunkKind.SUM, C1Form.AES_SEEDS)
    data = write_chunk(header(ChunkKind.SUM, C1Form.AES_SEEDS), seeds[order], residues)
    with pytest.raises(RemoteProtocolError, match="different seeds in the order of their bytes"):
        read_chunk(data, expect=expectation(ChunkKind.SUM), params=DEFAULT_PARAMS)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_chunk_or_a_protocol_error(data):
    for prefix in (b"", header().to_bytes()[:84], header(ChunkKind.SUM, C1Form.WHOLE).to_bytes()[:20]):
        with pytest.raises(RemoteProtocolError):
            read_chunk(prefix + data, expect=expectation(), params=DEFAULT_PARAMS)


@each_form
@settings(max_examples=60, deadline=None)
@given(st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_flipped_bit_of_the_header_is_noticed(kind, c1, bit):
    """Where the reader knows the number of sites; see `Expectation.sites`."""
    data = bytearray(chunk(kind, c1)[2])
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(RemoteProtocolError, match="expected"):
        read_chunk(bytes(data), expect=expectation(kind, sites=header(kind).sites), params=DEFAULT_PARAMS)
