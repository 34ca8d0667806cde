"""What a lost site, a late message, a restart or a change of mind leads to."""

from dataclasses import replace

import pytest

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds.directive import Work, instruction_for, work_for
from fedhe.rounds.effects import Announce
from fedhe.rounds.events import (
    CheckpointFinished,
    Problem,
    Resumed,
    SiteApplied,
    SiteBack,
    SiteGone,
    SiteProblem,
    SiteReady,
    SiteSeen,
    Start,
    SumFinished,
    Tick,
    UploadFinished,
)
from fedhe.rounds.machine import RESUME_GRACE_SECONDS, step
from fedhe.rounds.model_versions import SEEDING_GRACE_SECONDS
from fedhe.rounds.state import CheckpointDuty, JobState, Phase

PRINT = {version: bytes([version]) * 32 for version in range(10)}
OTHER = b"x" * 32


def after(state, *events):
    for event in events:
        state, _ = step(state, event)
    return state


def asked(state, site):
    return instruction_for(state, site).id


@pytest.fixture
def training(job):
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), CheckpointFinished("a", 0, 2.0))
    return after(state, *(SiteApplied(site, 0, PRINT[0], 3.0) for site in "abc"))


@pytest.fixture
def uploading(training, entry):
    return after(training, *(SiteReady(1, 1, entry(site), 4.0) for site in "abc"))


@pytest.fixture
def applying(uploading):
    state = after(uploading, *(UploadFinished(site, 1, 1, b"d", 5.0) for site in "abc"))
    return after(state, SumFinished(1, 1, b"sum", 6.0))


@pytest.fixture
def finished(job, entry):
    """A job of one round; c never said that it applied the sum."""
    state = JobState("job", replace(job.config, rounds=1))
    state = after(state, Start(0.0), SiteSeen("a", -1, False, 1.0), CheckpointFinished("a", 0, 2.0))
    state = after(state, *(SiteApplied(site, 0, PRINT[0], 3.0) for site in "abc"))
    state = after(state, *(SiteReady(1, 1, entry(site), 4.0) for site in "abc"))
    state = after(state, *(UploadFinished(site, 1, 1, b"d", 5.0) for site in "abc"), SumFinished(1, 1, b"s", 6.0))
    state = after(state, SiteApplied("a", 1, PRINT[1], 7.0), SiteApplied("b", 1, PRINT[1], 7.0), Tick(50.0))
    return after(state, CheckpointFinished("a", 1, 51.0))


# ---- seeding ----


@pytest.fixture
def seeded_by_b(job):
    """Site a began to seed and was too slow; b seeded."""
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), Tick(101.0), SiteSeen("b", -1, False, 102.0))
    assert state.seeder == "b"
    return after(state, CheckpointFinished("b", 0, 103.0), SiteApplied("b", 0, PRINT[0], 104.0))


def test_a_site_that_began_to_seed_loads_what_the_other_one_made(seeded_by_b, entry):
    state = after(seeded_by_b, SiteSeen("a", 0, False, 105.0))
    assert asked(state, "a") == "load/0"
    with pytest.raises(StateError, match="load the sealed checkpoint first"):
        step(state, SiteReady(1, 1, entry("a", fingerprint=OTHER), 106.0))
    with pytest.raises(StateError, match="a applied version 0: expected fingerprint 00000000"):
        step(state, SiteApplied("a", 0, OTHER, 106.0))
    state = after(state, SiteApplied("a", 0, PRINT[0], 107.0))
    assert asked(state, "a") == "train/1/1"


def test_what_it_made_does_not_count_before_the_seeder_has_said_its_fingerprint(job):
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), Tick(101.0), SiteSeen("b", -1, False, 102.0))
    with pytest.raises(StateError, match="expected 0 to -1"):
        step(state, SiteApplied("a", 0, OTHER, 103.0))
    with pytest.raises(StateError, match="expected version 0 of b"):
        step(state, CheckpointFinished("a", 0, 103.0))
    state = after(state, CheckpointFinished("b", 0, 104.0))
    with pytest.raises(StateError, match="that the seeder will say"):
        step(state, SiteApplied("a", 0, OTHER, 105.0))


