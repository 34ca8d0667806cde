"""A job's way through its phases, event by event."""

import pytest
from pydantic import TypeAdapter

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds.context import context_of
from fedhe.rounds.directive import Work, instruction_for, site_state
from fedhe.rounds.effects import DropSums, DropUploads, StartSum
from fedhe.rounds.events import (
    Abort,
    CheckpointFinished,
    Problem,
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
from fedhe.rounds.machine import TABLE, step
from fedhe.rounds.state import JobState, Phase

FINGERPRINT = {version: bytes([version]) * 32 for version in range(10)}


def after(state, *events):
    for event in events:
        state, _ = step(state, event)
    return state


def work(state, site):
    return instruction_for(state, site).work


def seeded(job):
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), CheckpointFinished("a", 0, 2.0))
    for site in ("a", "b", "c"):
        state = after(state, SiteApplied(site, 0, FINGERPRINT[0], 3.0))
    return state


@pytest.fixture
def training(job):
    """Round 1, attempt 1, all three sites hold version 0."""
    return seeded(job)


@pytest.fixture
def uploading(training, entry):
    return after(training, *(SiteReady(1, 1, entry(site), 4.0) for site in ("a", "b", "c")))


@pytest.fixture
def applying(uploading):
    state = after(uploading, *(UploadFinished(site, 1, 1, b"d", 5.0) for site in ("a", "b", "c")))
    return after(state, SumFinished(1, 1, b"sum", 6.0))


def test_a_calm_job_goes_through_all_rounds_and_finishes_with_a_final_checkpoint(job, entry):
    state = seeded(job)
    for round_ in (1, 2, 3):
        assert (state.phase, state.round, state.attempt) == (Phase.TRAIN, round_, 1)
        assert [work(state, site) for site in "bc"] == [Work.TRAIN, Work.TRAIN]
        if state.duty is not None:  # after round 2 site a seals while the others train
            assert (work(state, "a"), state.duty.version) == (Work.SEAL, 2)
            state = after(state, CheckpointFinished("a", 2, 3.5))
        state = after(state, *(SiteReady(round_, 1, entry(site, round_), 4.0) for site in "abc"))
        assert state.phase is Phase.UPLOAD
        assert state.roster.context == context_of([f"{site}/{round_}/1".encode() for site in "abc"])
        assert work(state, "a") is Work.UPLOAD
        state = after(state, UploadFinished("a", round_, 1, b"d", 5.0), UploadFinished("b", round_, 1, b"d", 5.0))
        state, effects = step(state, UploadFinished("c", round_, 1, b"d", 5.0))
        assert StartSum(state.roster) in effects
        state, effects = step(state, SumFinished(round_, 1, b"sum", 6.0))
        assert DropUploads(round_, 1) in effects
        assert instruction_for(state, "b").validate == (round_ == 3)
        state = after(state, *(SiteApplied(site, round_, FINGERPRINT[round_], 7.0) for site in "abc"))
    assert (state.phase, state.version, work(state, "a")) == (Phase.APPLY, 3, Work.SEAL)
    state, effects = step(state, CheckpointFinished("a", 3, 8.0))
    assert (state.phase, state.checkpoint) == (Phase.FINISHED, 3)
    assert DropSums(3) in effects
    assert [instruction_for(state, site).finished for site in "abc"] == [True, True, True]


def test_the_first_site_that_polls_seeds_and_another_takes_over_when_it_cannot(job):
    state = after(job, Start(0.0), SiteSeen("b", -1, False, 1.0))
    assert (work(state, "b"), work(state, "a")) == (Work.SEED, Work.WAIT)
    state = after(state, SiteProblem("b", Problem.WAITING_FOR_APPROVAL, 0, 0, "not approved", 2.0))
    assert state.seeder is None
    state = after(state, SiteSeen("b", -1, True, 3.0))
    assert state.seeder is None
    state = after(state, SiteSeen("c", -1, False, 4.0))
    assert state.seeder == "c"
    state = after(state, Tick(4.0 + 101))
    assert state.seeder is None
    state = after(state, SiteSeen("c", -1, False, 110.0))
    assert state.seeder is None, "c had its chance while a had none"
    assert after(state, SiteSeen("a", -1, False, 111.0)).seeder == "a"


