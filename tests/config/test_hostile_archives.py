"""Archives made to harm, and folders that would make archives no site can take."""

import struct
import zipfile
from zlib import crc32

import pytest

from fedhe.config.job_archive import MAX_JOB_BYTES, MAX_JOB_FILES, pack_job, read_job, unpack_job
from fedhe.errors import ConfigError, RemoteProtocolError

FED = ("config/config_fed.yml", b"rounds: 2\n")
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14


def rewritten(archive, name, *, method=None, flags=None, size=None, crc=None):
    """The archive with fields of one entry changed, in both of the places where a zip file has them."""
    data = bytearray(archive)
    for magic, fields in (
        (b"PK\x03\x04", {"flags": 6, "method": 8, "crc": 14, "size": 22, "name": 30}),
        (b"PK\x01\x02", {"flags": 8, "method": 10, "crc": 16, "size": 24, "name": 46}),
    ):
        place = data.index(magic)
        while data[place + fields["name"] :][: len(name)] != name.encode():
            place = data.index(magic, place + 1)
        for value, field, form in (
            (flags, "flags", "<H"),
            (method, "method", "<H"),
            (crc, "crc", "<L"),
            (size, "size", "<L"),
        ):
            if value is not None:
                struct.pack_into(form, data, place + fields[field], value)
    return bytes(data)


def test_an_archive_cut_at_any_length_is_refused(zipped):
    archive = zipped(FED, ("BYOC/net.py", b"pass\n"))
    assert read_job(archive).files["BYOC/net.py"] == b"pass\n"
    for length in range(len(archive)):
        with pytest.raises(RemoteProtocolError, match="job archive"):
            read_job(archive[:length])


def test_an_archive_with_anything_behind_it_is_refused(zipped):
    with pytest.raises(RemoteProtocolError, match="without a comment"):
        read_job(zipped(FED) + b"\0")


def test_one_changed_byte_of_a_file_is_found_by_its_checksum(zipped):
    archive = zipped(FED, ("BYOC/net.py", b"pass\n"))
    with pytest.raises(RemoteProtocolError, match="CRC"):
        read_job(archive.replace(b"pass\n", b"eval\n"))
    with pytest.raises(RemoteProtocolError, match="CRC"):
        read_job(rewritten(archive, "BYOC/net.py", crc=0))


def test_an_encrypted_file_is_refused(zipped):
    with pytest.raises(RemoteProtocolError, match="encrypted"):
        read_job(rewritten(zipped(FED, ("secret", b"x" * 20)), "secret", flags=1))


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA, 99])
def test_a_file_that_claims_to_be_compressed_is_refused_before_it_is_read(zipped, method):
    with pytest.raises(RemoteProtocolError, match=r"not to be compressed|not a readable"):
        read_job(rewritten(zipped(FED, ("data", b"\x05\x00" * 50)), "data", method=method))


@pytest.mark.parametrize("size", [0, 1, 2**31])
def test_a_file_that_lies_about_its_size_is_refused(zipped, size):
    with pytest.raises(RemoteProtocolError, match="job archive"):
        read_job(rewritten(zipped(FED, ("data", b"0123456789")), "data", size=size))


def test_a_real_bomb_is_refused(zipped):
    bomb = zipped(FED, ("zeros", bytes(MAX_JOB_BYTES + 1)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < MAX_JOB_BYTES // 100
    with pytest.raises(RemoteProtocolError, match="job archive"):
        read_job(bomb)


def nested(files):
    """An archive in which each file's content is the whole of the next one, header and all."""
    content, entries = b"", [(FED[0].encode(), FED[1])]
    local = struct.Struct("<4s5H3L2H")
    for number in reversed(range(files)):
        name = b"f%04d" % number
        entries.append((name, content))
        content = (
            local.pack(b"PK\3\4", 20, 0, 0, 0, 33, crc32(content), len(content), len(content), 5, 0) + name + content
        )
    (name, text), *_ = entries
    head = local.pack(b"PK\3\4", 20, 0, 0, 0, 33, crc32(text), len(text), len(text), len(name), 0) + name + text
    data, directory = head + content, b""
    for name, text in entries:
        size, place = len(text), len(data) - len(text) - 35 if text != FED[1] else 0
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, crc32(text), size, size, len(name), *[0] * 5, place
        )
        directory += name
    count = len(entries)
    return data + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(data), 0)


def test_files_that_lie_in_one_another_are_refused_before_they_are_read():
    assert read_job(nested(3)).files["f0002"] == b""
    bomb = nested(MAX_JOB_FILES - 1)
    assert len(bomb) < 200_000
    with pytest.raises(RemoteProtocolError, match="expected files of less than the archive's"):
        read_job(bomb)


def test_as_many_files_as_are_allowed_are_read_and_one_more_is_not(zipped):
    most = [(f"f/{number}", b"") for number in range(MAX_JOB_FILES)]
    assert len(read_job(zipped(FED, (".fedhe-name", b"job"), *most[1:])).files) == MAX_JOB_FILES
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_JOB_FILES} files"):
        read_job(zipped(FED, (".fedhe-name", b"job"), *most, ("more", b"")))


def test_a_file_given_twice_is_refused(zipped):
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(FED, ("a", b"1"), ("a", b"2"))
    with pytest.raises(RemoteProtocolError, match="'a': there twice"):
        read_job(twice)


def test_names_too_long_for_a_disk_are_refused_when_read_and_when_packed(zipped, job_folder, tmp_path):
    name = "é" * 130  # 130 characters, 260 bytes
    with pytest.raises(RemoteProtocolError, match="at most 240 bytes"):
        unpack_job(zipped(FED, (name, b"x")), tmp_path / "target")
    assert not (tmp_path / "target").exists()
    (job_folder / ("é" * 122)).write_text("x")
    with pytest.raises(ConfigError, match="at most 240 bytes"):
        pack_job(job_folder)


def test_files_that_differ_in_capitals_only_are_told_when_packed(job_folder):
    (job_folder / "BYOC" / "Net.py").write_text("pass\n")
    if len(list((job_folder / "BYOC").iterdir())) == 1:
        pytest.skip("this file system does not tell capitals apart")
    with pytest.raises(ConfigError, match="in capitals only"):
        pack_job(job_folder)


@pytest.mark.parametrize("name", ["x" * 64, "bell\a", "m\udcf6del"], ids=["long", "control", "not UTF-8"])
def test_a_folder_whose_name_cannot_be_shown_needs_a_name_in_the_file(job_folder, name):
    moved = job_folder.rename(job_folder.with_name(name))
    with pytest.raises(ConfigError, match="expected a folder's name") as caught:
        pack_job(moved)
    assert "set name in config/config_fed.yml" in caught.value.hint
    (moved / "config" / "config_fed.yml").write_text("rounds: 2\nname: model\n")
    assert read_job(pack_job(moved)).name == "model"


def test_whatever_is_packed_can_be_read(job_folder):
    (job_folder / "config" / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (job_folder / "leer").mkdir()
    (job_folder / "empty.txt").touch()
    (job_folder / "日本.txt").write_text("日本", encoding="utf-8")
    job = read_job(pack_job(job_folder))
    assert job.files["config/weights.bin"] == bytes(range(256)) * 10
    assert job.files["empty.txt"] == b""
    assert "日本.txt" in job.files
