"""What a lead admin does to a running job: pauses it, has it go on, changes its rounds and deadlines.

A paused job asks no site for anything. What comes of work that was under way is taken all the same. Its clock stands
still (see `machine.step`): no deadline comes nearer, and all of them move by the length of the pause when it goes on.
"""

from dataclasses import replace

from fedhe.errors import StateError
from fedhe.rounds.effects import Announce
from fedhe.rounds.events import Change, Continue, Pause
from fedhe.rounds.roster import Step
from fedhe.rounds.state import NO_VERSION, JobState, Phase, RoundConfig


def pause(state: JobState, event: Pause) -> Step:
    """Asks sites for nothing and stops the clock, now or when the next round begins."""
    if state.paused_at is not None or (event.after_round and state.pause_due):
        return state, ()
    if event.after_round:
        due = replace(state, pause_due=True, pause_reason=event.reason)
        return due, (Announce("pause-due", f"pauses after this round{_because(due)}", state.round),)
    paused = replace(state, paused_at=event.now, pause_due=False, pause_reason=event.reason)
    return paused, (Announce("job-paused", f"paused{_because(paused)}", state.round),)


def pause_if_due(state: JobState, now: float) -> Step:
    """Pauses a job whose next round has just begun, where that was asked for."""
    if not state.pause_due or state.phase is not Phase.TRAIN or state.attempt != 1:
        return state, ()
    return pause(replace(state, pause_due=False), Pause(state.pause_reason, after_round=False, now=now))


def go_on(state: JobState, event: Continue) -> Step:
    """Asks sites again, and moves all deadlines by the length of the pause; or takes back a pause that is due.

    Raises:
        StateError: a site holds a later version of the model than this server knows.
    """
    if state.paused_at is None and not state.pause_due:
        return state, ()
    if ahead := sites_ahead(state):
        raise StateError(
            f"job {state.job_id} cannot go on: {_ahead(state, ahead)}",
            "restore a newer backup, or abort the job; disabling a site gives up what only that site holds",
        )
    away = 0.0 if state.paused_at is None else max(0.0, event.now - state.paused_at)
    duty = state.duty
    going = replace(
        state,
        deadline=None if state.deadline is None else state.deadline + away,
        duty=None if duty is None else replace(duty, deadline=duty.deadline + away),
        paused_at=None,
        pause_due=False,
        pause_reason="",
    )
    return going, (Announce("job-continued", "goes on", state.round),)


def sites_ahead(state: JobState) -> tuple[str, ...]:
    """Active sites whose model is of a later version than this server knows: it was set back, as by an old backup."""
    newest = max(state.newest, 0)  # the seeder holds version 0 before the server does
    return tuple(site for site in state.active if state.versions.get(site, NO_VERSION) > newest)


def pause_if_ahead(state: JobState, now: float) -> Step:
    """Pauses a job of which a site is ahead of the server, or came back so: else its rounds would go a second way."""
    if not state.phase.running or state.paused_at is not None or not (ahead := sites_ahead(state)):
        return state, ()
    return pause(state, Pause(_ahead(state, ahead), after_round=False, now=now))


def _ahead(state: JobState, sites: tuple[str, ...]) -> str:
    held = ", ".join(f"{site} holds version {state.versions[site]}" for site in sites)
    return f"{held} of the model, this server knows {max(state.newest, 0)}: was it restored from an old backup?"


def change(state: JobState, event: Change) -> Step:
    """Changes rounds and deadlines; a deadline that runs moves by as much as its length changes.

    Raises:
        StateError: fewer rounds than the one under way, or the last round's sum is already published.
    """
    before = state.config
    wanted = {
        name: value
        for name in ("rounds", "train_deadline", "upload_deadline", "apply_deadline")
        if (value := getattr(event, name)) is not None and value != getattr(before, name)
    }
    if not wanted:
        return state, ()
    if "rounds" in wanted:
        _check_rounds(state, event.rounds or 0)
    after = replace(before, **wanted)
    changed = replace(state, config=after)
    if state.deadline is not None and (name := _running_deadline(state)) is not None:
        changed = replace(changed, deadline=state.deadline + getattr(after, name) - getattr(before, name))
    if state.duty is not None:
        later = state.duty.deadline + after.apply_deadline - before.apply_deadline
        changed = replace(changed, duty=replace(state.duty, deadline=later))
    return changed, (Announce("job-changed", f"changed: {_changes(before, after)}", state.round),)


def _check_rounds(state: JobState, rounds: int) -> None:
    if state.phase is Phase.APPLY and state.round == state.config.rounds:
        raise StateError(
            f"job {state.job_id}: the sum of round {state.round}, the last one, is published; the job ends with it",
            "submit another job that begins with this one's model",
        )
    # Sites that have applied a round's sum were told whether it was the last one.
    least = state.round + 1 if state.phase is Phase.APPLY else max(state.round, 1)
    if rounds < least:
        raise StateError(f"job {state.job_id}: expected at least {least} rounds in {_where(state)}, got {rounds}")


def _where(state: JobState) -> str:
    return f"phase {state.phase} of round {state.round}" if state.round else f"phase {state.phase}"


def _running_deadline(state: JobState) -> str | None:
    """Which of the configuration's deadlines the phase's deadline came from."""
    match state.phase:
        case Phase.SEEDING:
            return None if state.seeder is None else "train_deadline"
        case Phase.TRAIN:
            return "train_deadline" if state.candidates is None else "upload_deadline"
        case Phase.UPLOAD:
            return "upload_deadline"
        case Phase.APPLY:
            return "apply_deadline"
    return None


def _because(state: JobState) -> str:
    return f": {state.pause_reason}" if state.pause_reason else ""


def _changes(before: RoundConfig, after: RoundConfig) -> str:
    names = ("rounds", "train_deadline", "upload_deadline", "apply_deadline")
    return ", ".join(
        f"{name} {getattr(before, name):g} to {getattr(after, name):g}"
        for name in names
        if getattr(before, name) != getattr(after, name)
    )
