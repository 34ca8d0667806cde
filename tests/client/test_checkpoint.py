"""The sealed checkpoint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.client import checkpoint
from fedhe.client.checkpoint import CheckpointSealer, open_checkpoint, plain_checkpoint
from fedhe.errors import RemoteProtocolError, TrustError
from fedhe.model.layout import Layout, TensorSpec
from fedhe.trust.sealed import GroupKey, seal_checkpoint_chunk

KEY = GroupKey(bytes(range(32)))
LAYOUT = Layout(
    (
        TensorSpec(name="conv.weight", shape=(70_000, 8), dtype="float32", statistic=False, field_bits=16),
        TensorSpec(name="scalar", shape=(), dtype="float16", statistic=False, field_bits=16),
        TensorSpec(name="empty", shape=(0,), dtype="float32", statistic=False, field_bits=16),
        TensorSpec(name="bn.running_mean", shape=(5,), dtype="float32", statistic=True, field_bits=24),
    )
)
VECTOR = np.random.default_rng(1).normal(size=LAYOUT.n_values).astype(np.float32)


def sealed(version=3, layout=LAYOUT, vector=VECTOR):
    sealer = CheckpointSealer(KEY, "job", version, plain_checkpoint(layout, vector))
    return [sealer.seal(index) for index in range(sealer.chunks)]


def test_a_checkpoint_comes_back_bit_for_bit():
    chunks = sealed()
    assert len(chunks) == 3
    layout, vector = open_checkpoint(KEY, "job", 3, chunks, len(chunks))
    assert layout == LAYOUT
    assert vector.dtype == np.float32
    assert vector.tobytes() == VECTOR.tobytes()


def test_no_weight_and_no_name_can_be_read_in_what_leaves_the_site():
    data = b"".join(sealed())
    assert b"conv.weight" not in data
    assert VECTOR[:4].tobytes() not in data


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: [c[1], c[0], c[2]], id="swapped"),
        pytest.param(lambda c: [c[0], c[1], c[1]], id="doubled"),
        pytest.param(lambda c: [c[0], c[1], c[2][:-1]], id="cut"),
        pytest.param(lambda c: [bytes([c[0][0]]) + bytes([c[0][1] ^ 1]) + c[0][2:], *c[1:]], id="flipped"),
        pytest.param(lambda c: [b"", *c[1:]], id="empty"),
        pytest.param(lambda c: [*sealed(version=2)[:1], *c[1:]], id="of another version"),
    ],
)
def test_an_altered_checkpoint_does_not_open(change):
    chunks = change(sealed())
    with pytest.raises(TrustError):
        open_checkpoint(KEY, "job", 3, chunks, len(chunks))


def test_dropped_chunks_another_key_and_another_job_do_not_open():
    chunks = sealed()
    with pytest.raises(TrustError):
        open_checkpoint(KEY, "job", 3, chunks[:2], 2)
    with pytest.raises(TrustError):
        open_checkpoint(GroupKey.generate(), "job", 3, chunks, 3)
    with pytest.raises(TrustError):
        open_checkpoint(KEY, "another job", 3, chunks, 3)


@given(st.binary(max_size=300))
def test_any_bytes_sealed_by_a_key_holder_are_a_checkpoint_or_one_documented_error(data):
    chunk = seal_checkpoint_chunk(KEY, "job", 0, 0, 1, data)
    with pytest.raises(RemoteProtocolError):
        open_checkpoint(KEY, "job", 0, [chunk], 1)


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_changed_head_is_a_checkpoint_or_one_documented_error(place, value):
    plain = bytearray(plain_checkpoint(Layout(LAYOUT.tensors[1:2]), VECTOR[:1]))
    plain[min(place, len(plain) - 1)] = value
    try:
        layout, vector = open_checkpoint(KEY, "job", 0, [seal_checkpoint_chunk(KEY, "job", 0, 0, 1, bytes(plain))], 1)
    except RemoteProtocolError:
        return
    assert vector.shape == (layout.n_values,)


def test_weights_that_are_not_finite_are_refused():
    vector = VECTOR.copy()
    vector[7] = np.nan
    with pytest.raises(RemoteProtocolError, match="finite"):
        open_checkpoint(KEY, "job", 3, sealed(vector=vector), 3)


def test_a_chunk_fits_into_a_message():
    from fedhe.wire.limits import MAX_CHUNK_BYTES

    assert max(map(len, sealed())) <= MAX_CHUNK_BYTES
    assert checkpoint.PIECE_BYTES < MAX_CHUNK_BYTES
