"""Who is late with an upload costs an attempt, and who joins in the middle of a round takes part in the next one."""

import time

import numpy as np

from fedhe.wire import admin
from fedhe.wire.messages import parse_ready


def test_an_upload_that_misses_its_deadline_makes_a_new_attempt_with_a_new_context(shared_world):
    world = shared_world
    first, second, late = world.sites
    job = world.submit(rounds=1, min_sites=2, upload_deadline="1s")
    world.run(job, {"upload"})
    before = first.instruction(job).upload.roster
    late.put(late.update_ref(before), 0, late.encrypted(before, 0))
    for site in (first, second):
        site.work(job)
    while world.lead.show(job).attempt == 1:
        time.sleep(0.05)
    world.lead.call(world.lead.admin.ChangeJob, admin.ChangeJobRequest(job_id=job, upload_deadline=600.0))
    assert "no upload from hospitalC before the deadline" in world.lead.show(job).job.message
    assert not (world.server.folder / "blobs" / job / "update").exists(), "what was sent for the old context is dropped"
    world.run(job, {"upload"}, sites=[first, second])
    after = first.instruction(job).upload.roster
    assert (after.attempt, [one.site for one in _statements(after)]) == (2, ["hospitalA", "hospitalB"])
    assert after.context != before.context
    world.run(job)
    wanted = world.expected_sum([first, second], 1)
    for site in world.sites:  # the late one has the same model
        assert all(np.array_equal(*pair) for pair in zip(site.sums[1], wanted, strict=True))


def _statements(roster):
    return [parse_ready(one.body) for one in roster.ready]


def test_a_site_that_is_added_in_the_middle_of_a_round_takes_part_in_the_next(world, make_project):
    job = world.submit(rounds=2, min_sites=3)
    world.run(job, {"upload"})
    signed = world.provisioned.change(make_project(sites=("hospitalA", "hospitalB", "hospitalC", "hospitalD")))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    fourth = world.caller("hospitalD")
    fourth.join()
    assert fourth.work(job) == "load_checkpoint"
    assert fourth.work(job) == "wait"
    world.run(job, sites=[*world.sites, fourth])
    took_part = [[part.site for part in round_.contributions] for round_ in world.lead.rounds(job)]
    assert took_part == [["hospitalA", "hospitalB", "hospitalC"], ["hospitalA", "hospitalB", "hospitalC", "hospitalD"]]
