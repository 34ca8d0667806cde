"""A lead admin pauses a job, has it go on, and changes its rounds and deadlines."""

import pytest
from pydantic import TypeAdapter

from fedhe.errors import StateError
from fedhe.rounds.directive import Work, instruction_for, work_for
from fedhe.rounds.events import (
    Abort,
    Change,
    CheckpointFinished,
    Continue,
    Pause,
    SiteApplied,
    SiteGone,
    SiteReady,
    SiteSeen,
    Start,
    SumFinished,
    Tick,
    UploadFinished,
)
from fedhe.rounds.machine import step
from fedhe.rounds.state import JobState, Phase

SITES = ("a", "b", "c")


def after(state, *events):
    for event in events:
        state, _ = step(state, event)
    return state


@pytest.fixture
def training(job):
    """Round 1 in phase train, begun at 0, all sites at version 0; the deadline is 100."""
    state = after(job, Start(0.0), SiteSeen("a", -1, waiting=False, now=0.0), CheckpointFinished("a", 0, 0.0))
    return after(state, *[SiteApplied(site, 0, bytes(32), 0.0) for site in SITES])


@pytest.fixture
def to_apply(entry):
    """Brings a job from train to apply: all are ready, upload, and the sum is made."""

    def go(state, now=0.0):
        round_, attempt = state.round, state.attempt
        for site in SITES:
            state = after(state, SiteReady(round_, attempt, entry(site, round_, attempt), now))
        for site in SITES:
            state = after(state, UploadFinished(site, round_, attempt, b"u", now))
        return after(state, SumFinished(round_, attempt, b"s", now))

    return go


def all_apply(state, now=0.0):
    return after(state, *[SiteApplied(site, state.round, bytes([state.round]) * 32, now) for site in SITES])


def test_a_paused_job_asks_nobody_for_anything_and_says_why(training):
    assert instruction_for(training, "b").work is Work.TRAIN
    paused = after(training, Pause("network maintenance", after_round=False, now=10.0))
    told = instruction_for(paused, "b")
    assert (told.work, told.paused) == (Work.WAIT, True)
    assert "network maintenance" in told.reason
    assert work_for(paused, "b").work is Work.TRAIN


def test_no_deadline_comes_nearer_while_it_is_paused(training, entry):
    ready = after(training, *[SiteReady(1, 1, entry(site), 5.0) for site in ("a", "b")])
    paused = after(ready, Pause("", after_round=False, now=40.0), Tick(5000.0))
    assert paused.phase is Phase.TRAIN
    going = after(paused, Continue(1040.0))
    assert going.deadline == 1100.0
    assert after(going, Tick(1099.0)).phase is Phase.TRAIN
    assert after(going, Tick(1100.0)).phase is Phase.UPLOAD


def test_a_deadline_that_had_passed_when_it_was_paused_counts_once_it_goes_on(training, entry):
    ready = after(training, *[SiteReady(1, 1, entry(site), 5.0) for site in ("a", "b")])
    paused = after(ready, Pause("", after_round=False, now=150.0), Tick(160.0))
    assert paused.phase is Phase.TRAIN
    assert after(paused, Continue(170.0), Tick(171.0)).phase is Phase.UPLOAD


def test_what_was_under_way_is_taken_and_its_deadline_begins_with_the_job_going_on(training, entry):
    paused = after(training, Pause("", after_round=False, now=40.0))
    sealed = after(paused, *[SiteReady(1, 1, entry(site), 500.0) for site in SITES])
    assert sealed.phase is Phase.UPLOAD
    assert instruction_for(sealed, "a").work is Work.WAIT
    assert work_for(sealed, "a").work is Work.UPLOAD
    uploaded = after(sealed, UploadFinished("a", 1, 1, b"u", 600.0))
    assert uploaded.uploaded == {"a": b"u"}
    going = after(uploaded, Continue(1000.0))
    assert going.deadline == 1050.0
    assert instruction_for(going, "b").work is Work.UPLOAD


def test_a_pause_after_the_round_lets_it_end_and_holds_the_next_one(training, to_apply):
    due = after(training, Pause("upgrade", after_round=True, now=1.0))
    assert instruction_for(due, "a").work is Work.TRAIN
    done = all_apply(to_apply(due, 2.0), 3.0)
    assert (done.phase, done.round, done.version, done.paused_at) == (Phase.TRAIN, 2, 1, 3.0)
    assert instruction_for(done, "a").work is Work.WAIT
    assert instruction_for(after(done, Continue(9.0)), "a").work is Work.TRAIN


