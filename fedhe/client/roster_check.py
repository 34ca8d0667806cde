"""The checks that stand between a sealed roster and this site's update; each raises, none can be switched off.

The server is not trusted to say who takes part. A roster is believed only if every READY in it is signed by a site
of this project, is about this very round, model and key, and this site's own READY is in it as it was signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fedhe.client.note import Note, read_note
from fedhe.errors import PolicyError, RemoteProtocolError, TrustError
from fedhe.model.layout import Layout
from fedhe.rounds.context import context_of
from fedhe.trust.certificates import identity_of, verify_certificate
from fedhe.trust.roster import Roster
from fedhe.trust.sealed import GroupKey, NoteContext, open_note
from fedhe.trust.signatures import READY_LABEL, verify
from fedhe.wire import federation
from fedhe.wire.messages import ReadyStatement, parse_ready

ALTERED = "the server's roster cannot be trusted; tell the coordinator"


class Purpose(StrEnum):
    """What the roster is believed for.

    UPLOAD: this site gives its update; every contributor must be a site in good standing now.
    APPLY: the sum exists already; a contributor's certificate may have expired or been revoked since then.
    """

    UPLOAD = "upload"
    APPLY = "apply"


@dataclass(frozen=True)
class Expectation:
    """What this site knows by itself about the round.

    Attributes:
        fingerprint: keyed fingerprint of the model that this site holds, 32 bytes.
        min_sites: the larger of what the job and this site's policy ask for.
        max_sites: how many contributions the HE parameters can sum.
        own_body: the READY that this site signed for this attempt; None where it signed none.
        committed: the context of the roster that this site already gave its update for; None if none yet.
    """

    project: str
    job_id: str
    round: int
    attempt: int
    site: str
    fingerprint: bytes
    layout: Layout
    params_id: bytes
    key_id: bytes
    chunks: int
    min_sites: int
    max_sites: int
    own_body: bytes | None
    committed: bytes | None


@dataclass(frozen=True)
class Anchors:
    """What trust rests on: the project's CA, the newest signed roster of participants, the clock, the group key."""

    ca_pem: bytes
    participants: Roster
    group_key: GroupKey
    now: float


@dataclass(frozen=True)
class CheckedRoster:
    """A roster that passed every check.

    Attributes:
        context: hash over all READY bodies, 32 bytes; ties every ciphertext to this roster.
        notes: each site's opened note, sorted by site name.
    """

    round: int
    attempt: int
    context: bytes
    notes: dict[str, Note]

    @property
    def sites(self) -> tuple[str, ...]:
        """The contributors, sorted by name."""
        return tuple(self.notes)


def check_roster(
    sealed: federation.SealedRoster, expect: Expectation, anchors: Anchors, purpose: Purpose
) -> CheckedRoster:
    """Verifies a sealed roster completely and opens its notes.

    Raises:
        TrustError: a signature, certificate, context, own READY or note is not what it must be.
        RemoteProtocolError: another job, round, model, key, layout or order than expected.
        PolicyError: fewer sites than the job or this site's policy ask for.
    """
    _about(sealed, expect)
    bodies = [bytes(ready.body) for ready in sealed.ready]
    statements = [_statement(ready, expect, anchors, purpose) for ready in sealed.ready]
    _order(statements)
    _own(statements, bodies, expect, purpose)
    context = context_of(bodies)
    if context != sealed.context:
        raise TrustError(
            f"round {expect.round}: expected roster context {context.hex()[:16]}…, got {sealed.context.hex()[:16]}…",
            ALTERED,
        )
    if expect.committed is not None and context != expect.committed:
        raise TrustError(
            f"round {expect.round}, attempt {expect.attempt}: this site already gave its update for roster "
            f"{expect.committed.hex()[:16]}…, got another roster {context.hex()[:16]}…",
            ALTERED,
        )
    if len(bodies) < expect.min_sites:
        raise PolicyError(
            f"round {expect.round}: expected at least {expect.min_sites} sites, the roster has {len(bodies)}",
            "wait for more sites, or lower min_sites in the job and in this site's policy.yml",
        )
    notes = {statement.site: _note(statement, expect, anchors) for statement in statements}
    return CheckedRoster(expect.round, expect.attempt, context, notes)


