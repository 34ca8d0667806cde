"""Objects as chunks: what is cut comes together again, and nothing wrong passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import RemoteProtocolError
from fedhe.wire.chunking import (
    CHUNK_BYTES,
    bitmap_indices,
    bitmap_of,
    check_chunk,
    digest_of,
    digest_of_digests,
    split,
)
from fedhe.wire.limits import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES


@given(st.binary(max_size=300), st.integers(1, 50))
def test_chunks_of_any_size_give_the_data_back(data, size):
    chunks = list(split(data, size))
    assert b"".join(chunks) == data
    assert len(chunks) == max(1, -(-len(data) // size))
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_a_cut_chunk_and_a_sum_of_sixteen_ciphertexts_are_within_the_limits():
    assert max(CHUNK_BYTES, 983_040 + 4096) <= MAX_CHUNK_BYTES < MAX_MESSAGE_BYTES


@given(st.binary(max_size=64))
def test_a_whole_chunk_passes_and_a_damaged_one_does_not(data):
    check_chunk(0, data, digest_of(data), chunks=1)
    with pytest.raises(RemoteProtocolError, match=r"expected SHA-256 .*, got "):
        check_chunk(0, data + b"x", digest_of(data))
    with pytest.raises(RemoteProtocolError, match="expected SHA-256"):
        check_chunk(0, data, b"")


@pytest.mark.parametrize("index", [-1, 3, 2**32])
def test_a_chunk_out_of_range_is_refused(index):
    with pytest.raises(RemoteProtocolError, match=f"chunk {index}: expected a number below 3"):
        check_chunk(index, b"", digest_of(b""), chunks=3)


def test_a_chunk_too_large_is_refused():
    data = bytes(MAX_CHUNK_BYTES + 1)
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_CHUNK_BYTES} bytes, got {MAX_CHUNK_BYTES + 1}"):
        check_chunk(0, data, digest_of(data))


def test_the_digest_of_an_object_depends_on_order_and_is_fixed():
    one, two = digest_of(b"one"), digest_of(b"two")
    assert digest_of_digests([one, two]) != digest_of_digests([two, one])
    assert digest_of_digests([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.integers(1, 70).flatmap(lambda chunks: st.tuples(st.just(chunks), st.sets(st.integers(0, chunks - 1)))))
def test_a_bitmap_gives_its_chunks_back(case):
    chunks, indices = case
    assert bitmap_indices(bitmap_of(indices, chunks), chunks) == sorted(indices)


def test_bits_count_from_the_least_significant_one():
    assert bitmap_of([0, 3, 8], 9) == bytes([0b1001, 0b1])


@given(st.binary(max_size=12), st.integers(1, 80))
def test_any_bitmap_is_read_or_refused_with_one_error(bitmap, chunks):
    try:
        indices = bitmap_indices(bitmap, chunks)
    except RemoteProtocolError:
        return
    assert all(0 <= index < chunks for index in indices)