def test_a_seeder_that_turns_out_to_wait_for_approval_is_passed_over_at_once(job):
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), SiteSeen("a", -1, True, 2.0))
    assert state.seeder is None
    assert after(state, SiteSeen("b", -1, False, 3.0)).seeder == "b"


def test_a_site_that_failed_to_seed_may_try_again_when_no_other_comes(job):
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0))
    state = after(state, SiteProblem("a", Problem.UPDATE_LOST, 0, 0, "spool lost", 2.0))
    assert after(state, SiteSeen("a", -1, False, 3.0)).seeder is None
    assert after(state, SiteSeen("a", -1, False, 2.0 + SEEDING_GRACE_SECONDS)).seeder == "a"


# ---- what sites say of themselves ----


def test_a_site_that_polls_with_the_new_version_before_it_said_so_goes_on_saying_so(applying):
    state = after(applying, SiteSeen("a", 1, False, 7.0))
    assert asked(state, "a") == "apply/1/1"
    assert asked(after(state, SiteApplied("a", 1, PRINT[1], 8.0)), "a") == "wait/apply/1"


def test_saying_again_that_a_version_is_applied_is_not_announced_again(applying):
    once = after(applying, SiteApplied("a", 1, PRINT[1], 7.0))
    assert step(once, SiteApplied("a", 1, PRINT[1], 8.0)) == (once, ())


def test_a_site_ahead_of_the_server_pauses_the_job_and_all_are_told_why(training):
    state = after(training, SiteSeen("b", 3, False, 4.0))
    for site in ("a", "b", "c"):
        directive = instruction_for(state, site)
        assert directive.work is Work.WAIT
        assert "b holds version 3 of the model, this server knows 0" in directive.reason
    assert work_for(state, "b").reason.startswith("this site holds version 3, the server knows 0")


def test_a_site_outside_the_job_is_not_heard(training):
    with pytest.raises(StateError, match="z applied version 0: the site has no part in job"):
        step(training, SiteApplied("z", 0, PRINT[0], 4.0))
    for event in (
        SiteSeen("z", 0, False, 4.0),
        SiteProblem("z", Problem.REJECTED, 0, 0, "no", 4.0),
        SiteGone("z", "x", 4.0),
    ):
        assert step(training, event) == (training, ())


def test_a_ready_from_another_model_than_the_applied_one_is_refused_even_as_the_first(training, entry):
    with pytest.raises(RemoteProtocolError, match="READY of b: expected the model of version 0 with fingerprint 0000"):
        step(training, SiteReady(1, 1, entry("b", fingerprint=OTHER), 4.0))


def test_a_site_that_declined_can_change_its_mind(training):
    state = after(training, SiteProblem("a", Problem.REJECTED, 0, 0, "not today", 4.0))
    assert asked(state, "a") == "wait/declined"
    assert asked(after(state, SiteSeen("a", 0, False, 5.0)), "a") == "wait/declined"
    assert asked(after(state, SiteSeen("a", 0, False, 5.0, willing=True)), "a") == "train/1/1"
    assert after(state, SiteProblem("a", Problem.WAITING_FOR_APPROVAL, 0, 0, "", 5.0)).declined == {}


# ---- rounds ----


def test_what_a_site_loses_after_its_upload_is_complete_does_not_matter(uploading):
    state = after(uploading, UploadFinished("b", 1, 1, b"d", 5.0))
    state, effects = step(state, SiteProblem("b", Problem.UPDATE_LOST, 1, 1, "disk", 6.0))
    assert (state.phase, state.attempt) == (Phase.UPLOAD, 1)
    assert [effect.kind for effect in effects] == ["site-problem"]


def test_a_problem_of_an_attempt_that_is_over_changes_nothing(uploading, entry):
    state = after(uploading, SiteProblem("b", Problem.UPDATE_LOST, 1, 1, "disk", 6.0))
    state = after(state, *(SiteReady(1, 2, entry(site, 1, 2), 7.0) for site in "ac"))
    assert step(state, SiteProblem("a", Problem.CHECK_FAILED, 1, 1, "roster", 8.0))[0] == state


