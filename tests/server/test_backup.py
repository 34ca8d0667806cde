"""A backup is whole and of one moment, is checked before it is restored, and cannot lead a job a second way unseen."""

import hashlib
import json
import shutil
import signal
import sqlite3
import tarfile

import pytest

from fedhe.errors import StateError
from fedhe.server import backup as backup_module
from fedhe.server.restore import check_folder
from fedhe.trust import audit_log
from fedhe.wire import admin


def backup(world, path):
    return json.loads(world.server.command("backup", str(path), "--json").stdout)


def until_round(world, job, number):
    """Has sites work until a round begins, of which none has done anything yet."""
    while True:
        for site in world.sites:
            if world.lead.show(job).job.round >= number:
                return
            site.work(job)


def set_back(world, path):
    """The server's disk is lost: its kit is installed again and the backup restored; then it starts."""
    world.server.end(signal.SIGKILL)
    kit = world.server.folder / "kit"
    for entry in world.server.folder.iterdir():
        if entry != kit:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    restored = json.loads(world.server.command("restore", str(path), "--json").stdout)
    world.server.start()
    return restored


def resume(world, job):
    return world.lead.call(world.lead.admin.ResumeJob, admin.JobRef(job_id=job))


def rewritten(source, target, change):
    """A copy of a backup whose members `change(name, data)` has changed; None leaves one out."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as new:
        for entry in old:
            data = change(entry.name, old.extractfile(entry).read())
            if data is not None:
                backup_module._add(new, entry.name, data)
    return target


def test_a_backup_of_a_running_server_restores_to_the_same_job_which_ends(world, tmp_path):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    first = world.sites[0]
    first.work(job)  # a complete upload, which its site will not send again
    path = tmp_path / "one.tar"
    made = backup(world, path)
    assert made["objects"] == 3  # the job, the first checkpoint, one upload
    checked = json.loads(world.server.command("verify", str(path), "--json").stdout)
    assert (checked["objects"], checked["bytes"]) == (made["objects"], made["bytes"])
    assert json.loads(world.server.command("verify", "--json").stdout)["objects"] == 3
    assert not list(world.server.folder.glob(".backup-*"))
    assert path.stat().st_mode & 0o777 == 0o600
    restored = set_back(world, path)
    assert restored["created_at"] == made["created_at"]
    assert "restored from a backup" in world.lead.show(job).job.pause_reason
    assert first.instruction(job).wait.paused
    resume(world, job)
    world.run(job)
    assert world.lead.phase(job) == "finished"
    assert world.lead.rounds(job)[-1].attempts == 1
    log = world.server.folder / "audit.log"
    assert audit_log.verify(log).torn_bytes == 0
    kinds = [line["kind"] for line in audit_log.read(log)]
    assert {"restored-from-backup", "job-finished"} <= set(kinds)
    assert kinds.count("job-submitted") == 1


def test_an_old_backup_pauses_a_job_whose_sites_are_further_and_it_does_not_go_on(world, tmp_path):
    job = world.submit(rounds=4, checkpoint_every=1)
    until_round(world, job, 3)
    world.run(job, {"train"})
    backup(world, tmp_path / "old.tar")
    until_round(world, job, 4)
    world.run(job, {"train"})
    assert [site.version[job] for site in world.sites] == [3, 3, 3]
    set_back(world, tmp_path / "old.tar")
    ahead, *others = world.sites
    assert ahead.instruction(job).wait.paused
    with pytest.raises(StateError, match="hospitalA holds version 3 of the model, this server knows 2"):
        resume(world, job)
    assert {site.site: site.model_version for site in world.lead.show(job).sites}["hospitalA"] == 3
    for site in others:  # nobody else leads it on either
        assert site.instruction(job).wait.paused
    # giving up what that site has is a decision that somebody makes and the log keeps
    for site in world.sites:
        world.lead.call(world.lead.admin.SetSite, admin.SetSiteRequest(name=site.name, enabled=False))
    resume(world, job)


def test_a_site_that_is_ahead_stops_a_job_that_was_resumed_before_it_was_seen(world, tmp_path):
    job = world.submit(rounds=3, min_sites=2)
    world.run(job, {"train"})
    backup(world, tmp_path / "old.tar")
    until_round(world, job, 2)
    set_back(world, tmp_path / "old.tar")
    behind, _, ahead = world.sites
    behind.version[job] = 0
    assert behind.instruction(job).wait.paused
    resume(world, job)
    assert behind.instruction(job).WhichOneof("work") == "train"
    ahead.version[job] = 1
    assert ahead.instruction(job).wait.paused
    assert behind.instruction(job).wait.paused
    assert "hospitalC holds version 1 of the model, this server knows 0" in world.lead.show(job).job.pause_reason


def test_restore_needs_a_folder_with_nothing_but_the_kit_and_a_stopped_server(world, tmp_path):
    job = world.submit(start=False)
    path = tmp_path / "one.tar"
    backup(world, path)
    refused = world.server.command("restore", str(path), check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (6, 1)
    assert "a server runs already" in refused.stderr
    world.server.end()
    refused = world.server.command("restore", str(path), check=False)
    assert refused.returncode == 6
    assert "already has server.db, blobs, audit.log" in refused.stderr
    assert (world.server.folder / "server.db").exists()
    world.server.start()
    assert world.lead.phase(job) == "submitted"


def test_a_backup_never_overwrites_and_leaves_nothing_half_made(world, tmp_path):
    path = tmp_path / "one.tar"
    path.write_text("dear")
    refused = world.server.command("backup", str(path), check=False)
    assert refused.returncode == 6
    assert "exists already" in refused.stderr
    assert path.read_text() == "dear"
    missing = world.server.command("backup", str(tmp_path / "no" / "one.tar"), check=False)
    assert missing.returncode == 2
    assert [entry.name for entry in tmp_path.iterdir() if "tar" in entry.name] == ["one.tar"]


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name, data: flip(data) if name.startswith("blobs/") else data, "SHA-256"),
        (lambda name, data: None if "/checkpoint/" in name else data, "expected chunks 0 to"),
        (lambda name, data: flip(data) if name == "server.db" else data, "not the one in manifest.json"),
        (lambda name, data: data.replace(b'"kind":"job-', b'"kind":"jib-') if name == "audit.log" else data, "altered"),
        (
            lambda name, data: data.replace(b'"format": 1', b'"format": 9') if name == "manifest.json" else data,
            "format 1",
        ),
        (lambda name, data: None if name == "audit.log" else data, "expected audit.log"),
    ],
)
def test_a_damaged_backup_is_told_by_verify_and_not_restored(module_world, tmp_path, change, told):
    world = module_world
    world.run(world.submit(rounds=1), {"train"})
    world.server.command("backup", str(tmp_path / "good.tar"))
    bad = rewritten(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    for command in ("verify", "restore"):
        home = tmp_path / "fresh"
        if not home.exists():
            (home / "server").mkdir(parents=True, mode=0o700)
            home.chmod(0o700)
            shutil.copytree(world.server.folder / "kit", home / "server" / "kit")
        from_home = world.server.home
        world.server.home = home
        try:
            refused = world.server.command(command, str(bad), check=False)
        finally:
            world.server.home = from_home
        assert refused.returncode in {3, 4}, refused.stderr
        assert told in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert not (home / "server" / "server.db").exists()
        assert not (home / "server" / "blobs").exists()


def test_a_backup_is_not_restored_beside_a_postgresql(world, tmp_path):
    backup(world, tmp_path / "whole.tar")
    world.server.end(signal.SIGTERM)
    (world.server.folder / "database.url").write_text("postgresql://fedhe:secret@localhost/fedhe")
    (world.server.folder / "database.url").chmod(0o600)
    done = world.server.command("restore", str(tmp_path / "whole.tar"), check=False)
    assert done.returncode == 6
    assert "keeps its jobs in PostgreSQL" in done.stderr
    (world.server.folder / "database.url").unlink()


def test_a_server_on_postgresql_says_how_it_is_backed_up(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHE_DATABASE_URL", "postgresql://fedhe:secret@localhost/fedhe")
    for command in (
        lambda: backup_module.make_backup(tmp_path, tmp_path / "backup.tar", lambda: 0.0),
        lambda: check_folder(tmp_path),
    ):
        with pytest.raises(StateError, match="keeps its jobs in PostgreSQL") as caught:
            command()
        assert "pg_dump" in caught.value.hint
    assert not (tmp_path / "backup.tar").exists()


def test_a_backup_that_was_cut_short_is_told(world, tmp_path):
    world.run(world.submit(rounds=1), {"train"})
    backup(world, tmp_path / "one.tar")
    data = (tmp_path / "one.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    assert world.server.command("verify", str(tmp_path / "cut.tar"), check=False).returncode == 4
    (tmp_path / "none.tar").write_bytes(b"no archive at all")
    assert world.server.command("verify", str(tmp_path / "none.tar"), check=False).returncode == 4
    assert world.server.command("verify", str(tmp_path / "missing.tar"), check=False).returncode == 2


def test_verify_of_a_server_tells_a_lost_and_a_changed_chunk(world, tmp_path):
    job = world.submit(rounds=1)
    world.run(job, {"train"})
    chunk = next((world.server.folder / "blobs" / job / "checkpoint").rglob("0000*"))
    data = chunk.read_bytes()
    chunk.write_bytes(flip(data))
    told = world.server.command("verify", check=False)
    assert told.returncode == 7
    assert "SHA-256" in told.stderr
    refused = world.server.command("backup", str(tmp_path / "bad.tar"), check=False)
    assert refused.returncode == 7
    assert list(tmp_path.glob("*.tar*")) == []
    chunk.unlink()
    assert "expected chunks 0 to" in world.server.command("verify", check=False).stderr
    chunk.write_bytes(data)
    world.server.command("verify")
    log = world.server.folder / "audit.log"
    log.rename(tmp_path / "audit.log")
    refused = world.server.command("verify", check=False)
    (tmp_path / "audit.log").rename(log)
    assert refused.returncode == 3
    assert "expected the audit log beside the database, found none" in refused.stderr


def test_an_object_that_is_dropped_while_the_backup_begins_is_no_part_of_it(world, tmp_path, monkeypatch):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    world.sites[0].work(job)
    copied = []
    copy_database = backup_module._copy_database

    def copy_then_drop(folder, staging):
        rows = copy_database(folder, staging)
        if not copied:
            copied.append(rows)
            world.run(job)  # the round ends, and the server drops the upload
        return rows

    monkeypatch.setattr(backup_module, "_copy_database", copy_then_drop)
    backup(world, tmp_path / "one.tar")
    world.server.command("verify", str(tmp_path / "one.tar"))
    assert any(row.kind == "update" for row in copied[0])
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert not any("/update/" in name for name in archive.getnames())


def test_a_backup_of_another_project_is_refused(world, tmp_path):
    path = tmp_path / "one.tar"
    backup(world, path)
    with tarfile.open(path) as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())
    manifest["key_id"] = "00" * 16
    other = rewritten(
        path,
        tmp_path / "other.tar",
        lambda name, data: json.dumps(manifest).encode() if name == "manifest.json" else data,
    )
    world.server.end()
    for name in ("server.db", "audit.log"):
        (world.server.folder / name).unlink()
    shutil.rmtree(world.server.folder / "blobs")
    refused = world.server.command("restore", str(other), check=False)
    assert refused.returncode == 6
    assert "expected a backup of the project with key" in refused.stderr
    assert not (world.server.folder / "server.db").exists()
    world.server.command("restore", str(path))
    connection = sqlite3.connect(world.server.folder / "server.db")
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_an_audit_line_that_the_log_has_already_is_not_written_again(world, tmp_path):
    world.submit(start=False)
    backup(world, tmp_path / "one.tar")
    with tarfile.open(tmp_path / "one.tar") as archive:
        manifest = json.loads(archive.extractfile("manifest.json").read())
        (tmp_path / "copy.db").write_bytes(archive.extractfile("server.db").read())
    connection = sqlite3.connect(tmp_path / "copy.db")  # as copied between a line's decision and its delivery
    connection.execute("insert into audit_outbox (sequence, time, kind, fields) values (1, 0, 'job-submitted', '{}')")
    connection.commit()
    connection.close()
    database = (tmp_path / "copy.db").read_bytes()
    manifest["database_digest"] = hashlib.sha256(database).hexdigest()
    instead = {"manifest.json": json.dumps(manifest).encode(), "server.db": database}
    changed = rewritten(tmp_path / "one.tar", tmp_path / "two.tar", instead.get)
    set_back(world, changed)
    kinds = [kind for kind, _ in world.audit()]
    assert kinds.count("job-submitted") == 1
    assert kinds[-1] == "server-started"
