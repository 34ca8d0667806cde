"""Files that survive a power cut, and the spool of chunks."""

import errno
import hashlib

import pytest

from fedhe.client.durable import disk_errors, make_folder, remove_leftovers, write_durably
from fedhe.client.spool import Spool
from fedhe.errors import ResourceError


def test_a_file_is_replaced_whole_and_private(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedhe.trust.private_files.os.fsync", full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        write_durably(path, b"new")
    assert caught.value.hint is not None
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_agent_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".state.json.abc.tmp").write_bytes(b"half")
    (tmp_path / ".mmar.abc.new.tmp" / "config").mkdir(parents=True)  # it was killed while it unpacked a job
    (tmp_path / ".mmar.abc.new.tmp" / "config" / "config_train.json").write_bytes(b"half")
    (tmp_path / "state.json").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_folders_are_private(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_error_of_the_disk_is_one_line(tmp_path):
    with pytest.raises(ResourceError, match="No such file"), disk_errors(tmp_path / "x"):
        (tmp_path / "x").read_bytes()


def test_the_spool_gives_back_what_it_was_given(tmp_path):
    spool = Spool(tmp_path / "spool")
    assert spool.get(3) is None
    assert spool.held() == set()
    spool.put(3, b"data")
    spool.put(12, b"more", hashlib.sha256(b"more").digest())
    (spool.folder / ".000004.chunk.abc.tmp").write_bytes(b"half")
    assert spool.held() == {3, 12}
    assert spool.get(3) == b"data"
    assert spool.get(12) == b"more"
    spool.clear()
    assert spool.get(3) is None


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:0], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_chunk_that_a_power_cut_damaged_counts_as_absent(tmp_path, damage):
    spool = Spool(tmp_path / "spool")
    spool.put(0, b"data")
    file = next((tmp_path / "spool").iterdir())
    file.write_bytes(damage(file.read_bytes()))
    assert spool.get(0) is None


def test_a_folder_that_was_made_is_on_the_disk_with_those_above_it(tmp_path, monkeypatch):
    """Else a power cut could take a job's folder with the READY that was signed in it."""
    flushed = []
    monkeypatch.setattr("fedhe.client.durable.fsync_folder", flushed.append)
    make_folder(tmp_path / "jobs" / "job-1")
    assert flushed == [tmp_path, tmp_path / "jobs"]
    make_folder(tmp_path / "jobs" / "job-1")
    assert len(flushed) == 2, "a folder that is there costs nothing"
