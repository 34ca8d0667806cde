"""Seed, seal and load: the model's way onto the server as a sealed checkpoint, and back from it."""

import asyncio

from fedhe.client.checkpoint import PIECE_BYTES, CheckpointSealer, open_checkpoint, plain_checkpoint
from fedhe.client.exchange_step import say_applied
from fedhe.client.spool import Spool
from fedhe.client.training_run import initial_model
from fedhe.client.transfer import LostError, download, finish_upload, send_chunks
from fedhe.client.work import Work
from fedhe.errors import RemoteProtocolError
from fedhe.model.layout import MAX_LAYOUT_JSON_BYTES, MAX_VALUES
from fedhe.wire import federation
from fedhe.wire.limits import MAX_CHUNKS

MAX_CHECKPOINT_CHUNKS = min(MAX_CHUNKS, (4 * MAX_VALUES + MAX_LAYOUT_JSON_BYTES) // PIECE_BYTES + 2)


async def seed(work: Work) -> None:
    """Makes the job's first model, uploads it sealed as version 0, and says so.

    Raises:
        TrainingError: job code failed.
        ServerRefusedError: the server does not take it.
    """
    if work.record.version != 0 or work.layout is None or not work.record.seeded:
        layout, vector = await initial_model(work)
        work.folder.write_layout(layout)
        work.layout = layout
        work.take_model(0, vector, layout)
        work.keep(seeded=True)
        work.audit("model-made", values=layout.n_values, fingerprint=work.fingerprint(0).hex())
        work.log("info", f"made the first model: {len(layout.tensors)} tensors, {layout.n_values} values")
    await seal(work, 0)
    await say_applied(work, 0)


async def seal(work: Work, version: int) -> None:
    """Uploads a model as sealed checkpoint.

    Raises:
        NotNowError: this site does not hold that version.
        ServerRefusedError: the server does not take it.
    """
    layout = work.known_layout()
    vector = work.model(version)
    work.tell(federation.ACTIVITY_SEALING)
    sealer = CheckpointSealer(work.site.group_key, work.job_id, version, plain_checkpoint(layout, vector))
    spool = Spool(work.folder.spool(f"checkpoint-{version}"))
    ref = _ref(work, version)

    def told(fraction: float) -> None:
        work.tell(federation.ACTIVITY_SEALING, fraction)

    try:
        digest = await send_chunks(
            work.site.session, ref, sealer.chunks, spool, make=sealer.seal, run=asyncio.to_thread, told=told
        )
    except LostError:
        # Another site can do it as well, and the server gives the duty to the next one if this report comes.
        spool.clear()
        raise
    with work.closing():
        await finish_upload(work.site.session, ref, sealer.chunks, digest)
        spool.clear()
        work.audit("checkpoint-sealed", version=version, chunks=sealer.chunks)
        work.log("info", f"sealed checkpoint of version {version} stored at the server")


async def load_checkpoint(work: Work, version: int) -> None:
    """Fetches a sealed checkpoint, opens it, makes it the present model, and says so.

    Raises:
        TrustError: not sealed by a site of this project for this job and version.
        RemoteProtocolError: not a checkpoint, or of a model with other tensors than this site's.
        ServerRefusedError: the server does not hand it out.
    """
    # A site whose seeding was cut holds a version 0 of its own making, which another site's may have replaced.
    own_seed = version == 0 and work.record.seeded
    if work.record.version != version or version not in work.record.model_digests or own_seed:
        work.tell(federation.ACTIVITY_DOWNLOADING)
        spool = Spool(work.folder.spool(f"checkpoint-{version}-in"))
        count, _ = await download(
            work.site.session,
            _ref(work, version),
            spool,
            max_chunks=MAX_CHECKPOINT_CHUNKS,
            told=lambda fraction: work.tell(federation.ACTIVITY_DOWNLOADING, fraction),
        )
        chunks = (spool.get(index) or b"" for index in range(count))
        layout, vector = await asyncio.to_thread(
            open_checkpoint, work.site.group_key, work.job_id, version, chunks, count
        )
        if work.layout is not None and layout.digest != work.layout.digest:
            raise RemoteProtocolError(
                f"checkpoint of version {version}: its tensors (there) differ from this site's model (here): "
                f"{work.layout.difference(layout)}"
            )
        work.folder.write_layout(layout)
        work.layout = layout
        work.take_model(version, vector, layout)
        work.keep(seeded=False)
        work.audit("checkpoint-loaded", version=version, fingerprint=work.fingerprint(version).hex())
        work.log("info", f"model version {version} loaded from the sealed checkpoint")
    await say_applied(work, version)


def _ref(work: Work, version: int) -> federation.ObjectRef:
    return federation.ObjectRef(job_id=work.job_id, kind=federation.OBJECT_KIND_CHECKPOINT, number=version)
