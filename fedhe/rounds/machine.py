"""The transition table of a job, and `step`, the only function that applies it.

Everything that changes a job goes through `TABLE`: phase and event to handler. What is not in the table is not allowed:
`step` raises and the state stays as it was. What has already happened may be said again and changes nothing.
`python -m fedhe.rounds.draw` prints the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from fedhe.errors import StateError
from fedhe.rounds.effects import Announce, Effects
from fedhe.rounds.events import (
    Abort,
    Change,
    CheckpointFinished,
    Continue,
    Event,
    Pause,
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
from fedhe.rounds.model_versions import (
    assign_duty,
    checkpoint_finished,
    maybe_close,
    seeding_late,
    site_applied,
    site_seen,
    sum_finished,
)
from fedhe.rounds.roster import Step, maybe_seal, site_ready, upload_finished, upload_late
from fedhe.rounds.state import JobState, Phase, ended
from fedhe.rounds.steering import change, go_on, pause, pause_if_ahead, pause_if_due
from fedhe.rounds.trouble import problem_before_start, site_back, site_gone, site_problem, then

Handler = Callable[[JobState, Any], Step]

RESUME_GRACE_SECONDS: Final = 300.0
"""No deadline passes sooner than this after the server came back, seconds: sites back off up to a minute."""


def _start(state: JobState, _event: Start) -> Step:
    """Waits from now on for a site to make the initial model.

    Raises:
        StateError: fewer sites than a round needs can take part.
    """
    if len(state.active) < state.config.min_sites:
        raise StateError(
            f"job {state.job_id}: {len(state.active)} sites can take part, at least {state.config.min_sites} have to",
            "enable or add sites, or lower min_sites in config_fed.yml",
        )
    started = replace(state, phase=Phase.SEEDING, message="waiting for a site to make the initial model")
    return started, (Announce("job-started", f"started with {', '.join(state.active)}", 0, state.active),)


def _nothing(state: JobState, _event: Event) -> Step:
    """Changes nothing."""
    return state, ()


def _abort(state: JobState, event: Abort) -> Step:
    """Ends the job; sites are told to stop."""
    message = f"aborted: {event.reason}"
    return ended(state, Phase.ABORTED, message), (Announce("job-aborted", message, state.round),)


def _resumed(state: JobState, event: Resumed) -> Step:
    """Gives sites time to reconnect before a deadline counts."""
    earliest = event.now + RESUME_GRACE_SECONDS
    duty = state.duty
    return replace(
        state,
        deadline=None if state.deadline is None else max(state.deadline, earliest),
        duty=None if duty is None else replace(duty, deadline=max(duty.deadline, earliest)),
    ), ()


def _tick_seeding(state: JobState, event: Tick) -> Step:
    """A seeder that is late is passed over."""
    return seeding_late(state, event.now)


def _tick_train(state: JobState, event: Tick) -> Step:
    """Seals the roster at the deadline if enough sites are READY; passes on a late checkpoint."""
    return then(maybe_seal(state, event.now), lambda sealed: assign_duty(sealed, event.now))


def _tick_upload(state: JobState, event: Tick) -> Step:
    """At the deadline, a new attempt without the sites that are late; passes on a late checkpoint."""
    return then(upload_late(state, event.now), lambda late: assign_duty(late, event.now))


def _tick_sum(state: JobState, event: Tick) -> Step:
    """Passes on a late checkpoint."""
    return assign_duty(state, event.now)


def _tick_apply(state: JobState, event: Tick) -> Step:
    """Closes the round at the deadline if a site has applied; passes on a late checkpoint."""
    return then(maybe_close(state, event.now), lambda closed: assign_duty(closed, event.now))


_RUNNING: Final[Mapping[type, Handler]] = {
    Start: _nothing,
    Pause: pause,
    Continue: go_on,
    Change: change,
    Abort: _abort,
    Resumed: _resumed,
    SiteSeen: site_seen,
    SiteApplied: site_applied,
    CheckpointFinished: checkpoint_finished,
    SiteProblem: site_problem,
    SiteGone: site_gone,
    SiteBack: site_back,
}

_ENDED: Final[Mapping[type, Handler]] = {
    Abort: _nothing,
    Tick: _nothing,
    Resumed: _nothing,
    SiteSeen: site_seen,
    SiteProblem: _nothing,
    SiteGone: _nothing,
    SiteBack: _nothing,
}

TABLE: Final[Mapping[Phase, Mapping[type, Handler]]] = {
    Phase.SUBMITTED: {
        Start: _start,
        Change: change,
        Abort: _abort,
        Tick: _nothing,
        Resumed: _nothing,
        SiteSeen: site_seen,
        SiteProblem: problem_before_start,
        SiteGone: site_gone,
        SiteBack: site_back,
    },
    Phase.SEEDING: {**_RUNNING, Tick: _tick_seeding},
    Phase.TRAIN: {**_RUNNING, Tick: _tick_train, SiteReady: site_ready},
    Phase.UPLOAD: {**_RUNNING, Tick: _tick_upload, UploadFinished: upload_finished},
    Phase.SUM: {**_RUNNING, Tick: _tick_sum, SumFinished: sum_finished},
    Phase.APPLY: {**_RUNNING, Tick: _tick_apply},
    # those that were away still fetch the last model
    Phase.FINISHED: {
        **_ENDED,
        SiteApplied: site_applied,
        CheckpointFinished: checkpoint_finished,
        SiteGone: site_gone,
        SiteBack: site_back,
    },
    Phase.ABORTED: _ENDED,
    Phase.FAILED: _ENDED,
}

MOVES: Final[Mapping[tuple[Phase, Phase], str]] = {
    (Phase.SUBMITTED, Phase.SEEDING): "started",
    (Phase.SEEDING, Phase.TRAIN): "seed model sealed",
    (Phase.TRAIN, Phase.UPLOAD): "roster sealed: all READY, or the deadline with min_sites",
    (Phase.UPLOAD, Phase.SUM): "all uploaded",
    (Phase.UPLOAD, Phase.TRAIN): "site lost or late: new attempt",
    (Phase.SUM, Phase.TRAIN): "site revoked: new attempt",
    (Phase.SUM, Phase.APPLY): "sum published",
    (Phase.APPLY, Phase.TRAIN): "all applied, or the deadline with one: next round",
    (Phase.APPLY, Phase.FINISHED): "final checkpoint sealed",
    **{(phase, Phase.ABORTED): "aborted" for phase in Phase if not phase.ended},
    **{(phase, Phase.FAILED): "too few sites left, or models differ" for phase in Phase if phase.running},
}
"""Every change of phase there is, with its reason; `step` holds handlers to it."""


def step(state: JobState, event: Event) -> tuple[JobState, Effects]:
    """Applies one event.

    Returns:
        The new state and what has to be done; the same state and nothing where the event was already taken.

    Raises:
        StateError: the phase does not allow the event, or it is about another round or attempt; says what was expected.
        RemoteProtocolError: what a site says does not fit what others said.
    """
    if _repeated(state, event):
        return state, ()
    handler = TABLE[state.phase].get(type(event))
    if handler is None:
        what = f"{type(event).__name__} of {event.site}" if hasattr(event, "site") else type(event).__name__
        raise StateError(f"job {state.job_id} is in phase {state.phase}, round {state.round}: {what} is out of place")
    if state.paused_at is not None:
        if isinstance(event, Tick):
            return state, ()
        if not isinstance(event, Continue):
            event = replace(event, now=state.paused_at)  # a paused job's clock stands still
    after, effects = handler(state, event)
    if (after.round, after.attempt) != (state.round, state.attempt):
        after, more = pause_if_due(after, event.now)
        effects = (*effects, *more)
    after, more = pause_if_ahead(after, event.now)
    effects = (*effects, *more)
    if after.phase is not state.phase and (state.phase, after.phase) not in MOVES:
        raise RuntimeError(f"{type(event).__name__} led from {state.phase} to {after.phase}, which MOVES does not have")
    return after, effects


def _repeated(state: JobState, event: Event) -> bool:
    """Whether a site or the server says again what this attempt of the round has already taken."""
    roster = state.roster
    if roster is None or state.phase is Phase.TRAIN:
        return False
    if isinstance(event, SiteReady):
        same = (event.round, event.attempt) == (roster.round, roster.attempt)
        return same and any((entry.site, entry.body) == (event.site, event.entry.body) for entry in roster.entries)
    if isinstance(event, UploadFinished):
        same = (event.round, event.attempt) == (roster.round, roster.attempt)
        return same and state.uploaded.get(event.site) == event.digest
    if isinstance(event, SumFinished):
        record = state.sum_of(event.round)
        return record is not None and (record.roster.attempt, record.digest) == (event.attempt, event.digest)
    return False
