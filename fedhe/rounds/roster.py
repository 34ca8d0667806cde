"""TRAIN and UPLOAD: who is READY, when the roster is sealed, and what a lost site leads to."""

from dataclasses import replace

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds.context import context_of
from fedhe.rounds.effects import Announce, DropUploads, Effects, StartSum
from fedhe.rounds.events import SiteReady, UploadFinished
from fedhe.rounds.state import JobState, Phase, ReadyEntry, SealedSet, ended, without_member

Step = tuple[JobState, Effects]


def open_round(state: JobState, now: float) -> Step:
    """The first attempt of the next round."""
    round_ = state.version + 1
    opened = replace(
        state,
        phase=Phase.TRAIN,
        round=round_,
        attempt=1,
        candidates=None,
        ready=(),
        roster=None,
        uploaded={},
        applied={},
        failed={},
        deadline=now + state.config.train_deadline,
        message="",
    )
    return opened, (Announce("round-opened", f"round {round_} of {state.config.rounds}: sites train", round_),)


def new_attempt(state: JobState, keep: tuple[str, ...], why: str, now: float) -> Step:
    """The next attempt of the same round, with the sites that are left; nobody trains again.

    `keep` are the sites that still have their update; where they are too few, all sites are asked. `why` is for people.
    """
    enough = len(keep) >= state.config.min_sites
    opened = replace(
        state,
        phase=Phase.TRAIN,
        attempt=state.attempt + 1,
        candidates=keep if enough else None,
        ready=(),
        roster=None,
        uploaded={},
        deadline=now + (state.config.upload_deadline if enough else state.config.train_deadline),
        message=why,
    )
    effects: Effects = (
        DropUploads(state.round, state.attempt),
        Announce("new-attempt", f"round {state.round}: attempt {opened.attempt}: {why}", state.round, keep),
    )
    return opened, effects


def site_ready(state: JobState, event: SiteReady) -> Step:
    """Takes a READY into the set, and seals the roster if it was the last one awaited.

    Raises:
        StateError: another round, attempt or phase, or a site that this attempt does not ask.
        RemoteProtocolError: it does not fit the others: another model, key, parameters or number of chunks.
    """
    entry = event.entry
    _expect_attempt(state, event.round, event.attempt, f"READY of {entry.site}")
    if entry.site not in state.active or (state.candidates is not None and entry.site not in state.candidates):
        raise StateError(f"READY of {entry.site}: expected one of {', '.join(state.candidates or state.active)}")
    if entry.site in state.doubtful:
        raise StateError(f"READY of {entry.site}: expected it to load the sealed checkpoint first")
    if (known := _entry_of(state, entry.site)) is not None:
        if known.body == entry.body:
            return state, ()
        raise StateError(f"READY of {entry.site}: this attempt already has another one of that site")
    base = state.fingerprints.get(state.version)
    if base is not None and base != entry.fingerprint:
        raise RemoteProtocolError(
            f"READY of {entry.site}: expected the model of version {state.version} with fingerprint "
            f"{base.hex()[:16]}, got {entry.fingerprint.hex()[:16]}",
            "the site trained from another model than the others hold",
        )
    if state.ready:
        first = state.ready[0]
        if first.layout_digest != entry.layout_digest:
            message = (
                f"the model of {entry.site} has other tensors than that of {first.site}: layout "
                f"{entry.layout_digest.hex()[:16]} instead of {first.layout_digest.hex()[:16]}; "
                "do both run the same job code and library versions?"
            )
            return ended(state, Phase.FAILED, message), (Announce("job-failed", message, state.round, (entry.site,)),)
        _fits(entry, first)
    ready = tuple(sorted((*state.ready, entry), key=lambda each: each.site.encode()))
    failed = {site: message for site, message in state.failed.items() if site != entry.site}
    said = Announce("site-ready", f"{entry.site} is ready", state.round, (entry.site,))
    taken, effects = maybe_seal(replace(state, ready=ready, failed=failed), event.now)
    return taken, (said, *effects)


def _entry_of(state: JobState, site: str) -> ReadyEntry | None:
    return next((entry for entry in state.ready if entry.site == site), None)


def _fits(entry: ReadyEntry, first: ReadyEntry) -> None:
    for what in ("key_id", "params_id", "fingerprint", "chunks"):
        expected, actual = getattr(first, what), getattr(entry, what)
        if expected != actual:
            shown = [value.hex()[:16] if isinstance(value, bytes) else value for value in (expected, actual)]
            raise RemoteProtocolError(
                f"READY of {entry.site}: expected {first.site}'s {what.replace('_', ' ')} {shown[0]}, got {shown[1]}",
                "the site holds another key or model than the others",
            )


