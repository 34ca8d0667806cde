"""Three sites, an admin and a real server process: a job from submission to its end."""

import numpy as np

from fedhe.trust import audit_log


def test_a_job_runs_to_its_end_and_the_sums_are_exact(shared_world):
    job = shared_world.submit(rounds=2)
    shared_world.run(job)
    assert shared_world.lead.phase(job) == "finished"
    for round_ in (1, 2):
        wanted = shared_world.expected_sum(shared_world.sites, round_)
        for site in shared_world.sites:
            assert all(np.array_equal(*pair) for pair in zip(site.sums[round_], wanted, strict=True))
    rounds = shared_world.lead.rounds(job)
    assert [(one.round, one.attempts) for one in rounds] == [(1, 1), (2, 1)]
    for one in rounds:
        _check_round(shared_world, job, one)
    detail = shared_world.lead.show(job)
    assert list(detail.checkpoints) == [0, 2]
    assert detail.job.ended_at > detail.job.submitted_at
    assert [site.model_version for site in detail.sites] == [2, 2, 2]
    kinds = [kind for kind, _ in shared_world.audit(job)]
    for kind in ("job-submitted", "job-started", "roster-sealed", "sum-published", "job-finished"):
        assert kind in kinds
    assert audit_log.verify(shared_world.server.folder / "audit.log").lines == len(shared_world.audit())


def _check_round(world, job, one):
    assert [part.site for part in one.contributions] == ["hospitalA", "hospitalB", "hospitalC"]
    assert one.started_at <= min(part.ready_at for part in one.contributions) <= one.ended_at
    assert len({part.model_fingerprint for part in one.contributions}) == 1
    sent = sum(len(world.sites[0].spool[job, one.round, 1, chunk]) for chunk in range(2))
    for part in one.contributions:
        assert part.bytes_up == sent
        assert part.bytes_down == one.sum_bytes > sent
        assert part.ready.body
        assert (part.applied_note == b"sealed metrics") == (one.round == 2)


def test_uploads_and_sums_are_dropped_when_nobody_needs_them_and_checkpoints_stay(shared_world):
    job = shared_world.submit(rounds=2, checkpoint_every=1)
    shared_world.run(job)
    blobs = shared_world.server.folder / "blobs" / job
    assert not (blobs / "update").exists()
    assert sorted(path.name for path in (blobs / "sum").iterdir()) == ["2-1"]
    assert sorted(path.name for path in (blobs / "checkpoint").iterdir()) == ["0", "1", "2"]


def test_a_site_that_comes_late_loads_the_newest_checkpoint_and_takes_part(shared_world):
    first, second, late = shared_world.sites
    job = shared_world.submit(rounds=2, min_sites=2, checkpoint_every=1, train_deadline="1s", apply_deadline="1s")
    shared_world.run(job, {"stop", "train"}, sites=[first, second])
    while shared_world.lead.show(job).job.model_version < 1:
        shared_world.run(job, {"stop", "wait"}, sites=[first, second])
    assert late.work(job) == "load_checkpoint"
    assert late.version[job] >= 0
    shared_world.run(job)
    assert shared_world.lead.phase(job) == "finished"


def test_two_jobs_run_side_by_side(shared_world):
    jobs = [shared_world.submit(rounds=1), shared_world.submit(rounds=1)]
    assert len(set(jobs)) == 2
    for job in jobs:
        shared_world.run(job)
    assert [shared_world.lead.phase(job) for job in jobs] == ["finished", "finished"]
