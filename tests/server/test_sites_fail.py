"""Sites that cannot, will not, or cheat."""

import contextlib
import time

import numpy as np
import pytest

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.wire import admin, federation


def test_a_copied_contribution_is_found_out_and_its_sender_is_left_out(shared_world):
    first, cheat, third = shared_world.sites
    job = shared_world.submit(rounds=1, min_sites=2)
    shared_world.run(job, {"upload"})
    roster = cheat.instruction(job).upload.roster
    for chunk in range(2):
        cheat.spool[job, 1, 1, chunk] = first.encrypted(roster, chunk)
    for site in (first, cheat):
        site.work(job)
    # The sum is tried as soon as the last chunk is there, so that the last site may find its attempt given up.
    with contextlib.suppress(StateError):
        third.work(job)
    while first.instruction(job).id != "train/1/2":
        time.sleep(0.02)
    shared_world.run(job, sites=[first, third])
    wanted = shared_world.expected_sum([first, third], 1)
    assert all(np.array_equal(*pair) for pair in zip(first.sums[1], wanted, strict=True))
    said = [fields["message"] for kind, fields in shared_world.audit(job) if kind == "site-gone"]
    assert said == [f"hospitalB is out: its upload cannot be added: {said[0].partition('added: ')[2]}"]
    assert {site.site: site.state for site in shared_world.lead.show(job).sites}["hospitalB"] == "disabled"


def test_a_site_whose_training_fails_is_left_out_and_admins_see_its_last_lines(shared_world):
    first, broken, third = shared_world.sites
    job = shared_world.submit(rounds=1, min_sites=2)
    shared_world.run(job, {"train"})
    broken.problem(
        job,
        federation.PROBLEM_TRAINING_FAILED,
        "no images in \x1b[31mDATA_ROOT",
        round_=1,
        attempt=1,
        lines=["Traceback", "ValueError: no images"],
    )
    shared_world.run(job, sites=[first, third])
    assert shared_world.lead.phase(job) == "finished"
    lines = list(
        shared_world.lead.admin.ReadLog(admin.ReadLogRequest(source="hospitalB", job_id=job, last=10), timeout=30)
    )
    assert [line.message for line in lines] == [
        "Traceback",
        "ValueError: no images",
        "training failed: no images in  [31mDATA_ROOT",
    ]
    assert {line.source for line in lines} == {"hospitalB"}


def test_models_that_differ_between_sites_end_the_job_and_name_both(shared_world):
    job = shared_world.submit(rounds=1)
    shared_world.run(job, {"train"})
    first, second, _ = shared_world.sites
    first.work(job)
    second.call(second.federation.Ready, second.ready(job, 1, 1, layout_digest=bytes(32)))
    message = shared_world.lead.show(job).job.message
    assert shared_world.lead.phase(job) == "failed"
    assert "hospitalA" in message
    assert "hospitalB" in message
    assert second.instruction(job).WhichOneof("work") == "stop"


def test_fingerprints_that_differ_after_a_round_end_the_job(shared_world):
    job = shared_world.submit(rounds=1)
    shared_world.run(job, {"apply"})
    first, second, _ = shared_world.sites
    first.applied(job, 1)
    second.applied(job, 1, fingerprint=bytes(32))
    assert shared_world.lead.phase(job) == "failed"
    assert "differs between sites" in shared_world.lead.show(job).job.message


def test_a_site_that_lost_its_update_costs_one_attempt(shared_world):
    first, forgetful, _ = shared_world.sites
    job = shared_world.submit(rounds=1, min_sites=2)
    shared_world.run(job, {"upload"})
    first.work(job)
    forgetful.problem(job, federation.PROBLEM_UPDATE_LOST, "disk replaced", round_=1, attempt=1)
    assert shared_world.lead.show(job).attempt == 2
    shared_world.run(job)
    (round_,) = shared_world.lead.rounds(job)
    contributed = [part.site for part in round_.contributions]
    assert {"hospitalA", "hospitalC"} <= set(contributed)
    sent = {part.site: part.bytes_up for part in round_.contributions}
    assert sent["hospitalA"] == 2 * sent["hospitalC"]  # what was sent in vain counts too


def test_a_checkpoint_by_a_site_that_is_not_on_duty_is_refused(shared_world):
    job = shared_world.submit(rounds=1)
    first, second, _ = shared_world.sites
    assert first.instruction(job).WhichOneof("work") == "seed"
    with pytest.raises(StateError, match="hospitalB was asked for"):
        second.put(second.checkpoint_ref(job, 0), 0, b"sealed by the wrong one")
    with pytest.raises(StateError, match="hospitalA was asked for 'seed"):
        first.put(first.checkpoint_ref(job, 3), 0, b"another version")
    first.put(first.checkpoint_ref(job, 0), 0, b"first")
    with pytest.raises(RemoteProtocolError, match="expected the bytes stored before"):
        first.put(first.checkpoint_ref(job, 0), 0, b"second")


def test_an_upload_may_be_declared_complete_twice(shared_world):
    job = shared_world.submit(rounds=1)
    shared_world.run(job, {"upload"})
    roster = shared_world.sites[0].instruction(job).upload.roster
    pieces = {site.name: [site.encrypted(roster, chunk) for chunk in range(2)] for site in shared_world.sites}
    for site in shared_world.sites:
        site.upload(site.update_ref(roster), pieces[site.name])
        site.finish(site.update_ref(roster), pieces[site.name])
    shared_world.lead.wait_for(job, "apply")
    first = shared_world.sites[0]
    first.finish(first.update_ref(roster), pieces[first.name])
    with pytest.raises(RemoteProtocolError, match="the site says"):
        first.finish(first.update_ref(roster), pieces["hospitalB"])
    shared_world.run(job)
    assert shared_world.lead.rounds(job)[0].contributions[0].bytes_up == sum(map(len, pieces[first.name]))


def test_a_site_that_refused_a_job_takes_part_again_once_it_is_at_ease_with_it(shared_world):
    _, other, _ = shared_world.sites
    job = shared_world.submit(rounds=1, min_sites=2)
    shared_world.run(job, {"train"})
    other.problem(job, federation.PROBLEM_REJECTED, "not approved here")
    refused = other.instruction(job)
    assert "declined" in refused.wait.reason
    failed = other.request(job, working_on=refused.id)
    failed.jobs[0].activity = federation.ACTIVITY_FAILED
    other.call(other.federation.Poll, failed)
    assert other.instruction(job).WhichOneof("work") == "wait"
    at_ease = other.request(job, working_on=refused.id)
    at_ease.jobs[0].activity = federation.ACTIVITY_IDLE
    other.call(other.federation.Poll, at_ease)
    assert other.instruction(job).WhichOneof("work") == "train"
    shared_world.run(job)