def test_a_straggler_that_cannot_load_a_checkpoint_does_not_end_a_job_that_applies(applying):
    state = after(applying, SiteProblem("c", Problem.CHECK_FAILED, 0, 0, "checkpoint damaged", 7.0))
    assert state.phase is Phase.APPLY


def test_a_site_that_cannot_apply_for_now_is_not_awaited_and_may_come_later(applying):
    state = after(applying, SiteApplied("a", 1, PRINT[1], 7.0), SiteApplied("b", 1, PRINT[1], 7.0))
    failed = after(state, SiteProblem("c", Problem.TRAINING_FAILED, 1, 1, "out of memory", 8.0))
    assert (failed.phase, failed.round) == (Phase.TRAIN, 2)
    assert asked(failed, "c") == "apply/1/1"
    nobody = after(
        applying, *(SiteProblem(site, Problem.TRAINING_FAILED, 1, 1, "full", 8.0) for site in "abc"), Tick(900.0)
    )
    assert nobody.phase is Phase.APPLY, "somebody has to hold the new version"
    assert "a" not in after(nobody, SiteApplied("a", 1, PRINT[1], 901.0)).failed


def test_an_upload_goes_before_a_checkpoint_and_a_lost_checkpoint_costs_no_attempt(uploading):
    state = replace(uploading, checkpoint_due=True, duty=CheckpointDuty("a", 0, 100.0))
    assert asked(state, "a") == "upload/1/1"
    state = after(state, UploadFinished("a", 1, 1, b"d", 5.0))
    assert asked(state, "a") == "seal/0"
    state = after(state, SiteProblem("a", Problem.UPDATE_LOST, 0, 0, "spool lost", 6.0))
    assert (state.phase, state.attempt, state.duty.site) == (Phase.UPLOAD, 1, "b")


def test_waiting_for_another_thing_has_another_id(job, training, uploading, entry):
    ready = after(training, SiteReady(1, 1, entry("a"), 4.0))
    uploaded = after(uploading, UploadFinished("a", 1, 1, b"d", 5.0))
    gone = after(training, SiteGone("a", "revoked", 4.0))
    ids = [asked(state, "a") for state in (job, ready, uploaded, gone)]
    assert ids == ["wait/start", "wait/ready/1", "wait/upload/1", "wait/disabled"]


def test_no_deadline_passes_right_after_the_server_came_back(uploading):
    late = 10_000.0
    state = after(uploading, Resumed(late), Tick(late + RESUME_GRACE_SECONDS - 1))
    assert (state.phase, state.attempt) == (Phase.UPLOAD, 1)
    assert after(state, Tick(late + RESUME_GRACE_SECONDS)).attempt == 2
    early = after(uploading, Resumed(4.0))
    assert early.deadline == 4.0 + RESUME_GRACE_SECONDS
    assert step(early, Resumed(4.0))[0] == early


# ---- the end ----


def test_a_straggler_gets_the_last_model_of_a_finished_job_and_then_stops(finished):
    assert finished.phase is Phase.FINISHED
    assert asked(finished, "c") == "apply/1/1"
    state = after(finished, SiteApplied("c", 1, PRINT[1], 60.0))
    assert instruction_for(state, "c").finished
    lost = after(finished, SiteSeen("b", -1, False, 60.0))
    assert asked(lost, "b") == "load/1"


def test_a_stragglers_broken_copy_is_told_once_and_does_not_undo_the_job(finished):
    state, effects = step(finished, SiteApplied("c", 1, OTHER, 60.0))
    assert state.phase is Phase.FINISHED
    assert [effect.kind for effect in effects if isinstance(effect, Announce)] == ["model-differs"]
    assert step(state, SiteApplied("c", 1, OTHER, 61.0)) == (state, ())


def test_a_site_that_was_disabled_at_the_end_comes_back_for_the_model_and_a_newcomer_does_not(finished):
    gone = after(finished, SiteGone("c", "disabled", 60.0))
    assert asked(gone, "c") == "wait/disabled"
    assert asked(after(gone, SiteBack("c", 61.0)), "c") == "apply/1/1"
    assert instruction_for(after(finished, SiteBack("d", 61.0)), "d") is None
