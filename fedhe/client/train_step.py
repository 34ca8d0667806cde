"""TRAIN: run the job's training process on the present model, keep the update durably, sign and send READY."""

import secrets

from fedhe.client.job_folder import ReadyRecord, UpdateRecord
from fedhe.client.note import Note
from fedhe.client.training_run import layout_of, read_model, require_layout, run_task
from fedhe.client.work import Work
from fedhe.errors import StateError, TrainingError
from fedhe.he.plan import plan_update
from fedhe.model.flatten import max_changes
from fedhe.trust.sealed import NoteContext, seal_note
from fedhe.trust.signatures import READY_LABEL, sign
from fedhe.wire import federation
from fedhe.wire.messages import ReadyStatement, write_ready

NONCE_BYTES = 16


async def train(work: Work, round_: int) -> None:
    """Trains a round and keeps the update, unless this site still has it.

    Raises:
        TrainingError: job code or training failed, or the update has a value that is not finite.
        NotNowError: this site does not hold model version `round_ - 1`.
        ResourceError: disk full or read-only.
    """
    if _kept_update(work, round_) is not None:
        return
    layout = work.known_layout()
    result = await run_task(work, "train", round_, model=round_ - 1)
    if result.samples < 1:
        raise TrainingError(f"expected at least 1 training case, the training process counted {result.samples}")
    require_layout(layout_of(work, result), layout)
    # Both are float32: the difference is rounded once, here, and everything after it starts from these bytes.
    change = read_model(work, "train", layout)
    change -= work.model(round_ - 1)
    changes = max_changes(change, layout)
    digest = work.vectors.write(work.folder.update_file(round_), change, layout)
    record = UpdateRecord(
        round=round_,
        digest=digest,
        samples=result.samples,
        max_change=changes,
        metrics=result.metrics,
        main_metric=result.main_metric,
    )
    work.keep(update=record, round=round_)
    work.audit("trained", round=round_, update=digest.hex())
    work.log("info", f"round {round_}: trained in {result.seconds:.0f} s")


async def send_ready(work: Work, round_: int, attempt: int) -> None:
    """Signs READY for one attempt and sends it; the same bytes however often it is sent.

    Raises:
        StateError: the update is not here.
        ServerRefusedError: the server does not take it.
    """
    update = _kept_update(work, round_)
    if update is None:
        raise StateError(f"round {round_}: this site has no update to be ready with")
    ready = work.record.ready
    if ready is None or (ready.round, ready.attempt) != (round_, attempt):
        ready = _sign(work, update, round_, attempt)
        work.keep(ready=ready)  # before it leaves: a READY that was sent is never signed a second time otherwise
        work.audit("ready-signed", round=round_, attempt=attempt)
    message = federation.SignedReady(body=ready.body, signature=ready.signature, certificate=ready.certificate)
    with work.closing():
        await work.site.session.call(work.site.session.stub.Ready, message)
        work.log("info", f"round {round_}, attempt {attempt}: ready")


def _sign(work: Work, update: UpdateRecord, round_: int, attempt: int) -> ReadyRecord:
    site, layout, params = work.site, work.known_layout(), work.params()
    nonce = secrets.token_bytes(NONCE_BYTES)
    note = Note(update.samples, update.max_change, update.metrics, update.main_metric)
    context = NoteContext(
        project=site.project, job_id=work.job_id, round=round_, attempt=attempt, site=site.name, nonce=nonce
    )
    statement = ReadyStatement(
        project=site.project,
        job_id=work.job_id,
        round=round_,
        attempt=attempt,
        site=site.name,
        nonce=nonce,
        model_fingerprint=work.fingerprint(round_ - 1),
        layout_digest=layout.digest,
        key_id=site.secret_key.key_id,
        params_id=params.params_id,
        chunks=plan_update(layout, params).chunks,
        sealed_note=seal_note(site.group_key, context=context, note=note.to_json()),
    )
    body = write_ready(statement)
    return ReadyRecord(
        round=round_,
        attempt=attempt,
        body=body,
        signature=sign(READY_LABEL, body, site.installation.signing_key),
        certificate=site.installation.certificate_der,
    )


def _kept_update(work: Work, round_: int) -> UpdateRecord | None:
    update = work.record.update
    if update is None or update.round != round_:
        return None
    try:
        work.vectors.check(work.folder.update_file(round_), work.known_layout(), update.digest)
    except StateError as error:
        work.log("warning", f"the update of round {round_} is lost ({error.message}); training again")
        work.keep(update=None)
        return None
    return update
