"""Admins pause, resume and change running jobs, and drain the server; all of it survives a restart."""

import signal
import time

import pytest

from fedhe.errors import RemoteProtocolError, StateError, TrustError
from fedhe.server import records
from fedhe.server.database import sqlite_url
from fedhe.server.store import open_store
from fedhe.wire import admin
from fedhe.wire.chunking import bitmap_indices


def pause(world, job, reason="maintenance", *, after_round=False, who=None):
    who = who or world.lead
    return who.call(who.admin.PauseJob, admin.PauseJobRequest(job_id=job, reason=reason, after_round=after_round))


def resume(world, job):
    return world.lead.call(world.lead.admin.ResumeJob, admin.JobRef(job_id=job))


def change(world, job, **wanted):
    return world.lead.call(world.lead.admin.ChangeJob, admin.ChangeJobRequest(job_id=job, **wanted))


def drain(world, *, on=True):
    world.lead.call(world.lead.admin.SetDrain, admin.SetDrainRequest(on=on))
    return status(world)


def status(world):
    return world.lead.call(world.lead.admin.GetStatus, admin.GetStatusRequest())


def kinds(world, job):
    return [kind for kind, _ in world.audit(job)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_paused_job_asks_for_nothing_and_goes_on_after_a_restart(world, number):
    job = world.submit(rounds=1)
    world.run(job, {"train"})
    pause(world, job)
    told = world.sites[0].instruction(job).wait
    assert told.paused
    assert "maintenance (by lead@x)" in told.reason
    world.server.restart(number)
    assert world.sites[1].instruction(job).wait.paused
    detail = world.lead.show(job)
    assert detail.job.paused_at > 0
    assert detail.job.pause_reason == "maintenance (by lead@x)"
    assert detail.deadline == 0
    assert world.server.command("status", "--json").stdout.count('"paused_at": 1') == 1
    resume(world, job)
    assert world.lead.show(job).deadline > time.time() + 3600
    world.run(job)
    assert world.lead.phase(job) == "finished"
    assert {"job-pause-asked", "job-paused", "job-resume-asked", "job-continued"} <= set(kinds(world, job))


def test_deadlines_do_not_run_while_it_is_paused(world):
    job = world.submit(rounds=1, train_deadline="2s", min_sites=2)
    world.run(job, {"train"})
    pause(world, job)
    for site in world.sites[:2]:  # what was under way is taken
        site.call(site.federation.Ready, site.ready(job, 1, 1))
    time.sleep(4)
    assert world.lead.phase(job) == "train"
    resume(world, job)
    assert world.lead.wait_for(job, "upload") == "upload"


def test_an_upload_under_way_may_finish_and_nothing_of_it_is_lost(world):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    first, second, _ = world.sites
    roster = first.instruction(job).upload.roster
    first.put(first.update_ref(roster), 0, first.encrypted(roster, 0))
    pause(world, job)
    second.upload(second.update_ref(roster), [second.encrypted(roster, index) for index in range(2)])
    first.put(first.update_ref(roster), 1, first.encrypted(roster, 1))
    stored = first.call(first.federation.UploadStatus, first.update_ref(roster))
    assert bitmap_indices(stored.received, 2) == [0, 1]
    assert first.instruction(job).wait.paused
    resume(world, job)
    world.run(job)
    assert world.lead.rounds(job)[-1].attempts == 1
    assert world.lead.phase(job) == "finished"


def test_what_cannot_be_paused_resumed_or_changed_says_why(world):
    job = world.submit(rounds=2, start=False)
    with pytest.raises(StateError, match="is submitted; only a running job can be paused"):
        pause(world, job)
    world.lead.call(world.lead.admin.StartJob, admin.JobRef(job_id=job))
    with pytest.raises(StateError, match="is not paused"):
        resume(world, job)
    pause(world, job)
    with pytest.raises(StateError, match="is paused already: maintenance"):
        pause(world, job)
    with pytest.raises(StateError, match="expected 1 to 2, as the signed job says, got 3"):
        change(world, job, rounds=3)
    with pytest.raises(RemoteProtocolError, match="expected rounds or a deadline"):
        change(world, job)
    for bad in (0.0, float("nan"), 1e12):
        with pytest.raises(RemoteProtocolError, match="train_deadline: expected 1 to"):
            change(world, job, train_deadline=bad)
    with pytest.raises(TrustError):
        pause(world, job, who=world.observer)


def test_a_job_ends_after_the_rounds_that_were_left_to_it(world):
    job = world.submit(rounds=3, train_deadline="1h")
    world.run(job, {"train"})
    before = world.lead.show(job).deadline
    change(world, job, rounds=1, train_deadline=7200.0)
    detail = world.lead.show(job)
    assert (detail.job.rounds, detail.train_deadline) == (1, 7200.0)
    assert detail.deadline == pytest.approx(before + 3600.0)
    world.server.restart(signal.SIGKILL)
    assert world.lead.show(job).train_deadline == 7200.0
    world.run(job)
    assert world.lead.show(job).job.message == "finished after 1 rounds"
    said = dict(world.audit(job))["job-changed"]
    assert said["message"] == "changed: rounds 3 to 1, train_deadline 3600 to 7200"
    with pytest.raises(StateError, match="is finished, so nothing of it can be changed"):
        change(world, job, rounds=1)


def test_a_drained_server_ends_its_rounds_and_begins_none(world):
    job = world.submit(rounds=2)
    world.run(job, {"train"})
    state = drain(world)
    assert (state.draining, state.jobs_busy) == (True, 1)
    later = world.submit(rounds=1, start=False)
    with pytest.raises(StateError, match="drained for maintenance, so no job starts"):
        world.lead.call(world.lead.admin.StartJob, admin.JobRef(job_id=later))
    while status(world).jobs_busy:
        for site in world.sites:
            site.work(job)
    detail = world.lead.show(job)
    assert (detail.job.phase, detail.job.round, detail.job.model_version) == ("train", 2, 1)
    world.server.restart(signal.SIGKILL)
    assert status(world).draining
    assert world.sites[0].instruction(job).wait.paused
    with pytest.raises(StateError, match="drained for maintenance, so no job goes on"):
        resume(world, job)
    assert not drain(world, on=False).draining
    world.run(job)
    assert world.lead.phase(job) == "finished"


def test_a_job_that_no_site_has_begun_does_not_hold_a_drain_up(world):
    job = world.submit(rounds=1)
    assert drain(world).jobs_busy == 0
    assert world.sites[0].instruction(job).wait.paused
    drain(world, on=False)
    world.run(job)
    assert world.lead.phase(job) == "finished"


def test_ending_a_drain_leaves_alone_what_an_admin_paused(world):
    job = world.submit(rounds=2)
    world.run(job, {"train"})
    pause(world, job)
    drain(world)
    drain(world, on=False)
    assert world.lead.show(job).job.paused_at > 0


@pytest.mark.parametrize("on", [True, False])
def test_a_server_that_died_while_it_told_the_jobs_to_drain_or_go_on_tells_the_rest_after_the_restart(world, on):
    job = world.submit(rounds=2)
    world.run(job, {"train"})
    if not on:
        drain(world)
    world.server.end(signal.SIGKILL)
    store = open_store(sqlite_url(world.server.folder / "server.db"))
    with store.write() as connection:  # as far as it came: what was asked for, and not yet the jobs
        records.set_setting(connection, "drain", "true" if on else "false")
    store.close()
    world.server.start()
    assert world.lead.show(job).job.pause_due is on