def test_a_job_with_fewer_sites_than_it_needs_does_not_start(config):
    with pytest.raises(StateError, match="1 sites can take part, at least 2"):
        step(JobState("job", config(sites=("a",))), Start(0.0))


def test_the_roster_is_sealed_at_the_deadline_with_enough_sites(training, entry):
    state = after(training, SiteReady(1, 1, entry("a"), 4.0), SiteReady(1, 1, entry("c"), 5.0))
    assert state.phase is Phase.TRAIN
    state = after(state, Tick(2.0 + 100))
    assert (state.phase, state.roster.sites) == (Phase.UPLOAD, ("a", "c"))
    assert work(state, "b") is Work.WAIT


def test_too_few_sites_at_the_deadline_are_waited_for(training, entry):
    state = after(training, SiteReady(1, 1, entry("a"), 4.0), Tick(200.0))
    assert state.phase is Phase.TRAIN
    assert "1 of at least 2" in state.message
    assert after(state, SiteReady(1, 1, entry("b"), 201.0)).phase is Phase.UPLOAD


def test_a_site_that_failed_or_waits_for_approval_is_not_awaited(training, entry):
    state = after(
        training,
        SiteProblem("b", Problem.TRAINING_FAILED, 1, 1, "out of memory", 4.0),
        SiteReady(1, 1, entry("a"), 4.0),
        SiteReady(1, 1, entry("c"), 5.0),
    )
    assert state.phase is Phase.UPLOAD
    assert "out of memory" in instruction_for(state, "b").reason


def test_failures_that_leave_too_few_sites_end_the_job_with_their_reasons(training):
    state = after(
        training,
        SiteProblem("a", Problem.TRAINING_FAILED, 1, 1, "no such class", 4.0),
        SiteProblem("b", Problem.REJECTED, 0, 0, "policy", 4.0),
    )
    assert state.phase is Phase.FAILED
    assert "a: no such class; b: policy" in state.message
    assert (work(state, "c"), instruction_for(state, "c").finished) == (Work.STOP, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": b"x" * 32}, "fingerprint"),
        ({"key_id": b"x" * 16}, "key id"),
        ({"params_id": b"x" * 16}, "params id"),
        ({"chunks": 2}, "chunks"),
    ],
)
def test_a_ready_that_does_not_fit_the_first_is_refused_and_changes_nothing(training, entry, change, message):
    state = after(training, SiteReady(1, 1, entry("a"), 4.0))
    with pytest.raises(RemoteProtocolError, match=message):
        step(state, SiteReady(1, 1, entry("b", **change), 5.0))


def test_a_model_with_other_tensors_ends_the_job_and_names_both_sites(training, entry):
    state = after(training, SiteReady(1, 1, entry("a"), 4.0), SiteReady(1, 1, entry("b", layout_digest=b"x" * 32), 5.0))
    assert state.phase is Phase.FAILED
    assert "model of b has other tensors than that of a" in state.message


def test_saying_again_what_was_taken_changes_nothing(training, uploading, applying, entry):
    assert step(uploading, SiteReady(1, 1, entry("a"), 9.0)) == (uploading, ())
    once = after(uploading, UploadFinished("a", 1, 1, b"d", 5.0))
    assert step(once, UploadFinished("a", 1, 1, b"d", 6.0)) == (once, ())
    assert step(applying, UploadFinished("a", 1, 1, b"d", 6.0)) == (applying, ())
    assert step(applying, SumFinished(1, 1, b"sum", 6.0)) == (applying, ())
    assert step(training, Start(9.0)) == (training, ())


