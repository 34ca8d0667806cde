"""What each site shall do now, read off the state; asking twice gives the same answer."""

from dataclasses import dataclass
from enum import StrEnum

from fedhe.rounds.state import NO_VERSION, JobState, Phase, SumRecord


class Work(StrEnum):
    """The kinds of instruction."""

    WAIT = "wait"
    SEED = "seed"
    LOAD_CHECKPOINT = "load"
    TRAIN = "train"
    UPLOAD = "upload"
    APPLY = "apply"
    SEAL = "seal"
    STOP = "stop"


@dataclass(frozen=True)
class Directive:
    """One instruction for one site.

    Attributes:
        id: the same id is the same work, e.g. `train/3/1`.
        round: for TRAIN, UPLOAD and APPLY; 0 else.
        attempt: likewise.
        version: for LOAD_CHECKPOINT and SEAL; 0 else.
        validate: for APPLY: report the metrics of the new model, no training follows that would.
        finished: for STOP: the job ended well.
        paused: for WAIT: the job is paused; training that is under way may go on, what it gives will be asked for.
        reason: for WAIT and STOP, for people.
    """

    work: Work
    id: str
    round: int = 0
    attempt: int = 0
    version: int = 0
    validate: bool = False
    finished: bool = False
    paused: bool = False
    reason: str = ""


def instruction_for(state: JobState, site: str) -> Directive | None:
    """What `site` shall do now; None if it has no part in the job."""
    directive = work_for(state, site)
    if directive is None or state.paused_at is None or site not in state.active:
        return directive
    reason = f"the job is paused: {state.pause_reason}" if state.pause_reason else "the job is paused"
    return Directive(Work.WAIT, "wait/paused", paused=True, reason=reason)


def work_for(state: JobState, site: str) -> Directive | None:
    """What `site` would do now if the job were not paused; what it has begun of that, it may finish."""
    if site not in state.config.sites:
        return None
    if state.phase in {Phase.ABORTED, Phase.FAILED}:
        return Directive(Work.STOP, "stop", reason=state.message)
    if site in state.gone:
        return _wait("disabled", "this site is disabled")
    if site in state.declined:
        return _wait("declined", f"this site declined: {state.declined[site]}")
    if state.phase is Phase.SUBMITTED:
        return _wait("start", "the job is not started")
    if state.phase is Phase.SEEDING:
        return Directive(Work.SEED, "seed") if state.seeder == site else _wait("seed", "no initial model yet")
    return _to_newest_version(state, site) or _at_newest_version(state, site)


def _to_newest_version(state: JobState, site: str) -> Directive | None:
    """How the site gets to the newest version of the model; None if it holds that and has said so."""
    held = state.versions.get(site, NO_VERSION)
    if site in state.doubtful:
        return _load(state)
    if held < state.newest:
        return _catch_up(state, held)
    if held > state.newest:
        reason = f"this site holds version {held}, the server knows {state.newest}: was it restored from a backup?"
        return _wait("ahead", reason)
    if state.phase is Phase.APPLY and site not in state.applied and (record := state.sum_of(held)) is not None:
        return _apply(state, record)  # it polled before it said its fingerprint, and is just about to
    return None


def _at_newest_version(state: JobState, site: str) -> Directive:
    if _has_to_upload(state, site):
        return Directive(Work.UPLOAD, f"upload/{state.round}/{state.attempt}", round=state.round, attempt=state.attempt)
    if state.duty is not None and (state.duty.site, state.duty.version) == (site, state.versions.get(site)):
        return Directive(Work.SEAL, f"seal/{state.duty.version}", version=state.duty.version)
    if state.phase is Phase.FINISHED:
        return Directive(Work.STOP, "stop", finished=True, reason=state.message)
    return _in_round(state, site)


def _catch_up(state: JobState, held: int) -> Directive:
    record = state.sum_of(held + 1) if held != NO_VERSION else None
    if record is not None:
        return _apply(state, record)
    if state.checkpoint > held:
        return _load(state)
    return _wait("checkpoint", "the next checkpoint brings this site up to date")


def _load(state: JobState) -> Directive:
    return Directive(Work.LOAD_CHECKPOINT, f"load/{state.checkpoint}", version=state.checkpoint)


def _has_to_upload(state: JobState, site: str) -> bool:
    if state.phase is not Phase.UPLOAD or state.roster is None:
        return False
    return site in state.roster.sites and site not in state.uploaded


def _apply(state: JobState, record: SumRecord) -> Directive:
    return Directive(
        Work.APPLY,
        f"apply/{record.round}/{record.roster.attempt}",
        round=record.round,
        attempt=record.roster.attempt,
        validate=record.round == state.config.rounds,
    )


def _in_round(state: JobState, site: str) -> Directive:
    if site in state.failed:
        return _wait(f"failed/{state.round}", f"this site failed in round {state.round}: {state.failed[site]}")
    if state.phase is not Phase.TRAIN:
        reason = "waiting for the other sites' uploads" if site in state.uploaded else "waiting for the round to go on"
        return _wait(f"{state.phase}/{state.round}", reason)
    if any(entry.site == site for entry in state.ready):
        return _wait(f"ready/{state.round}", "waiting for the other sites to be ready")
    if state.candidates is not None and site not in state.candidates:
        return _wait(f"others/{state.round}", "this round goes on with other sites")
    return Directive(Work.TRAIN, f"train/{state.round}/{state.attempt}", round=state.round, attempt=state.attempt)


def _wait(what: str, reason: str) -> Directive:
    """Waiting for another thing has another id, so that a site hears of it at once."""
    return Directive(Work.WAIT, f"wait/{what}", reason=reason)


def site_state(state: JobState, site: str) -> str:
    """One word or two for listings: where `site` stands in this job."""
    named = [
        (site in state.gone, "disabled"),
        (site in state.declined, "declined"),
        (state.phase.ended, str(state.phase)),
        (site in state.failed, "failed"),
        (site in state.waiting, "waiting for approval"),
        (state.phase is Phase.SEEDING and state.seeder == site, "seeding"),
        (state.duty is not None and state.duty.site == site, "sealing"),
        (state.phase is Phase.APPLY and site in state.applied, "applied"),
        (state.phase is Phase.APPLY, "applying"),
        (site in state.uploaded, "uploaded"),
        (state.phase is Phase.UPLOAD and state.roster is not None and site in state.roster.sites, "uploading"),
        (any(entry.site == site for entry in state.ready), "ready"),
        (state.phase is Phase.TRAIN and state.versions.get(site, NO_VERSION) < state.version, "catching up"),
        (state.phase is Phase.TRAIN, "training"),
    ]
    return next((word for applies, word in named if applies), "waiting")
