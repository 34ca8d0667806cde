"""SEEDING, SUM and APPLY: how versions of the model come about, are compared, and are kept as sealed checkpoints."""

from dataclasses import replace
from typing import Final

from fedhe.errors import StateError
from fedhe.rounds.effects import Announce, DropSums, DropUploads, Effects
from fedhe.rounds.events import CheckpointFinished, SiteApplied, SiteSeen, SumFinished
from fedhe.rounds.roster import Step, open_round
from fedhe.rounds.state import (
    CheckpointDuty,
    JobState,
    Phase,
    SumRecord,
    ended,
    with_member,
    without_key,
    without_member,
)
from fedhe.rounds.steering import sites_ahead

SEED_VERSION: Final = 0

SEEDING_GRACE_SECONDS: Final = 120.0
"""How long a site that did not make the initial model stands back for those that had no chance yet, seconds."""


def site_seen(state: JobState, event: SiteSeen) -> Step:
    """Notes a site's version, which pauses a job that it is ahead of; in SEEDING, the first that may seeds."""
    if event.site not in state.config.sites:
        return state, ()
    waiting = (with_member if event.waiting else without_member)(state.waiting, event.site)
    # Before there is a first model, what a site holds that waits is no version of this job's, see `pass_seeding_on`.
    counts = not (event.waiting and state.phase is Phase.SEEDING)
    versions = {**state.versions, event.site: event.version} if counts else without_key(state.versions, event.site)
    declined = without_key(state.declined, event.site) if event.willing else state.declined
    seen = replace(state, waiting=waiting, versions=versions, declined=declined)
    if event.site in sites_ahead(seen):
        return seen, ()  # the machine pauses the job
    if event.waiting:
        seen, effects = pass_seeding_on(seen, event.site, event.now)
        return seen, effects
    if state.phase is Phase.SEEDING and state.seeder is None:
        return _appoint_seeder(seen, event.site, event.now)
    return assign_duty(seen, event.now) if event.version == seen.version else (seen, ())


def _appoint_seeder(state: JobState, site: str, now: float) -> Step:
    may = [each for each in state.able if each not in state.waiting]
    if site not in may:
        return state, ()
    others_first = state.deadline is not None and now < state.deadline
    if site in state.passed and others_first and any(each not in state.passed for each in may):
        return state, ()
    appointed = replace(state, seeder=site, deadline=now + state.config.train_deadline, message="")
    return appointed, (Announce("seeder-chosen", f"{site} makes the initial model", 0, (site,)),)


def pass_seeding_on(state: JobState, site: str, now: float) -> Step:
    """The seeder could not: another site shall; the same one again only if no other comes within the grace."""
    if state.phase is not Phase.SEEDING or state.seeder != site:
        return state, ()
    message = f"{site} did not make the initial model; another site will"
    passed = replace(
        state,
        seeder=None,
        passed=with_member(state.passed, site),
        doubtful=with_member(state.doubtful, site),
        versions=without_key(state.versions, site),
        fingerprints={},
        deadline=now + SEEDING_GRACE_SECONDS,
        message=message,
    )
    return passed, (Announce("seeding-passed-on", message, 0, (site,)),)


def seeding_late(state: JobState, now: float) -> Step:
    """SEEDING's deadline."""
    if state.seeder is None or state.deadline is None or now < state.deadline:
        return state, ()
    return pass_seeding_on(state, state.seeder, now)


def checkpoint_finished(state: JobState, event: CheckpointFinished) -> Step:
    """A sealed checkpoint is stored: the seed model starts round 1, the last one ends the job.

    Raises:
        StateError: nobody asked this site for this version.
    """
    if event.version <= state.checkpoint:
        return state, ()
    said = Announce("checkpoint-stored", f"{event.site} sealed version {event.version}", event.version, (event.site,))
    if state.phase is Phase.SEEDING:
        if event.version != SEED_VERSION or event.site != state.seeder:
            raise StateError(
                f"checkpoint of {event.site}: expected version {SEED_VERSION} of {state.seeder}, got {event.version}"
            )
        seeded = replace(
            state,
            version=SEED_VERSION,
            checkpoint=SEED_VERSION,
            versions={**state.versions, event.site: SEED_VERSION},
            passed=(),
            doubtful=without_member(state.doubtful, event.site),
        )
        opened, effects = open_round(seeded, event.now)
        return opened, (said, *effects)
    if state.duty is None or (state.duty.site, state.duty.version) != (event.site, event.version):
        wanted = "none" if state.duty is None else f"version {state.duty.version} of {state.duty.site}"
        raise StateError(f"checkpoint of {event.site}, version {event.version}: expected {wanted}")
    # the newest sum stays: a site may be fetching it just now
    sums = tuple(record for record in state.sums if record.round >= event.version)
    stored = replace(state, checkpoint=event.version, duty=None, checkpoint_due=False, passed=(), sums=sums)
    effects = (said, DropSums(event.version))
    if event.version == state.config.rounds:
        done = ended(stored, Phase.FINISHED, f"finished after {state.config.rounds} rounds")
        return done, (*effects, Announce("job-finished", done.message, state.round))
    return stored, effects