def test_a_new_attempt_of_the_same_round_is_no_next_round(training, entry):
    due = after(training, Pause("", after_round=True, now=1.0))
    sealed = after(due, *[SiteReady(1, 1, entry(site), 2.0) for site in SITES])
    uploaded = after(sealed, *[UploadFinished(site, 1, 1, b"u", 3.0) for site in ("a", "b")])
    again = after(uploaded, Tick(1000.0))
    assert (again.phase, again.attempt, again.paused_at) == (Phase.TRAIN, 2, None)


def test_a_pause_that_is_due_may_be_taken_back_or_made_to_count_now(training):
    due = after(training, Pause("", after_round=True, now=1.0))
    back = after(due, Continue(2.0))
    assert (back.pause_due, back.deadline) == (False, training.deadline)
    now = after(due, Pause("", after_round=False, now=2.0))
    assert (now.pause_due, now.paused_at) == (False, 2.0)


def test_only_a_running_job_can_be_paused_and_an_ended_one_is_not_paused(job, training):
    with pytest.raises(StateError, match="Pause is out of place"):
        step(job, Pause("", after_round=False, now=0.0))
    aborted = after(training, Pause("", after_round=False, now=1.0), Abort("enough", 2.0))
    assert (aborted.phase, aborted.paused_at) == (Phase.ABORTED, None)
    with pytest.raises(StateError, match="Continue is out of place"):
        step(aborted, Continue(3.0))


def test_a_deadline_that_runs_moves_by_what_its_length_changes(training):
    changed = after(training, Change(1.0, train_deadline=250.0, upload_deadline=7.0))
    assert changed.deadline == training.deadline + 150.0
    assert (changed.config.train_deadline, changed.config.upload_deadline) == (250.0, 7.0)
    assert changed.config.apply_deadline == training.config.apply_deadline


def test_the_deadline_of_a_later_attempt_is_that_of_uploads(training, entry):
    sealed = after(training, *[SiteReady(1, 1, entry(site), 2.0) for site in SITES])
    changed = after(sealed, Change(3.0, train_deadline=250.0))
    assert changed.deadline == sealed.deadline
    again = after(sealed, *[UploadFinished(site, 1, 1, b"u", 3.0) for site in ("a", "b")], Tick(1000.0))
    assert after(again, Change(1000.0, train_deadline=250.0)).deadline == again.deadline
    assert after(again, Change(1000.0, upload_deadline=60.0)).deadline == again.deadline + 10.0


def test_fewer_rounds_end_the_job_sooner_and_the_last_one_is_validated(training, to_apply):
    short = to_apply(after(training, Change(1.0, rounds=1)))
    assert instruction_for(short, "a").validate
    closed = all_apply(short)
    assert closed.version == 1
    assert after(closed, CheckpointFinished(closed.duty.site, 1, 5.0)).phase is Phase.FINISHED


def test_there_are_no_fewer_rounds_than_the_one_under_way(training, to_apply):
    second = all_apply(to_apply(training))
    assert second.round == 2
    with pytest.raises(StateError, match="expected at least 2 rounds in phase train of round 2, got 1"):
        step(second, Change(1.0, rounds=1))
    # whoever has applied this sum was told that it is not the last
    with pytest.raises(StateError, match="expected at least 2 rounds in phase apply of round 1, got 1"):
        step(to_apply(training), Change(1.0, rounds=1))


def test_once_the_last_sum_is_published_the_number_of_rounds_is_settled(training, to_apply):
    last = to_apply(after(training, Change(1.0, rounds=1)))
    with pytest.raises(StateError, match="the last one, is published"):
        step(last, Change(2.0, rounds=3))
    assert step(last, Change(2.0, rounds=1)) == (last, ())


def test_a_job_whose_server_was_set_back_goes_on_only_without_the_site_that_is_ahead(training):
    ahead = after(training, SiteSeen("b", 2, waiting=False, now=5.0))
    assert ahead.paused_at == 5.0
    with pytest.raises(StateError, match="cannot go on: b holds version 2 of the model, this server knows 0"):
        step(ahead, Continue(6.0))
    assert after(ahead, SiteGone("b", "given up", 6.0), Continue(7.0)).paused_at is None
    # it may also have been a mistake of the site's, which its next poll mends
    assert after(ahead, SiteSeen("b", 0, waiting=False, now=6.0), Continue(7.0)).paused_at is None


def test_a_seeder_that_holds_its_first_model_is_not_ahead(job):
    seeding = after(job, Start(0.0), SiteSeen("a", 0, waiting=False, now=0.0))
    assert (seeding.phase, seeding.paused_at) == (Phase.SEEDING, None)
    assert after(seeding, SiteSeen("b", 1, waiting=False, now=0.0)).paused_at == 0.0


def test_a_state_of_before_there_were_pauses_loads(training):
    adapter = TypeAdapter(JobState)
    old = adapter.dump_python(training, mode="json")
    for name in ("paused_at", "pause_due", "pause_reason"):
        del old[name]
    assert adapter.validate_python(old) == training
