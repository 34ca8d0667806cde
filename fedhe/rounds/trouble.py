"""What follows when a site reports a problem, leaves, or comes back."""

from collections.abc import Callable
from dataclasses import replace

from fedhe.rounds.effects import Announce
from fedhe.rounds.events import Problem, SiteBack, SiteGone, SiteProblem
from fedhe.rounds.model_versions import give_up_duty, maybe_close, pass_seeding_on
from fedhe.rounds.roster import Step, fail_if_too_few, lose_site, maybe_seal
from fedhe.rounds.state import JobState, Phase, ended, with_member, without_key, without_member


def then(result: Step, following: Callable[[JobState], Step]) -> Step:
    """The following step on the state that the first one gave; an ended job takes no further one."""
    state, effects = result
    if state.phase.ended:
        return result
    after, more = following(state)
    return after, (*effects, *more)


def problem_before_start(state: JobState, event: SiteProblem) -> Step:
    """Sites look at a job before it starts: some wait for approval, some refuse it."""
    if event.site in state.config.sites:
        if event.problem is Problem.WAITING_FOR_APPROVAL:
            return _waits(state, event.site), ()
        if event.problem is Problem.REJECTED:
            return _declines(state, event), ()
    return state, ()


def site_problem(state: JobState, event: SiteProblem) -> Step:
    """A site of a running job cannot do what it was asked."""
    if event.site not in state.config.sites:
        return state, ()
    said = Announce("site-problem", f"{event.site}: {event.problem}: {event.message}", event.round, (event.site,))
    if event.problem is Problem.WAITING_FOR_APPROVAL:
        result = then((_waits(state, event.site), (said,)), lambda now: pass_seeding_on(now, event.site, event.now))
        return then(result, lambda now: maybe_seal(now, event.now))
    if event.problem is Problem.REJECTED:
        return then((_declines(state, event), (said,)), lambda now: _without(now, event.site, event.message, event.now))
    if event.round == 0:
        return _problem_beside_rounds(state, event, said)
    if (event.round, event.attempt) != (state.round, state.attempt):
        return state, (said,)  # about something that is over
    match state.phase:
        case Phase.TRAIN | Phase.UPLOAD:
            return _problem_in_round(state, event, said)
        case Phase.APPLY:
            return _problem_in_apply(state, event, said)
    return state, (said,)


def _waits(state: JobState, site: str) -> JobState:
    return replace(state, waiting=with_member(state.waiting, site), declined=without_key(state.declined, site))


def _declines(state: JobState, event: SiteProblem) -> JobState:
    return replace(state, declined={**state.declined, event.site: event.message})


def _problem_beside_rounds(state: JobState, event: SiteProblem, said: Announce) -> Step:
    """While seeding, sealing, loading a checkpoint, or fetching the job."""
    if state.duty is not None and state.duty.site == event.site:
        return then((state, (said,)), lambda now: give_up_duty(now, event.site, event.now))
    if state.checkpoint_due and event.site in state.passed:
        return state, (said,)  # it had the duty and gave it up, and says so again: its part in the round goes on
    if event.problem is Problem.UPDATE_LOST:  # what was lost is a spooled checkpoint, not the update of a round
        return then((state, (said,)), lambda now: pass_seeding_on(now, event.site, event.now))
    # Without it the round may be complete. The next one counts it among the failed, too, and gives it no checkpoint to
    # make: what it says names no round, so that it may say it again.
    result = then(_fails(state, event, said), lambda now: (_failed(now, event), ()))
    return then(result, lambda now: give_up_duty(now, event.site, event.now))


def _problem_in_round(state: JobState, event: SiteProblem, said: Announce) -> Step:
    if event.site in state.uploaded:
        return state, (said,)  # its upload is complete; what it lost is not needed any more
    if event.problem is Problem.UPDATE_LOST:
        return then((state, (said,)), lambda now: _without(now, event.site, event.message, event.now))
    return _fails(state, event, said)


def _problem_in_apply(state: JobState, event: SiteProblem, said: Announce) -> Step:
    if event.problem is Problem.CHECK_FAILED:
        message = f"{event.site} does not accept the sum of round {state.round}: {event.message}"
        failed = Announce("job-failed", message, state.round, (event.site,))
        return ended(state, Phase.FAILED, message), (said, failed)
    if event.site in state.applied:
        return state, (said,)
    marked = replace(state, failed={**state.failed, event.site: event.message})
    return then((marked, (said,)), lambda now: maybe_close(now, event.now))


def _failed(state: JobState, event: SiteProblem) -> JobState:
    return replace(state, failed={**state.failed, event.site: event.message})


def _fails(state: JobState, event: SiteProblem, said: Announce) -> Step:
    return then((_failed(state, event), (said,)), lambda now: _without(now, event.site, event.message, event.now))


def site_gone(state: JobState, event: SiteGone) -> Step:
    """A site was disabled or revoked: out at once, in the middle of an upload too."""
    if event.site not in state.config.sites or event.site in state.gone:
        return state, ()
    marked = replace(state, gone=with_member(state.gone, event.site))
    said = Announce("site-gone", f"{event.site} is out: {event.reason}", state.round, (event.site,))
    return then((marked, (said,)), lambda now: _without(now, event.site, event.reason, event.now))


def _without(state: JobState, site: str, why: str, now: float) -> Step:
    """Everything that follows when a site cannot go on: seeding, duty, roster, and whether enough are left."""
    result = pass_seeding_on(state, site, now)
    result = then(result, lambda state: give_up_duty(state, site, now))
    result = then(result, lambda state: lose_site(state, site, why, now))
    result = then(result, fail_if_too_few)
    return then(result, lambda state: maybe_close(state, now))


def site_back(state: JobState, event: SiteBack) -> Step:
    """A site was enabled again, or joined the project."""
    if event.site not in state.config.sites:
        if not state.config.open or state.phase.ended:
            return state, ()
        config = replace(state.config, sites=with_member(state.config.sites, event.site))
        said = Announce("site-joined", f"{event.site} takes part from now on", state.round, (event.site,))
        return replace(state, config=config), (said,)
    if event.site not in state.gone and event.site not in state.declined:
        return state, ()
    back = replace(
        state,
        gone=without_member(state.gone, event.site),
        declined=without_key(state.declined, event.site),
    )
    return back, (Announce("site-back", f"{event.site} takes part again", state.round, (event.site,)),)