def test_another_content_for_the_same_step_is_refused(training, uploading, entry):
    once = after(uploading, UploadFinished("a", 1, 1, b"d", 5.0))
    with pytest.raises(StateError, match="another content"):
        step(once, UploadFinished("a", 1, 1, b"e", 6.0))
    ready = after(training, SiteReady(1, 1, entry("a"), 4.0))
    with pytest.raises(StateError, match="another one"):
        step(ready, SiteReady(1, 1, entry("a", body=b"other"), 4.0))


@pytest.mark.parametrize(
    "event",
    [
        UploadFinished("a", 1, 1, b"d", 5.0),
        SumFinished(1, 1, b"sum", 6.0),
        SiteApplied("a", 2, FINGERPRINT[2], 7.0),
        CheckpointFinished("a", 1, 7.0),
    ],
)
def test_events_out_of_phase_raise_and_say_so(training, event):
    with pytest.raises(StateError, match=r"phase|expected"):
        step(training, event)


def test_another_round_or_attempt_is_refused(training, uploading, entry):
    with pytest.raises(StateError, match="expected round 1, attempt 1, got round 2, attempt 1"):
        step(training, SiteReady(2, 1, entry("a", 2), 4.0))
    with pytest.raises(StateError, match="expected round 1, attempt 1, got round 1, attempt 2"):
        step(uploading, UploadFinished("a", 1, 2, b"d", 4.0))
    with pytest.raises(StateError, match="not on the roster"):
        step(uploading, UploadFinished("d", 1, 1, b"d", 4.0))


def test_a_site_lost_while_uploading_gives_a_new_attempt_without_it(uploading, entry):
    state, effects = step(uploading, SiteProblem("b", Problem.UPDATE_LOST, 1, 1, "disk", 6.0))
    assert (state.phase, state.attempt, state.candidates) == (Phase.TRAIN, 2, ("a", "c"))
    assert DropUploads(1, 1) in effects
    assert work(state, "b") is Work.WAIT
    with pytest.raises(StateError, match="expected one of a, c"):
        step(state, SiteReady(1, 2, entry("b", 1, 2), 7.0))
    state = after(state, SiteReady(1, 2, entry("a", 1, 2), 7.0), SiteReady(1, 2, entry("c", 1, 2), 7.0))
    assert (state.phase, state.roster.sites) == (Phase.UPLOAD, ("a", "c"))
    assert state.roster.context != uploading.roster.context


def test_uploads_missing_at_the_deadline_give_a_new_attempt_with_those_that_came(uploading):
    state = after(uploading, UploadFinished("a", 1, 1, b"d", 5.0), UploadFinished("c", 1, 1, b"d", 5.0), Tick(4.0 + 50))
    assert (state.attempt, state.candidates, state.uploaded) == (2, ("a", "c"), {})
    assert "no upload from b" in state.message


def test_too_few_uploads_ask_everybody_again(uploading):
    state = after(uploading, UploadFinished("a", 1, 1, b"d", 5.0), Tick(60.0))
    assert (state.attempt, state.candidates) == (2, None)
    assert [work(state, site) for site in "abc"] == [Work.TRAIN] * 3


@pytest.mark.parametrize("phase", ["UPLOAD", "SUM"])
def test_a_revoked_site_is_out_of_the_round_even_if_it_has_uploaded(uploading, phase):
    state = after(uploading, UploadFinished("b", 1, 1, b"d", 5.0))
    if phase == "SUM":
        state = after(state, UploadFinished("a", 1, 1, b"d", 5.0), UploadFinished("c", 1, 1, b"d", 5.0))
    assert state.phase == phase.lower()
    state = after(state, SiteGone("b", "revoked", 6.0))
    assert (state.phase, state.attempt, state.candidates) == (Phase.TRAIN, 2, ("a", "c"))


