"""Job folders as archives: deterministic to pack, and safe to read whoever packed them."""

import os
import stat
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhe.config import job_archive
from fedhe.config.job_archive import MAX_JOB_BYTES, pack_job, read_job, unpack_job
from fedhe.errors import ConfigError, RemoteProtocolError, ResourceError

FED = ("config/config_fed.yml", b"rounds: 3\n")


def test_packing_and_reading_give_the_files_back(job_folder):
    job = read_job(pack_job(job_folder))
    assert job.name == "brain"
    assert job.federation.rounds == 3
    assert job.files["BYOC/net.py"] == b"print('hello')\n"
    assert len(job.digest) == 32


def test_the_same_files_give_the_same_bytes_wherever_and_whenever_they_were_written(job_folder, tmp_path):
    archive = pack_job(job_folder)
    other = tmp_path / "elsewhere" / "brain"
    for path in sorted(job_folder.rglob("*"), reverse=True):
        if path.is_file():
            copy = other / path.relative_to(job_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o755)
            os.utime(copy, (1, 1))
    assert pack_job(other) == archive
    (other / "BYOC/net.py").write_text("print('other')\n")
    assert read_job(pack_job(other)).digest != read_job(archive).digest


def test_caches_and_hidden_files_stay_out(job_folder):
    before = pack_job(job_folder)
    for name in ("__pycache__/x.txt", ".git/config", ".env", "BYOC/net.pyc", "BYOC/__pycache__/net.py"):
        path = job_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert pack_job(job_folder) == before


def test_what_local_training_wrote_stays_out_but_a_package_called_models_goes_along(job_folder):
    (job_folder / "models").mkdir()
    (job_folder / "models" / "model.pt").write_bytes(b"weights of this site's data")
    (job_folder / "BYOC" / "models").mkdir(parents=True, exist_ok=True)
    (job_folder / "BYOC" / "models" / "net.py").write_text("x = 1\n")
    files = read_job(pack_job(job_folder)).files
    assert "models/model.pt" not in files
    assert "BYOC/models/net.py" in files


def test_a_folder_that_is_not_there_or_no_job_is_told_in_one_line(tmp_path, job_folder):
    with pytest.raises(ConfigError, match="no such folder"):
        pack_job(tmp_path / "none")
    (job_folder / "config/config_fed.yml").unlink()
    with pytest.raises(ConfigError, match=r"config_fed\.yml is missing"):
        pack_job(job_folder)


def test_a_typo_in_the_federation_file_names_file_line_and_nearest_key(job_folder):
    path = job_folder / "config/config_fed.yml"
    path.write_text("rounds: 3\nmin_site: 2\n")
    with pytest.raises(ConfigError, match=r"config_fed\.yml:2: unknown key 'min_site'") as caught:
        pack_job(job_folder)
    assert caught.value.hint == "did you mean 'min_sites'?"
    path.write_bytes(b"rounds: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        pack_job(job_folder)


def test_links_and_special_files_are_refused(job_folder):
    link = job_folder / "data"
    link.symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="expected a regular file, got a link"):
        pack_job(job_folder)
    link.unlink()
    os.mkfifo(job_folder / "pipe")
    with pytest.raises(ConfigError, match="expected a regular file"):
        pack_job(job_folder)


def test_a_link_to_a_folder_is_refused_too(job_folder, tmp_path):
    (job_folder / "outside").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ConfigError, match="expected a regular file, got a link"):
        pack_job(job_folder)


def test_a_job_over_the_limits_is_refused_with_the_limit(job_folder, monkeypatch):
    monkeypatch.setattr(job_archive, "MAX_JOB_BYTES", 1000)
    (job_folder / "resources").mkdir()
    (job_folder / "resources/start.pt").write_bytes(bytes(1001))
    with pytest.raises(ConfigError, match=r"1000 bytes, at resources/start\.pt"):
        pack_job(job_folder)
    (job_folder / "resources/start.pt").write_bytes(bytes(900))
    with pytest.raises(ConfigError, match="at most 1000 are sent"):
        pack_job(job_folder)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "a/../b", "a//b", "./a", "C:\\x", "a\\b", ".hidden", "a/.b", "a/", "x" * 201, "a\nb"],
)
def test_paths_that_lead_elsewhere_are_refused(zipped, name):
    with pytest.raises(RemoteProtocolError, match="job archive"):
        read_job(zipped(FED, (name, b"x")))


