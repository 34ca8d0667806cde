"""What is sealed under the group key opens at its own place only, and shows nothing without the key."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.trust.sealed import (
    OVERHEAD_BYTES,
    GroupKey,
    NoteContext,
    model_fingerprint,
    open_checkpoint_chunk,
    open_note,
    seal_checkpoint_chunk,
    seal_note,
)

KEY = GroupKey(bytes(range(32)))
OTHER_KEY = GroupKey(bytes(32))
CONTEXT = NoteContext("brain-mri", "job-1", 3, 1, "hospitalA", b"n" * 16)


@given(st.binary(max_size=500))
def test_a_note_opens_for_its_context(note):
    sealed = seal_note(KEY, context=CONTEXT, note=note)
    assert len(sealed) == len(note) + OVERHEAD_BYTES
    assert open_note(KEY, context=CONTEXT, note=sealed) == note


@pytest.mark.parametrize(
    "change",
    [
        {"project": "liver-ct"},
        {"job_id": "job-2"},
        {"round": 4},
        {"attempt": 2},
        {"site": "hospitalB"},
        {"nonce": b"m" * 16},
        {"job_id": "job-1h", "site": "ospitalA"},
    ],
)
def test_a_note_does_not_open_for_another_context(change):
    sealed = seal_note(KEY, context=CONTEXT, note=b"samples: 12")
    with pytest.raises(TrustError, match="does not open"):
        open_note(KEY, context=replace(CONTEXT, **change), note=sealed)


def test_a_note_does_not_open_under_another_key():
    sealed = seal_note(KEY, context=CONTEXT, note=b"samples: 12")
    with pytest.raises(TrustError, match="another group key"):
        open_note(OTHER_KEY, context=CONTEXT, note=sealed)


@given(position=st.integers(0, OVERHEAD_BYTES + 10), flip=st.integers(1, 255))
def test_a_note_with_any_byte_changed_does_not_open(position, flip):
    sealed = bytearray(seal_note(KEY, context=CONTEXT, note=b"samples: 12"))
    sealed[position % len(sealed)] ^= flip
    with pytest.raises(TrustError):
        open_note(KEY, context=CONTEXT, note=bytes(sealed))


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_in_one_way(data):
    with pytest.raises(TrustError):
        open_note(KEY, context=CONTEXT, note=data)
    with pytest.raises(TrustError):
        open_checkpoint_chunk(KEY, "job-1", 0, 0, 1, data)


def test_sealing_twice_gives_different_bytes():
    assert seal_note(KEY, context=CONTEXT, note=b"x") != seal_note(KEY, context=CONTEXT, note=b"x")


@given(st.binary(max_size=500), st.integers(0, 1000), st.integers(0, 20), st.integers(1, 20))
def test_a_checkpoint_chunk_opens_at_its_place(data, version, index, chunks):
    sealed = seal_checkpoint_chunk(KEY, "job-1", version, index, chunks, data)
    assert open_checkpoint_chunk(KEY, "job-1", version, index, chunks, sealed) == data


@pytest.mark.parametrize("place", [("job-2", 5, 1, 3), ("job-1", 6, 1, 3), ("job-1", 5, 2, 3), ("job-1", 5, 1, 4)])
def test_a_checkpoint_chunk_does_not_open_at_another_place(place):
    sealed = seal_checkpoint_chunk(KEY, "job-1", 5, 1, 3, b"weights")
    with pytest.raises(TrustError, match="does not open"):
        open_checkpoint_chunk(KEY, *place, sealed)


def test_a_note_is_no_checkpoint():
    sealed = seal_note(KEY, context=CONTEXT, note=b"x")
    with pytest.raises(TrustError):
        open_checkpoint_chunk(KEY, "job-1", 3, 0, 1, sealed)


def test_fingerprints_are_keyed_and_bound_to_job_and_version():
    digest = hashlib.sha256(b"model").digest()
    fingerprint = model_fingerprint(KEY, "job-1", 3, digest)
    assert len(fingerprint) == 32
    assert fingerprint == model_fingerprint(KEY, "job-1", 3, digest)
    others = {
        model_fingerprint(OTHER_KEY, "job-1", 3, digest),
        model_fingerprint(KEY, "job-2", 3, digest),
        model_fingerprint(KEY, "job-1", 4, digest),
        model_fingerprint(KEY, "job-1", 3, hashlib.sha256(b"other").digest()),
        digest,
    }
    assert len(others | {fingerprint}) == 6
    with pytest.raises(ValueError, match="expected 32 bytes, got 3"):
        model_fingerprint(KEY, "job-1", 3, b"abc")


def test_derivation_is_pinned_so_that_old_checkpoints_stay_readable():
    # HKDF-SHA256, no salt, info = length-prefixed label and job: made once with this code, kept for ever.
    assert (
        model_fingerprint(KEY, "job-1", 3, bytes(32)).hex()
        == "1abd8ba9aea4df14d83a6ae526d0c8fd60089345c3e018659c2c970262aeb2a9"
    )
    sealed = bytes.fromhex(
        "01a4e5aecbb0efab7a037c80caca4d1ea9a6cf598506ed7c2421c8961e32d26f0c083a62167cc0af092a07087eddddd740f54f6e70"
    )
    assert open_checkpoint_chunk(KEY, "job-1", 2, 0, 1, sealed) == b"a checkpoint of long ago"


def test_a_group_key_file_reads_back_and_shows_nothing():
    key = GroupKey.generate()
    assert GroupKey.from_bytes(key.to_bytes()) == key
    assert GroupKey.generate() != key
    assert repr(key) == str(key) == "GroupKey(hidden)"


@given(position=st.integers(0, 200), flip=st.integers(1, 255))
def test_an_altered_or_cut_group_key_file_is_refused(position, flip):
    data = bytearray(KEY.to_bytes())
    position %= len(data)
    data[position] ^= flip
    with pytest.raises(TrustError):
        GroupKey.from_bytes(bytes(data))
    with pytest.raises(TrustError):
        GroupKey.from_bytes(KEY.to_bytes()[:position])


def test_a_group_key_has_32_bytes():
    with pytest.raises(TrustError, match="expected 32 bytes, got 31"):
        GroupKey(bytes(31))
