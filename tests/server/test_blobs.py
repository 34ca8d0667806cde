"""Chunk files are there completely or not at all."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhe.errors import NotFoundError, RemoteProtocolError, ResourceError, StateError
from fedhe.server import blobs as blob_store
from fedhe.server.blobs import BlobStore
from fedhe.server.durable import TEMPORARY

KEY = "job-1/update/1-1/hospitalA"


def sha(data):
    return hashlib.sha256(data).digest()


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@given(pieces=st.lists(st.binary(max_size=200), min_size=1, max_size=8), order=st.randoms())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_in_any_order_give_the_same_blob_after_a_restart_too(tmp_path, pieces, order):
    root = tmp_path / "blobs"
    shutil.rmtree(root, ignore_errors=True)
    first = BlobStore(root)
    places = list(range(len(pieces)))
    order.shuffle(places)
    for index in places:
        assert first.put(KEY, index, pieces[index])
    again = BlobStore(root)
    again.sweep()
    assert not again.put(KEY, 0, pieces[0])
    info = again.describe(KEY, len(pieces))
    assert info == first.describe(KEY, len(pieces))
    assert info.digest == sha(b"".join(sha(piece) for piece in pieces))
    assert [again.get(KEY, index)[0] for index in range(len(pieces))] == pieces


def test_other_content_for_a_stored_chunk_is_refused_with_both_digests(blobs):
    blobs.put(KEY, 3, b"first")
    with pytest.raises(
        RemoteProtocolError, match=f"expected .*{sha(b'first').hex()[:16]}.*got .*{sha(b'2nd').hex()[:16]}"
    ):
        blobs.put(KEY, 3, b"2nd")
    assert blobs.get(KEY, 3)[0] == b"first"


def test_asking_for_blobs_that_never_were_takes_no_memory(blobs):
    for number in range(100):
        assert blobs.chunks(f"job-1/update/{number}-1/hospitalA") == {}
    assert blobs._index == {}
    blobs.put(KEY, 0, b"x")
    assert list(blobs._index) == [KEY]


def test_missing_and_surplus_chunks_are_named(blobs):
    for index in (0, 2, 5):
        blobs.put(KEY, index, b"x")
    with pytest.raises(StateError, match="missing 1, 3, 4"):
        blobs.describe(KEY, 6)
    blobs.put(KEY, 1, b"x")
    with pytest.raises(StateError, match="also stored 5"):
        blobs.describe(KEY, 3)


def test_what_a_crash_left_is_swept(blobs, tmp_path):
    blobs.put(KEY, 0, b"whole")
    folder = tmp_path / "blobs" / KEY
    (folder / f"{TEMPORARY}1-abc").write_bytes(b"half")
    half_removed = tmp_path / "blobs" / "job-1" / f"{TEMPORARY}abc"
    half_removed.mkdir()
    (half_removed / ("00000000-" + sha(b"x").hex())).write_bytes(b"x")
    again = BlobStore(tmp_path / "blobs")
    again.sweep()
    assert sorted(path.name for path in folder.iterdir()) == [".incomplete", f"00000000-{sha(b'whole').hex()}"]
    assert not half_removed.exists()


def test_what_a_power_cut_took_before_a_blob_was_complete_is_missing_afterwards(blobs, tmp_path):
    """Chunks wait for the disk once, when their blob is complete; what was not on it may be empty or cut."""
    for index, data in enumerate((b"whole", b"emptied", b"cut short")):
        blobs.put(KEY, index, data)
    folder = tmp_path / "blobs" / KEY
    for index, left in ((1, b""), (2, b"cut")):
        blobs.locate(KEY, index)[0].write_bytes(left)
    again = BlobStore(tmp_path / "blobs")
    again.sweep()
    assert set(again.chunks(KEY)) == {0}
    with pytest.raises(StateError, match="missing 1, 2"):
        again.complete(KEY, 3)
    assert (folder / ".incomplete").exists()
    again.put(KEY, 1, b"emptied")
    again.put(KEY, 2, b"cut short")
    assert again.complete(KEY, 3) == again.describe(KEY, 3)
    assert not (folder / ".incomplete").exists()


def test_a_blob_is_on_the_disk_when_it_is_complete(blobs, monkeypatch):
    synced = []
    for name in ("fsync_file", "fsync_folder"):
        monkeypatch.setattr(blob_store, name, synced.append)
    for index in (0, 1):
        blobs.put(KEY, index, bytes([index]))
    folder = blobs.locate(KEY, 0)[0].parent
    synced.clear()
    blobs.complete(KEY, 2)
    assert synced[:3] == [blobs.locate(KEY, 0)[0], blobs.locate(KEY, 1)[0], folder]
    synced.clear()
    blobs.complete(KEY, 2)
    assert synced == []


def test_all_folders_of_a_complete_blob_are_on_the_disk_whoever_made_them(blobs, tmp_path, monkeypatch):
    # What a thread sees that comes while another has made the folders, and has not yet waited for the disk.
    monkeypatch.setattr(blob_store, "make_durable_folder", lambda folder: folder.mkdir(parents=True, exist_ok=True))
    blobs.put("job/update/1-1/A", 0, b"chunk")
    flushed = []
    monkeypatch.setattr(blob_store, "fsync_folder", flushed.append)
    blobs.complete("job/update/1-1/A", 1)
    root = blobs._root
    assert flushed == [root / "job/update/1-1/A", root / "job/update/1-1", root / "job/update", root / "job", root]


def test_damage_after_a_blob_was_complete_is_told_and_not_swept(blobs, tmp_path):
    """Nobody would send it again: an operator has to know."""
    blobs.put(KEY, 0, b"good")
    blobs.complete(KEY, 1)
    blobs.locate(KEY, 0)[0].write_bytes(b"gooD")
    again = BlobStore(tmp_path / "blobs")
    again.sweep()
    with pytest.raises(ResourceError, match="expected content with SHA-256"):
        again.get(KEY, 0)


def test_dropping_takes_everything_below_and_leaves_neighbours(blobs):
    blobs.put("job-1/sum/1-1", 0, b"a")
    blobs.put("job-1/sum/1-2", 0, b"b")
    blobs.put("job-10/sum/1-1", 0, b"c")
    blobs.drop("job-1")
    assert not blobs.chunks("job-1/sum/1-1")
    assert not blobs.chunks("job-1/sum/1-2")
    assert blobs.get("job-10/sum/1-1", 0)[0] == b"c"
    blobs.drop("job-1")
    assert blobs.folders("") == ["job-10"]


def test_chunks_of_late_are_read_from_memory_and_no_more_than_a_few(blobs, monkeypatch):
    monkeypatch.setattr(blob_store, "_RECENT_BYTES", 10)
    for index in range(3):
        blobs.put(KEY, index, b"%d2345" % index)
        blobs.locate(KEY, index)[0].unlink()
    assert blobs.get(KEY, 2) == (b"22345", sha(b"22345"))
    assert blobs.get(KEY, 1) == (b"12345", sha(b"12345"))
    with pytest.raises(NotFoundError, match="dropped meanwhile"):
        blobs.get(KEY, 0)


@pytest.mark.parametrize("key", ["../x", "/etc", "a//b", "a/../b", "", ".hidden", "a/.b", "a b", "a\0b"])
def test_keys_cannot_leave_the_folder(blobs, key):
    with pytest.raises(RemoteProtocolError):
        blobs.put(key, 0, b"x")


def test_many_threads_store_the_same_chunk_once(blobs):
    stored = []
    threads = [threading.Thread(target=lambda: stored.append(blobs.put(KEY, 0, b"same"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == [False] * 7 + [True]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path):
    code = (
        "import resource, sys, pathlib; from fedhe.server.blobs import BlobStore\n"
        "from fedhe.errors import ResourceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "blobs = BlobStore(pathlib.Path(sys.argv[1]))\n"
        "blobs.put('job/sum/1-1', 0, bytes(1000))\n"
        "try: blobs.put('job/sum/1-1', 1, bytes(1001))\n"
        "except ResourceError as error: print(error.message)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "disk is full" in shown
    assert [name for _, _, names in os.walk(tmp_path) for name in sorted(names)] == [
        ".incomplete",
        f"00000000-{sha(bytes(1000)).hex()}",
    ]
