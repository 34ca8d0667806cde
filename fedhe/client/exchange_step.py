"""UPLOAD and APPLY: this site's encrypted part of the round out, the encrypted sum in, the next model."""

import numpy as np
from numpy.typing import NDArray

from fedhe.client.job_folder import NO_MODEL, ReadyRecord
from fedhe.client.roster_check import CheckedRoster, Expectation, Purpose, check_roster
from fedhe.client.round_codec import Grid, UpdateEncoder, agree_on_grid, apply_chunk
from fedhe.client.spool import Spool
from fedhe.client.training_run import validation_note
from fedhe.client.transfer import LostError, download, finish_upload, send_chunks
from fedhe.client.update_record import record_sent, record_sum
from fedhe.client.work import NotNowError, Work
from fedhe.errors import StateError, TrainingError
from fedhe.he.ciphertext import ChunkKind
from fedhe.he.ciphertext import Expectation as ChunkExpectation
from fedhe.he.params import CkksParams
from fedhe.he.plan import UpdatePlan, plan_update
from fedhe.wire import federation


async def send_update(work: Work, sealed: federation.SealedRoster) -> None:
    """Checks the sealed roster, quantises, encrypts and uploads this site's update.

    Raises:
        TrustError: the roster is not what it must be.
        RemoteProtocolError: it is about another round, model or key.
        PolicyError: too few sites for the job or this site's policy.
        LostError: this site no longer has its update, or chunks that the server has.
        ServerRefusedError: the server does not take the upload.
    """
    ready = _own_ready(work, sealed)
    if ready is None:
        raise LostError(f"round {sealed.round}: this site has no READY for attempt {sealed.attempt}")
    layout, params = work.known_layout(), work.params()
    plan = plan_update(layout, params)
    roster = await _check(work, sealed, plan, params, Purpose.UPLOAD)
    encoder = _encoder(work, roster, plan, agree_on_grid(roster.notes, layout, params))
    work.tell(federation.ACTIVITY_ENCRYPTING)
    if work.site.policy().record_updates:
        await work.site.in_crypto_thread(lambda: record_sent(work, roster, encoder))
    # Written before the first chunk leaves: no other roster of this attempt gets this update, whatever happens.
    if ready.context != roster.context:
        work.audit(
            "update-released",
            round=roster.round, attempt=roster.attempt, context=roster.context.hex(), sites=list(roster.sites),
        )  # fmt: skip
        work.keep(ready=ready.model_copy(update={"context": roster.context}))

    def encrypt(index: int) -> bytes:
        return work.site.engine(params).encrypt(encoder.coefficients(index), roster.context, index)

    ref = federation.ObjectRef(
        job_id=work.job_id, kind=federation.OBJECT_KIND_UPDATE, number=roster.round, attempt=roster.attempt
    )
    digest = await send_chunks(
        work.site.session,
        ref,
        plan.chunks,
        Spool(work.folder.spool(f"update-{roster.round}-{roster.attempt}")),
        make=encrypt,
        run=work.site.in_crypto_thread,
        told=lambda fraction: work.tell(federation.ACTIVITY_ENCRYPTING, fraction),
    )
    with work.closing():
        await finish_upload(work.site.session, ref, plan.chunks, digest)
        work.audit("update-sent", round=roster.round, attempt=roster.attempt, upload=digest.hex(), chunks=plan.chunks)
        work.log("info", f"round {roster.round}: encrypted update sent, {plan.chunks} chunks")


async def apply_sum(work: Work, sealed: federation.SealedRoster, *, validate: bool) -> None:
    """Fetches the round's sum, decrypts it, makes the next model the present one, and says so.

    Raises:
        TrustError: the roster is not what it must be, or the sum does not decrypt as honest sites' would.
        RemoteProtocolError: roster or sum are about another round, model or key.
        NotNowError: this site holds another version of the model.
        ServerRefusedError: the server does not hand it out.
    """
    version = sealed.round
    if work.record.version != version:
        if work.record.version != version - 1:
            raise NotNowError(f"expected model version {version - 1} to apply to, got {work.record.version}")
        layout, params = work.known_layout(), work.params()
        plan = plan_update(layout, params)
        roster = await _check(work, sealed, plan, params, Purpose.APPLY)
        grid = agree_on_grid(roster.notes, layout, params)
        fields = np.zeros(layout.n_values, dtype=np.int64) if work.site.policy().record_updates else None
        after = await _fetch_sum(work, roster, grid, keep=fields)
        if fields is not None:
            record_sum(work, roster, fields, grid)
        work.take_model(version, after, layout)
        work.audit(
            "sum-applied",
            round=version, context=roster.context.hex(), sites=list(roster.sites),
            fingerprint=work.fingerprint(version).hex(),
        )  # fmt: skip
        work.log("info", f"round {version}: sum of {len(roster.sites)} sites applied")
    note = b""
    if validate:
        note = await _validate(work, version)
    await say_applied(work, version, note)


