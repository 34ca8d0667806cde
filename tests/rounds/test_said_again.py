"""A report whose answer was lost comes again, and costs nothing the second time."""

from dataclasses import replace

import pytest

from fedhe.rounds.directive import Work, instruction_for
from fedhe.rounds.events import (
    CheckpointFinished,
    Problem,
    SiteApplied,
    SiteProblem,
    SiteReady,
    SiteSeen,
    Start,
    SumFinished,
    UploadFinished,
)
from fedhe.rounds.machine import step


def after(state, *events):
    for event in events:
        state, _ = step(state, event)
    return state


@pytest.fixture
def sealing(job, entry):
    """Round 2: the roster is sealed while site a has the duty to seal version 1."""
    job = replace(job, config=replace(job.config, checkpoint_every=1))
    state = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0), CheckpointFinished("a", 0, 2.0))
    state = after(state, *(SiteApplied(site, 0, bytes(32), 3.0) for site in "abc"))
    state = after(state, *(SiteReady(1, 1, entry(site), 4.0) for site in "abc"))
    state = after(state, *(UploadFinished(site, 1, 1, b"d", 5.0) for site in "abc"), SumFinished(1, 1, b"sum", 6.0))
    state = after(state, *(SiteApplied(site, 1, b"\x01" * 32, 7.0) for site in "abc"))
    return after(state, *(SiteReady(2, 1, entry(site, 2), 8.0) for site in "abc"))


@pytest.mark.parametrize("problem", [Problem.TRAINING_FAILED, Problem.CHECK_FAILED, Problem.UPDATE_LOST])
def test_a_site_that_cannot_seal_says_so_twice_and_stays_in_the_round(sealing, problem):
    assert (sealing.duty.site, sealing.roster.sites) == ("a", ("a", "b", "c"))
    report = SiteProblem("a", problem, 0, 0, "cannot read the model", 9.0)
    once = after(sealing, report)
    assert once.duty.site == "b"
    assert after(once, report) == once
    assert instruction_for(once, "a").work is Work.UPLOAD
    assert "a" not in once.failed


@pytest.mark.parametrize("version", [-1, 0])
def test_a_chosen_seeder_that_waits_says_so_twice_and_passes_the_seeding_on_once(job, version):
    chosen = after(job, Start(0.0), SiteSeen("a", -1, False, 1.0))
    assert chosen.seeder == "a"
    waits = SiteSeen("a", version, True, 2.0)
    once = after(chosen, waits)
    assert once.seeder is None
    assert after(once, waits) == once