def test_different_fingerprints_of_one_version_end_the_job(applying):
    state = after(applying, SiteApplied("a", 1, FINGERPRINT[1], 7.0), SiteApplied("b", 1, b"x" * 32, 7.0))
    assert state.phase is Phase.FAILED
    assert "differs between sites: b" in state.message


def test_a_sum_that_a_site_does_not_accept_ends_the_job(applying):
    state = after(applying, SiteProblem("b", Problem.CHECK_FAILED, 1, 1, "noise too large", 7.0))
    assert state.phase is Phase.FAILED
    assert "b does not accept the sum" in state.message


def test_a_straggler_applies_later_and_a_newcomer_loads_the_checkpoint(applying, entry):
    state = after(applying, SiteApplied("a", 1, FINGERPRINT[1], 7.0), Tick(6.0 + 40))
    assert (state.phase, state.round) == (Phase.TRAIN, 2)
    assert instruction_for(state, "b").id == "apply/1/1"
    assert site_state(state, "b") == "catching up"
    state = after(state, SiteBack("d", 50.0), SiteSeen("d", -1, False, 50.0))
    assert instruction_for(state, "d").id == "load/0"
    state = after(state, SiteApplied("d", 0, FINGERPRINT[0], 51.0))
    assert instruction_for(state, "d").id == "apply/1/1"
    state = after(state, SiteApplied("d", 1, FINGERPRINT[1], 52.0))
    assert instruction_for(state, "d").id == "train/2/1"


def test_sums_are_kept_until_a_checkpoint_covers_them(applying):
    state = after(applying, *(SiteApplied(site, 1, FINGERPRINT[1], 7.0) for site in "abc"))
    assert [record.round for record in state.sums] == [1]
    assert state.checkpoint == 0


def test_the_checkpoint_duty_passes_on_when_its_site_is_lost(job, entry):
    state = seeded(JobState("job", job.config.__class__(**{**vars(job.config), "rounds": 1})))
    state = after(state, *(SiteReady(1, 1, entry(site), 4.0) for site in "abc"))
    state = after(state, *(UploadFinished(site, 1, 1, b"d", 5.0) for site in "abc"), SumFinished(1, 1, b"s", 6.0))
    state = after(state, *(SiteApplied(site, 1, FINGERPRINT[1], 7.0) for site in "abc"))
    assert state.duty.site == "a"
    state = after(state, SiteGone("a", "disabled", 8.0))
    assert state.duty.site == "b"
    state = after(state, Tick(8.0 + 41))
    assert state.duty.site == "c"
    assert after(state, CheckpointFinished("c", 1, 60.0)).phase is Phase.FINISHED


def test_an_aborted_job_tells_sites_to_stop_and_takes_nothing_more(uploading, entry):
    state = after(uploading, Abort("wrong data", 6.0))
    assert (state.phase, state.message) == (Phase.ABORTED, "aborted: wrong data")
    assert all(work(state, site) is Work.STOP for site in "abc")
    assert step(state, Tick(9.0)) == (state, ())
    with pytest.raises(StateError, match="phase aborted"):
        step(state, UploadFinished("a", 1, 1, b"d", 7.0))


def test_sites_fetch_and_approve_a_job_before_it_starts(job):
    assert work(job, "a") is Work.WAIT
    state = after(job, SiteProblem("a", Problem.REJECTED, 0, 0, "no", 1.0), Start(2.0))
    assert "a" not in state.active


def test_a_site_outside_the_job_gets_no_instruction(config):
    state = JobState("job", config(open=False))
    assert instruction_for(state, "d") is None
    assert after(state, SiteBack("d", 1.0)).config.sites == ("a", "b", "c")


def test_every_phase_is_in_the_table_and_every_state_survives_json(training, uploading, applying):
    assert set(TABLE) == set(Phase)
    adapter = TypeAdapter(JobState)
    for state in (training, uploading, applying):
        assert adapter.validate_json(adapter.dump_json(state)) == state