def _about(sealed: federation.SealedRoster, expect: Expectation) -> None:
    actual = (sealed.job_id, sealed.round, sealed.attempt)
    wanted = (expect.job_id, expect.round, expect.attempt)
    if actual != wanted:
        raise RemoteProtocolError(f"roster: expected job, round and attempt {wanted}, got {actual}")
    if len(sealed.ready) > expect.max_sites:
        raise RemoteProtocolError(
            f"roster: expected at most {expect.max_sites} sites (what the scale allows), got {len(sealed.ready)}"
        )


def _statement(
    ready: federation.SignedReady, expect: Expectation, anchors: Anchors, purpose: Purpose
) -> ReadyStatement:
    """One READY, with its signature, its signer and all it says checked."""
    certificate = bytes(ready.certificate)
    verify(READY_LABEL, bytes(ready.body), bytes(ready.signature), certificate)
    if purpose is Purpose.UPLOAD:
        identity = verify_certificate(certificate, anchors.ca_pem, anchors.now)
        anchors.participants.check(identity)
    else:
        # The sum was made while the certificate was good. Were a contributor slipped in afterwards, this site's model
        # would differ from the others', and the fingerprints would show it.
        identity = verify_certificate(
            certificate, anchors.ca_pem, min(anchors.now, identity_of(certificate).not_after - 1)
        )
    statement = parse_ready(bytes(ready.body))
    if (identity.project, identity.role) != (expect.project, "site"):
        raise TrustError(
            f"READY of {statement.site}: expected the certificate of a site of project {expect.project}, "
            f"got {identity.role} {identity.name} of project {identity.project}",
            ALTERED,
        )
    if identity.name != statement.site:
        raise TrustError(f"READY of {statement.site}: signed with the certificate of {identity.name}", ALTERED)
    for what, wanted, actual in (
        ("project", expect.project, statement.project),
        ("job", expect.job_id, statement.job_id),
        ("round", expect.round, statement.round),
        ("attempt", expect.attempt, statement.attempt),
        ("fingerprint of the model before the round", expect.fingerprint, statement.model_fingerprint),
        ("layout digest", expect.layout.digest, statement.layout_digest),
        ("HE parameters", expect.params_id, statement.params_id),
        ("HE key id", expect.key_id, statement.key_id),
        ("number of chunks", expect.chunks, statement.chunks),
    ):
        if wanted != actual:
            raise RemoteProtocolError(
                f"READY of {statement.site}: expected {what} {_show(wanted)}, got {_show(actual)}"
            )
    return statement


def _show(value: object) -> str:
    return f"{value.hex()[:16]}…" if isinstance(value, bytes) else str(value)


def _order(statements: Sequence[ReadyStatement]) -> None:
    names = [statement.site.encode() for statement in statements]
    if sorted(set(names)) != names:
        shown = ", ".join(statement.site for statement in statements)
        raise RemoteProtocolError(f"roster: expected each site once, sorted by name, got {shown}")
    if len({statement.nonce for statement in statements}) != len(statements):
        raise TrustError("roster: expected a fresh nonce from each site, got one twice", ALTERED)


def _own(statements: Sequence[ReadyStatement], bodies: Sequence[bytes], expect: Expectation, purpose: Purpose) -> None:
    mine = [body for statement, body in zip(statements, bodies, strict=True) if statement.site == expect.site]
    if not mine:
        if purpose is Purpose.UPLOAD:
            raise TrustError(f"round {expect.round}: this site, {expect.site}, is not on the roster", ALTERED)
        return
    if expect.own_body is None:
        if purpose is Purpose.UPLOAD:
            raise TrustError(f"round {expect.round}: this site signed no READY for attempt {expect.attempt}", ALTERED)
        return  # this site lost its disk and catches up; the READY carries its signature
    if mine[0] != expect.own_body:
        raise TrustError(
            f"round {expect.round}: the READY of this site, {expect.site}, is not the one that it sent last", ALTERED
        )


def _note(statement: ReadyStatement, expect: Expectation, anchors: Anchors) -> Note:
    context = NoteContext(
        project=expect.project,
        job_id=expect.job_id,
        round=expect.round,
        attempt=expect.attempt,
        site=statement.site,
        nonce=statement.nonce,
    )
    note = read_note(open_note(anchors.group_key, context=context, note=statement.sealed_note))
    if note.samples < 1:
        raise RemoteProtocolError(f"note of {statement.site}: expected at least 1 sample, got {note.samples}")
    names = {tensor.name for tensor in expect.layout.tensors}
    if note.max_change.keys() != names:
        odd = min(note.max_change.keys() ^ names)
        raise RemoteProtocolError(
            f"note of {statement.site}: its tensors differ from the model's, first at {odd!r:.80}"
        )
    return note
