"""What admins see and do."""

import hashlib
import threading
import time

import pytest

from fedhe.config.job_archive import read_job
from fedhe.errors import NotFoundError, RemoteProtocolError, StateError
from fedhe.trust.signatures import JOB_LABEL, verify
from fedhe.wire import admin, federation
from fedhe.wire.messages import parse_signed_job


def test_status_tells_of_sites_jobs_disk_and_memory(world):
    world.submit(rounds=1)
    assert len(world.sites) == 3
    status = world.lead.call(world.lead.admin.GetStatus, admin.GetStatusRequest())
    assert (status.project, status.roster_version) == ("brain", 1)
    assert (status.sites_online, status.sites_known, status.jobs_running) == (3, 3, 1)
    assert status.key_id == world.provisioned.state.key_id
    assert status.started_at <= status.server_time
    assert status.disk_free_bytes > 0
    assert status.disk_used_bytes > 0
    assert 10**7 < status.peak_rss_bytes < 10**10


def test_a_submitted_job_waits_and_can_be_fetched_by_sites_with_its_signature(shared_world):
    job = shared_world.submit(rounds=1, start=False)
    site = shared_world.sites[0]
    assert site.instruction(job).wait.reason == "the job is not started"
    signed = parse_signed_job(b"".join(site.fetch(federation.ObjectRef(job_id=job, kind=federation.OBJECT_KIND_JOB))))
    verify(JOB_LABEL, signed.archive, signed.signature, signed.certificate)
    read = read_job(signed.archive)
    assert read.name == "demo-job"
    detail = shared_world.lead.show(job)
    assert (detail.job.phase, detail.job.submitted_by, detail.job.rounds) == ("submitted", "lead@x", 1)
    assert detail.archive_digest == read.digest.hex() == hashlib.sha256(signed.archive).hexdigest()
    shared_world.lead.call(shared_world.lead.admin.StartJob, admin.JobRef(job_id=job))
    shared_world.lead.call(shared_world.lead.admin.StartJob, admin.JobRef(job_id=job))  # again is fine
    shared_world.run(job)


def test_a_polling_site_is_woken_by_the_start_of_a_job(world):
    job = world.submit(rounds=1, start=False)
    site = world.sites[0]
    told = site.poll(job).instructions[0].id
    replies = []
    waiting = threading.Thread(target=lambda: replies.append(site.poll(job, wait=30.0, working_on=told)))
    waiting.start()
    time.sleep(0.3)
    assert not replies
    world.lead.call(world.lead.admin.StartJob, admin.JobRef(job_id=job))
    waiting.join()
    assert [one.job_id for one in replies[0].instructions] == [job]


def test_jobs_are_aborted_and_deleted_and_nothing_is_left_of_them(shared_world):
    job = shared_world.submit(rounds=1)
    shared_world.run(job, {"upload"})
    lead, site = shared_world.lead, shared_world.sites[0]
    with pytest.raises(StateError, match="is in phase upload"):
        lead.call(lead.admin.DeleteJob, admin.JobRef(job_id=job))
    lead.call(lead.admin.AbortJob, admin.AbortJobRequest(job_id=job, reason="wrong\x1b[2J data"))
    assert lead.show(job).job.message == "aborted: wrong [2J data (by lead@x)"
    stop = site.instruction(job)
    assert (stop.id, stop.stop.finished) == ("stop", False)
    with pytest.raises(StateError, match="is aborted"):
        lead.call(lead.admin.StartJob, admin.JobRef(job_id=job))
    lead.call(lead.admin.DeleteJob, admin.JobRef(job_id=job))
    assert site.instruction(job) is None
    assert not (shared_world.server.folder / "blobs" / job).exists()
    for method in (lead.admin.ShowJob, lead.admin.DeleteJob, lead.admin.ListRounds, lead.admin.StartJob):
        with pytest.raises(NotFoundError, match="no job"):
            lead.call(method, admin.JobRef(job_id=job))
    assert {"job-abort-asked", "job-aborted", "job-deleted"} <= {kind for kind, _ in shared_world.audit(job)}