async def say_applied(work: Work, version: int, note: bytes = b"") -> None:
    """Tells the server that this site holds a version, with the model's keyed fingerprint.

    Raises:
        ServerRefusedError: the server does not take it.
    """
    request = federation.AppliedRequest(
        job_id=work.job_id, version=version, model_fingerprint=work.fingerprint(version), sealed_note=note
    )
    with work.closing():
        await work.site.session.call(work.site.session.stub.Applied, request)
        work.keep(round=max(work.record.round, version), acknowledged=version)


async def _validate(work: Work, version: int) -> bytes:
    """The sealed metrics of the last model; they are welcome, not needed: a failure is told and passed over."""
    kept = work.record.applied_note
    if kept is not None and kept[0] == version:
        return kept[1]
    try:
        note = await validation_note(work, version)
    except TrainingError as error:
        work.log("warning", f"the last model could not be validated here: {error.message}")
        return b""
    work.keep(applied_note=(version, note))
    return note


def _own_ready(work: Work, sealed: federation.SealedRoster) -> ReadyRecord | None:
    ready = work.record.ready
    return ready if ready is not None and (ready.round, ready.attempt) == (sealed.round, sealed.attempt) else None


async def _check(
    work: Work, sealed: federation.SealedRoster, plan: UpdatePlan, params: CkksParams, purpose: Purpose
) -> CheckedRoster:
    ready = _own_ready(work, sealed)
    base = sealed.round - 1
    if not NO_MODEL < base == work.record.version:
        raise NotNowError(f"round {sealed.round} builds on model version {base}, this site holds {work.record.version}")
    # The site's own minimum guards what it gives; a sum that others made is no gift of its own.
    own_minimum = work.site.policy().min_sites if purpose is Purpose.UPLOAD else 0
    expect = Expectation(
        project=work.site.project,
        job_id=work.job_id,
        round=base + 1,
        attempt=sealed.attempt,
        site=work.site.name,
        fingerprint=work.fingerprint(base),
        layout=work.known_layout(),
        params_id=params.params_id,
        key_id=work.site.secret_key.key_id,
        chunks=plan.chunks,
        min_sites=max(work.job().federation.min_sites, work.site.roster.min_sites, own_minimum),
        max_sites=params.max_sites,
        own_body=None if ready is None else ready.body,
        committed=None if ready is None else ready.context,
    )
    anchors = work.site.anchors()
    return await work.site.in_crypto_thread(lambda: check_roster(sealed, expect, anchors, purpose))


def _encoder(work: Work, roster: CheckedRoster, plan: UpdatePlan, grid: Grid) -> UpdateEncoder:
    update = work.record.update
    if update is None or update.round != roster.round:
        raise LostError(f"round {roster.round}: this site no longer has its update")
    try:
        change = work.vectors.read(work.folder.update_file(roster.round), work.known_layout(), update.digest)
    except StateError as error:
        work.keep(update=None)
        raise LostError(f"round {roster.round}: this site's update is lost ({error.message})") from error
    return UpdateEncoder(
        plan=plan,
        grid=grid,
        change=change,
        weight=grid.weights[work.site.name],
        seed=work.job().federation.seed,
        site=work.site.name,
        round=roster.round,
    )


async def _fetch_sum(
    work: Work, roster: CheckedRoster, grid: Grid, *, keep: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Downloads, decrypts and applies the sum, chunk by chunk, to a copy of the model: the next model, (n_values,).

    The summed fields go into `keep`, (n_values,) int64, if the site keeps a record.
    """
    site, params = work.site, work.params()
    plan = plan_update(work.known_layout(), params)
    spool = Spool(work.folder.spool(f"sum-{roster.round}-{roster.attempt}"))
    ref = federation.ObjectRef(
        job_id=work.job_id, kind=federation.OBJECT_KIND_SUM, number=roster.round, attempt=roster.attempt
    )
    model = work.model(roster.round - 1)
    work.tell(federation.ACTIVITY_DOWNLOADING)

    def decrypt(index: int, data: bytes) -> None:
        expect = ChunkExpectation(
            kind=ChunkKind.SUM,
            key_id=site.secret_key.key_id,
            params_id=params.params_id,
            context=roster.context,
            index=index,
            count=plan.ciphertexts_in(index),
            sites=len(roster.sites),
        )
        decoded = apply_chunk(plan, index, site.engine(params).decrypt(data, expect), grid, model)
        if keep is not None:
            for part, fields in decoded:
                keep[part] = fields

    await download(
        site.session,
        ref,
        spool,
        max_chunks=plan.chunks,
        exactly=plan.chunks,
        told=lambda fraction: work.tell(federation.ACTIVITY_DOWNLOADING, fraction),
        take=decrypt,
        run=site.in_crypto_thread,
    )
    return model