def sum_finished(state: JobState, event: SumFinished) -> Step:
    """Publishes the sum.

    Raises:
        StateError: not the sum of this attempt.
    """
    if state.roster is None or (event.round, event.attempt) != (state.round, state.attempt):
        raise StateError(
            f"sum: expected round {state.round}, attempt {state.attempt}, got {event.round}, {event.attempt}"
        )
    published = replace(
        state,
        phase=Phase.APPLY,
        applied={},
        sums=(*state.sums, SumRecord(state.roster, event.digest)),
        deadline=event.now + state.config.apply_deadline,
    )
    effects: Effects = (
        DropUploads(state.round, state.attempt),
        Announce("sum-published", f"round {state.round}: sum published", state.round, state.roster.sites),
    )
    return published, effects


def site_applied(state: JobState, event: SiteApplied) -> Step:
    """A site reached a version: compares fingerprints, and closes the round if it was the last one awaited.

    Raises:
        StateError: a site outside the job, or a version that cannot exist yet.
    """
    if event.site not in state.config.sites:
        raise StateError(f"{event.site} applied version {event.version}: the site has no part in job {state.job_id}")
    newest = SEED_VERSION if state.phase is Phase.SEEDING and state.seeder == event.site else state.newest
    if not SEED_VERSION <= event.version <= newest:
        raise StateError(f"{event.site} applied version {event.version}: expected 0 to {newest}")
    known = state.fingerprints.get(event.version)
    own_seed = event.version == SEED_VERSION and known != event.fingerprint
    if own_seed and (known is not None or event.site in state.doubtful):
        # It began to seed and another site did: no reason to end the job, a READY from it would be refused too.
        expected = "the one that the seeder will say" if known is None else known.hex()[:16]
        raise StateError(
            f"{event.site} applied version 0: expected fingerprint {expected}, got {event.fingerprint.hex()[:16]}",
            "load the sealed checkpoint of version 0",
        )
    if known is not None and known != event.fingerprint:
        return _models_differ(state, event, known)
    moved = replace(
        state,
        fingerprints={**state.fingerprints, event.version: event.fingerprint},
        versions={**state.versions, event.site: event.version},
        doubtful=state.doubtful if state.phase is Phase.SEEDING else without_member(state.doubtful, event.site),
        failed=without_key(state.failed, event.site) if state.phase is Phase.APPLY else state.failed,
    )
    if state.phase is Phase.APPLY and event.version == state.round:
        if event.site in state.applied:
            return moved, ()
        applied = replace(moved, applied={**state.applied, event.site: event.fingerprint})
        said = Announce("site-applied", f"{event.site} holds version {event.version}", event.version, (event.site,))
        closed, effects = maybe_close(applied, event.now)
        return closed, (said, *effects)
    return assign_duty(moved, event.now)


def _models_differ(state: JobState, event: SiteApplied, known: bytes) -> Step:
    message = (
        f"version {event.version} of the model differs between sites: {event.site} has fingerprint "
        f"{event.fingerprint.hex()[:16]}, the first to report had {known.hex()[:16]}"
    )
    if state.phase is not Phase.FINISHED:
        return ended(state, Phase.FAILED, message), (Announce("job-failed", message, event.version, (event.site,)),)
    # What the others finished stands; a straggler's broken copy is told once.
    if event.site in state.failed:
        return state, ()
    marked = replace(state, failed={**state.failed, event.site: message})
    return marked, (Announce("model-differs", message, event.version, (event.site,)),)


def maybe_close(state: JobState, now: float) -> Step:
    """Closes the round if all of its roster that are still there have applied, or one has and the deadline passed."""
    if state.phase is not Phase.APPLY or state.roster is None or state.version == state.round:
        return state, ()
    awaited = [site for site in state.roster.sites if site in state.able]
    late = state.deadline is not None and now >= state.deadline
    if not state.applied or not (late or all(site in state.applied for site in awaited)):
        return state, ()
    due = state.round % state.config.checkpoint_every == 0 or state.round == state.config.rounds
    kept = {version: print_ for version, print_ in state.fingerprints.items() if version >= state.checkpoint}
    closed = replace(
        state, version=state.round, fingerprints=kept, checkpoint_due=state.checkpoint_due or due, deadline=None
    )
    said = Announce("round-closed", f"round {state.round} closed", state.round, tuple(sorted(state.applied)))
    if state.round == state.config.rounds:
        last, effects = assign_duty(replace(closed, message="waiting for the final checkpoint"), now)
        return last, (said, *effects)
    opened, effects = open_round(closed, now)
    on_duty, more = assign_duty(opened, now)
    return on_duty, (said, *effects, *more)


def assign_duty(state: JobState, now: float) -> Step:
    """Gives the duty to seal the present version to a site that holds it, where one is due and nobody is at it."""
    if not state.checkpoint_due or not state.phase.running:
        return state, ()
    duty = state.duty
    if duty is not None and duty.site in state.active and duty.version == state.version and now < duty.deadline:
        return state, ()
    passed = state.passed if duty is None else with_member(state.passed, duty.site)
    holders = [site for site in state.active if state.versions.get(site) == state.version]
    chosen = next((site for site in holders if site not in passed), holders[0] if holders else None)
    if chosen is None:
        return replace(state, duty=None, passed=passed), ()
    new = CheckpointDuty(chosen, state.version, now + state.config.apply_deadline)
    said = Announce("checkpoint-duty", f"{chosen} seals version {state.version}", state.version, (chosen,))
    return replace(state, duty=new, passed=passed), (said,)


def give_up_duty(state: JobState, site: str, now: float) -> Step:
    """The site on duty cannot: another one shall."""
    if state.duty is None or state.duty.site != site:
        return state, ()
    return assign_duty(replace(state, duty=None, passed=with_member(state.passed, site)), now)