def test_names_that_clash_are_refused(zipped):
    with pytest.raises(RemoteProtocolError, match="there twice"):
        read_job(zipped(FED, ("a/Net.py", b"1"), ("a/net.py", b"2")))
    with pytest.raises(RemoteProtocolError, match="'a' is a file and a folder"):
        read_job(zipped(FED, ("a", b"1"), ("a/b", b"2")))


def test_links_in_an_archive_are_refused(zipped):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(RemoteProtocolError, match="got a link"):
        read_job(zipped(FED, (link, b"/etc/passwd")))


def test_compressed_entries_are_refused_so_nothing_can_swell(zipped):
    bomb = zipped(FED, ("zeros", bytes(1_000_000)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RemoteProtocolError, match="not to be compressed"):
        read_job(bomb)


def test_too_many_entries_are_refused_before_they_are_listed(zipped, monkeypatch):
    many = zipped(FED, *((str(number), b"") for number in range(2100)))
    with pytest.raises(RemoteProtocolError, match="at most 2000 files, got 2101"):
        read_job(many)
    monkeypatch.setattr(job_archive, "_MAX_DIRECTORY_BYTES", 1000)
    with pytest.raises(RemoteProtocolError, match="table of contents of at most 1000 bytes"):
        read_job(many)


def test_an_archive_over_the_limit_is_refused_unread():
    with pytest.raises(RemoteProtocolError, match=f"at most {MAX_JOB_BYTES} bytes"):
        read_job(bytes(MAX_JOB_BYTES + 1))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rounds: 0\n",
        b"rounds: [\n",
        b"\xff",
        b'rounds: 3\nname: "a\\u0007"\n',
        b"rounds: " + b"[" * 60_000,
        b"rounds: 3\n" + b"#" * 70_000,
        b"a: &a [1]\n" + b"".join(b"x%d: &b%d [*a, *a]\n" % (i, i) for i in range(30)),
    ],
    ids=["empty", "no rounds", "bad syntax", "not UTF-8", "unprintable name", "deep", "long", "aliases"],
)
def test_a_wrong_federation_file_is_the_senders_fault(zipped, content):
    with pytest.raises(RemoteProtocolError, match="job archive"):
        read_job(zipped((FED[0], content)))


def test_an_archive_without_a_federation_file_is_refused(zipped):
    with pytest.raises(RemoteProtocolError, match=r"config_fed\.yml is missing"):
        read_job(zipped(("a", b"1")))


@given(cut=st.integers(0, 600), flips=st.lists(st.tuples(st.integers(0, 599), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_archives_are_read_or_refused_with_one_error(zipped, cut, flips):
    data = bytearray(zipped(FED, ("BYOC/net.py", b"pass\n"), ("config/config_train.json", b"{}")))
    for position, value in flips:
        data[position % len(data)] = value
    try:
        job = read_job(bytes(data[: len(data) - cut] if cut < 300 else data))
    except RemoteProtocolError:
        return
    assert job.federation.rounds >= 1
    assert all(not name.startswith("/") and ".." not in name for name in job.files)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_error(data):
    with pytest.raises(RemoteProtocolError):
        read_job(data)


def test_a_table_of_contents_for_large_archives_is_refused(zipped):
    plain = zipped(FED)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    with pytest.raises(RemoteProtocolError, match="plain zip archive"):
        read_job(plain[:-22] + locator + plain[-22:])


def test_unpacking_replaces_the_folder_and_leaves_nothing_beside_it(job_folder, tmp_path):
    target = tmp_path / "site" / "job"
    unpack_job(pack_job(job_folder), target)
    assert (target / "BYOC/net.py").read_text() == "print('hello')\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    (target / "stale").write_text("x")
    (job_folder / "BYOC/net.py").write_text("pass\n")
    unpack_job(pack_job(job_folder), target)
    assert sorted(path.name for path in target.iterdir()) == ["BYOC", "config"]
    assert (target / "BYOC/net.py").read_text() == "pass\n"
    assert [path.name for path in target.parent.iterdir()] == ["job"]


def test_a_disk_that_fails_leaves_the_old_folder(job_folder, tmp_path, monkeypatch):
    target = tmp_path / "site" / "job"
    archive = pack_job(job_folder)
    unpack_job(archive, target)
    (target / "mark").write_text("old")

    def full(_path, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_archive, "_write_durably", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        unpack_job(archive, target)
    assert (target / "mark").read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["job"]
