"""Private files: whole or not at all, and nobody else's to read."""

import os
import resource
import stat

import pytest

from fedhe.errors import NotFoundError, ResourceError, TrustError
from fedhe.trust.private_files import check_private, make_private_folder, read_private, write_private


def test_a_file_is_written_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
        write_private(tmp_path / "a" / "b" / "key", b"secret")
    finally:
        os.umask(old)
    assert read_private(tmp_path / "a" / "b" / "key", 6) == b"secret"
    modes = [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in ("a", "a/b", "a/b/key")]
    assert modes == [0o700, 0o700, 0o600]
    check_private(tmp_path / "a" / "b")


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "key"
    write_private(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="key: File too large") as caught:
            write_private(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_missing_too_large_or_of_the_wrong_kind_is_one_line(tmp_path):
    write_private(tmp_path / "key", b"12345")
    with pytest.raises(NotFoundError, match="no such file"):
        read_private(tmp_path / "nothing", 10)
    with pytest.raises(TrustError, match="expected at most 4 bytes"):
        read_private(tmp_path / "key", 4)
    with pytest.raises(ResourceError, match="expected a folder, got a file"):
        make_private_folder(tmp_path / "key")
    with pytest.raises(ResourceError, match="Not a directory"):
        make_private_folder(tmp_path / "key" / "below")
    (tmp_path / "kit").mkdir(mode=0o700)
    with pytest.raises(ResourceError, match="Is a directory"):
        write_private(tmp_path / "kit", b"")