def test_a_disabled_site_is_left_out_until_it_is_enabled_again(world):
    job = world.submit(rounds=1, min_sites=2)
    world.run(job, {"train"})
    lead, out = world.lead, world.sites[2]
    with pytest.raises(NotFoundError, match="no site 'nobody'"):
        lead.call(lead.admin.SetSite, admin.SetSiteRequest(name="nobody", enabled=False))
    lead.call(lead.admin.SetSite, admin.SetSiteRequest(name="hospitalC", enabled=False))
    assert out.work(job) == "wait"
    listed = {site.name: site for site in lead.call(lead.admin.ListSites, admin.ListSitesRequest()).sites}
    assert (listed["hospitalC"].enabled, listed["hospitalA"].enabled) == (False, True)
    assert listed["hospitalC"].online
    assert listed["hospitalC"].software_version == "test"
    assert listed["hospitalC"].certificate_expires > time.time()
    world.server.restart()
    world.run(job, sites=world.sites[:2])
    assert [part.site for part in lead.rounds(job)[0].contributions] == ["hospitalA", "hospitalB"]
    later = world.submit(rounds=1, min_sites=2)
    assert out.work(later) == "wait"
    lead.call(lead.admin.SetSite, admin.SetSiteRequest(name="hospitalB", enabled=False))
    never = world.submit(rounds=1, min_sites=2, start=False)
    with pytest.raises(StateError, match="1 sites can take part, at least 2"):
        lead.call(lead.admin.StartJob, admin.JobRef(job_id=never))
    assert lead.phase(never) == "submitted"
    for name in ("hospitalB", "hospitalC"):
        lead.call(lead.admin.SetSite, admin.SetSiteRequest(name=name, enabled=True))
    world.run(later)
    assert len(lead.rounds(later)[0].contributions) == 3


def test_the_version_that_a_site_says_cannot_steer_an_admins_terminal(world):
    site = world.sites[0]
    site.join(software_version="1\x1b[2J\n2")
    listed = {one.name: one for one in world.lead.call(world.lead.admin.ListSites, admin.ListSitesRequest()).sites}
    assert listed["hospitalA"].software_version == "1 [2J 2"
    assert "\x1b" not in world.server.stderr()


def test_watching_a_job_shows_its_phases_and_ends_with_it(shared_world):
    job = shared_world.submit(rounds=1)
    seen = []
    stream = shared_world.observer.admin.WatchJob(admin.JobRef(job_id=job), timeout=120)
    watching = threading.Thread(target=lambda: seen.extend(detail.job.phase for detail in stream))
    watching.start()
    site = shared_world.sites[0]
    progress = federation.JobProgress(
        job_id=job, model_version=-1, working_on=site.instruction(job).id, fraction=0.5, detail="making the model"
    )
    site.call(site.federation.Poll, federation.PollRequest(jobs=[progress]))
    shown = {one.site: one for one in shared_world.lead.show(job).sites}["hospitalA"]
    assert (shown.state, shown.fraction, shown.detail) == ("seeding", 0.5, "making the model")
    shared_world.run(job)
    watching.join(60)
    assert not watching.is_alive()
    assert (seen[0], seen[-1]) == ("seeding", "finished")
    answer = shared_world.lead.admin.WatchJob(admin.JobRef(job_id="none"), timeout=30)
    with pytest.raises(NotFoundError):
        shared_world.lead.call(lambda _request, **_: list(answer), None)


def test_logs_of_server_and_sites_are_read_and_followed(shared_world):
    job = shared_world.submit(rounds=1)
    site, lead = shared_world.sites[0], shared_world.lead
    line = federation.LogLine(time=time.time(), level="warning", source="forged", job_id="forged", message="from here")
    site.call(site.federation.PushLog, federation.PushLogRequest(job_id=job, lines=[line]))
    stream = lead.admin.ReadLog(admin.ReadLogRequest(follow=True, last=100), timeout=60)
    first = next(one for one in stream if one.message == "from here")
    assert (first.source, first.job_id, first.level) == ("hospitalA", job, "warning")
    site.call(
        site.federation.PushLog, federation.PushLogRequest(job_id=job, lines=[federation.LogLine(message="and then")])
    )
    assert next(one for one in stream if one.message == "and then").source == "hospitalA"
    stream.cancel()
    server = list(lead.admin.ReadLog(admin.ReadLogRequest(source="server", last=100), timeout=30))
    assert {one.source for one in server} == {"server"}
    assert any("submitted by lead@x" in one.message for one in server)
    for request, error in (
        (admin.ReadLogRequest(source="../kit/key.pem", last=1), NotFoundError),
        (admin.ReadLogRequest(job_id="../x", last=1), RemoteProtocolError),
        (admin.ReadLogRequest(last=10_001), RemoteProtocolError),
    ):
        answer = lead.admin.ReadLog(request, timeout=30)
        with pytest.raises(error):
            lead.call(lambda _request, answer=answer, **_: list(answer), None)


def test_health_is_told_to_participants(shared_world):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    site = shared_world.sites[0]
    stub = health_pb2_grpc.HealthStub(site.channel)
    for service in ("", "fedhe.v1.Federation", "fedhe.v1.Admin"):
        reply = site.call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