def maybe_seal(state: JobState, now: float) -> Step:
    """Seals the roster if all that are awaited are READY, or the deadline has passed with enough of them."""
    if state.phase is not Phase.TRAIN:
        return state, ()
    awaited = [site for site in state.able if site not in state.waiting]
    if state.candidates is not None:
        awaited = [site for site in awaited if site in state.candidates]
    names = {entry.site for entry in state.ready}
    enough = len(names) >= state.config.min_sites
    late = state.deadline is not None and now >= state.deadline
    if enough and (late or all(site in names for site in awaited)):
        return _seal(state, now)
    if late and state.candidates is not None:
        # those that still had their update are gone too: ask everybody
        return replace(state, candidates=None, deadline=now + state.config.train_deadline), ()
    if late:
        message = f"waiting: {len(names)} of at least {state.config.min_sites} sites are ready, the deadline has passed"
        return replace(state, message=message), ()
    return state, ()


def _seal(state: JobState, now: float) -> Step:
    roster = SealedSet(
        round=state.round,
        attempt=state.attempt,
        entries=state.ready,
        context=context_of([entry.body for entry in state.ready]),
    )
    sealed = replace(
        state,
        phase=Phase.UPLOAD,
        roster=roster,
        uploaded={},
        deadline=now + state.config.upload_deadline,
        message="",
    )
    message = f"round {state.round}, attempt {state.attempt}: roster of {len(roster.sites)} sites sealed"
    return sealed, (Announce("roster-sealed", message, state.round, roster.sites),)


def upload_finished(state: JobState, event: UploadFinished) -> Step:
    """Counts a complete upload; after the last one the sum is due.

    Raises:
        StateError: another round, attempt or phase, a site not on the roster, or another digest than before.
    """
    _expect_attempt(state, event.round, event.attempt, f"upload of {event.site}")
    if state.roster is None or event.site not in state.roster.sites:
        raise StateError(f"upload of {event.site}: the site is not on the roster of round {event.round}")
    if event.site in state.uploaded:
        if state.uploaded[event.site] != event.digest:
            raise StateError(f"upload of {event.site}: already complete with another content")
        return state, ()
    uploaded = {**state.uploaded, event.site: event.digest}
    counted = replace(state, uploaded=uploaded)
    said = Announce("upload-finished", f"{event.site} has uploaded", state.round, (event.site,))
    if len(uploaded) < len(state.roster.sites):
        return counted, (said,)
    return replace(counted, phase=Phase.SUM, deadline=None), (said, StartSum(state.roster))


def upload_late(state: JobState, now: float) -> Step:
    """UPLOAD's deadline: those that have not uploaded are lost to this round's attempt."""
    if state.roster is None or state.deadline is None or now < state.deadline:
        return state, ()
    lost = [site for site in state.roster.sites if site not in state.uploaded]
    return new_attempt(
        state, tuple(sorted(state.uploaded)), f"no upload from {', '.join(lost)} before the deadline", now
    )


def lose_site(state: JobState, site: str, why: str, now: float) -> Step:
    """What is left of the round when `site` can no more take part in it."""
    if state.phase in {Phase.UPLOAD, Phase.SUM} and state.roster is not None and site in state.roster.sites:
        return new_attempt(state, without_member(state.roster.sites, site), f"{site} is lost: {why}", now)
    if state.phase is Phase.TRAIN:
        ready = tuple(entry for entry in state.ready if entry.site != site)
        candidates = None if state.candidates is None else without_member(state.candidates, site)
        if candidates is not None and len(candidates) < state.config.min_sites:
            candidates = None
        return maybe_seal(replace(state, ready=ready, candidates=candidates), now)
    return state, ()


def fail_if_too_few(state: JobState) -> Step:
    """Ends the job where failures and refusals leave fewer sites than a round needs."""
    left = [site for site in state.config.sites if site not in state.failed and site not in state.declined]
    if not state.phase.running or len(left) >= state.config.min_sites:
        return state, ()
    reasons = "; ".join(f"{site}: {why}" for site, why in sorted({**state.declined, **state.failed}.items()))
    message = f"only {len(left)} sites can take part, at least {state.config.min_sites} have to: {reasons}"
    return ended(state, Phase.FAILED, message), (Announce("job-failed", message, state.round),)


def _expect_attempt(state: JobState, round_: int, attempt: int, what: str) -> None:
    if (round_, attempt) != (state.round, state.attempt):
        raise StateError(
            f"{what}: expected round {state.round}, attempt {state.attempt}, got round {round_}, attempt {attempt}"
        )
