"""Vectors come back as they were written, the library reads them, and what was altered is noticed however late."""

import hashlib
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhe.client import vector_file
from fedhe.client.vector_file import VectorFiles
from fedhe.errors import StateError
from fedhe.model.layout import Layout, TensorSpec

LAYOUT = Layout(
    (
        TensorSpec("z.weight", (3, 5), "float32", False, 16),
        TensorSpec("empty", (0,), "float32", False, 16),
        TensorSpec("a.scalar", (), "float16", False, 16),
        TensorSpec("größe", (2,), "float32", True, 24),
    )
)


@pytest.fixture
def vector():
    return np.random.default_rng(0).normal(size=LAYOUT.n_values).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model-1.safetensors"


@pytest.fixture
def hashed(monkeypatch):
    """How often a vector was hashed."""
    times = []
    digest = vector_file.vector_digest
    monkeypatch.setattr(vector_file, "vector_digest", lambda vector: times.append(1) or digest(vector))
    return times


def test_a_vector_comes_back_and_the_library_reads_it_by_name(path, vector):
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    assert digest == hashlib.sha256(vector.tobytes()).digest()
    assert np.array_equal(files.read(path, LAYOUT, digest), vector)
    named = load_file(path)
    assert {name: tensor.shape for name, tensor in named.items()} == {t.name: t.shape for t in LAYOUT.tensors}
    for tensor, part in zip(LAYOUT.tensors, LAYOUT.slices(), strict=True):
        assert np.array_equal(named[tensor.name].reshape(-1), vector[part])


def test_what_was_read_is_the_readers_own(path, vector):
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    files.read(path, LAYOUT, digest)[:] = 0
    assert np.array_equal(files.read(path, LAYOUT, digest), vector)


def test_a_file_that_did_not_change_is_hashed_once(path, vector, hashed):
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    for _ in range(3):
        files.read(path, LAYOUT, digest)
        files.check(path, LAYOUT, digest)
    assert len(hashed) == 1
    again = VectorFiles()
    for _ in range(3):
        again.check(path, LAYOUT, digest)
        again.read(path, LAYOUT, digest)
    assert len(hashed) == 2


def test_a_file_that_was_altered_after_it_was_read_is_noticed(path, vector):
    """Even with its times set back, as job code that runs under the same account could do."""
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    files.read(path, LAYOUT, digest)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x7f")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for look in (files.check, files.read):
        with pytest.raises(StateError, match="expected digest"):
            look(path, LAYOUT, digest)


def test_another_digest_is_never_taken_for_one_that_was_checked(path, vector):
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    files.read(path, LAYOUT, digest)
    for look in (files.check, files.read):
        with pytest.raises(StateError, match="expected digest"):
            look(path, LAYOUT, bytes(32))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_that_was_cut_is_refused(path, vector, length):
    files = VectorFiles()
    digest = files.write(path, vector, LAYOUT)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StateError, match="expected the tensors of this job's model"):
        files.read(path, LAYOUT, digest)


def test_the_file_of_another_model_or_none_is_refused(path, vector):
    files = VectorFiles()
    for look in (files.check, files.read):
        with pytest.raises(StateError, match="cannot be read"):
            look(path, LAYOUT, bytes(32))
    digest = files.write(path, vector, LAYOUT)
    other = Layout((TensorSpec("z.weight", (18,), "float32", False, 16),))
    with pytest.raises(StateError, match="expected the tensors of this job's model"):
        files.read(path, other, digest)
