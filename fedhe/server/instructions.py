"""The round machine's directives as messages."""

from collections.abc import Callable, Mapping
from typing import Any

from fedhe.rounds.directive import Directive, Work
from fedhe.rounds.state import JobState, SealedSet
from fedhe.wire import federation


def instruction_message(state: JobState, directive: Directive) -> federation.Instruction:
    """One directive as it is sent to its site.

    Args:
        state: the state that the directive was read from; rosters come from it.
        directive: see `rounds.directive.instruction_for`.
    """
    return federation.Instruction(id=directive.id, job_id=state.job_id, **_WORK[directive.work](state, directive))


def _upload(state: JobState, _directive: Directive) -> dict[str, Any]:
    if state.roster is None:
        raise AssertionError("the machine asks for an upload without a roster")
    return {"upload": federation.Upload(roster=roster_message(state.job_id, state.roster))}


def _apply(state: JobState, directive: Directive) -> dict[str, Any]:
    published = state.sum_of(directive.round)
    if published is None:
        raise AssertionError("the machine asks to apply a sum that it does not keep")
    roster = roster_message(state.job_id, published.roster)
    return {"apply": federation.Apply(roster=roster, validate=directive.validate)}


_WORK: Mapping[Work, Callable[[JobState, Directive], dict[str, Any]]] = {
    Work.WAIT: lambda _, one: {"wait": federation.Wait(reason=one.reason, paused=one.paused)},
    Work.SEED: lambda _, _one: {"seed": federation.Seed()},
    Work.LOAD_CHECKPOINT: lambda _, one: {"load_checkpoint": federation.LoadCheckpoint(version=one.version)},
    Work.TRAIN: lambda _, one: {"train": federation.Train(round=one.round, attempt=one.attempt)},
    Work.UPLOAD: _upload,
    Work.APPLY: _apply,
    Work.SEAL: lambda _, one: {"seal": federation.Seal(version=one.version)},
    Work.STOP: lambda _, one: {"stop": federation.Stop(reason=one.reason, finished=one.finished)},
}


def roster_message(job_id: str, roster: SealedSet) -> federation.SealedRoster:
    """A sealed roster with each READY as its site signed it."""
    return federation.SealedRoster(
        job_id=job_id,
        round=roster.round,
        attempt=roster.attempt,
        context=roster.context,
        ready=[
            federation.SignedReady(body=entry.body, signature=entry.signature, certificate=entry.certificate)
            for entry in roster.entries
        ],
    )
