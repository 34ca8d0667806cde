"""Objects in and out by chunks: what may be sent or fetched by whom, each chunk checked before it is stored."""

import asyncio
from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from fedhe.errors import NotFoundError, RemoteProtocolError, StateError
from fedhe.he.ciphertext import MAX_CIPHERTEXTS, ChunkKind, Expectation, read_chunk
from fedhe.rounds import events
from fedhe.rounds.directive import Work, work_for
from fedhe.server import places, records
from fedhe.server.blobs import BlobInfo
from fedhe.server.jobs import Job, ObjectKey
from fedhe.server.leaked_keys import refuse_keys
from fedhe.server.parts import Parts
from fedhe.server.places import CHECKPOINT, JOB, SUM, UPDATE
from fedhe.server.records import ObjectRow
from fedhe.server.runner import Runner
from fedhe.wire import federation
from fedhe.wire.chunking import bitmap_of, check_chunk
from fedhe.wire.limits import LATEST, MAX_CHUNKS

_KINDS = {
    federation.OBJECT_KIND_JOB: JOB,
    federation.OBJECT_KIND_UPDATE: UPDATE,
    federation.OBJECT_KIND_SUM: SUM,
    federation.OBJECT_KIND_CHECKPOINT: CHECKPOINT,
}


@dataclass(frozen=True)
class Permit:
    """That a site may send an object now.

    Args:
        key: the object.
        place: where its chunks go.
        chunks: how many it may have, at most.
        exactly: whether it must have that many.
    """

    key: ObjectKey
    place: str
    chunks: int
    exactly: bool


class Transfers:
    """Uploads and downloads of all jobs."""

    def __init__(self, parts: Parts, runner: Runner) -> None:
        self._parts = parts
        self._runner = runner

    # ---- uploads ----

    async def status(self, site: str, ref: federation.ObjectRef) -> federation.UploadStatusReply:
        """Which chunks of an object the site has sent already; asking needs no permit.

        Raises:
            NotFoundError: no such job.
            RemoteProtocolError: sites do not send such objects.
        """
        job = self._job_of(site, ref)
        key = _uploaded_key(ref, site)
        stored = await asyncio.to_thread(self._parts.blobs.chunks, _place(job, key))
        finished = self._finished_digest(job, key) is not None
        return federation.UploadStatusReply(received=bitmap_of(stored, max(stored, default=-1) + 1), finished=finished)

    async def put(self, site: str, ref: federation.ObjectRef, chunk: federation.Chunk) -> None:
        """Checks one chunk and stores it, for good once its object is complete (`finish`).

        Raises:
            StateError: the site was not asked for this object now; says what it was asked for.
            RemoteProtocolError: number, size, digest or content are not what they must be.
            ResourceError: the disk is full.
        """
        job = self._job_of(site, ref)
        key = _uploaded_key(ref, site)
        permit: Permit | StateError
        try:
            permit = self._permit(job, site, key)
        except StateError as error:
            permit = error  # a chunk that is stored already may be sent again at any time
        if not await asyncio.to_thread(self._store, job, key, ref, chunk, permit):
            return
        try:
            self._permit(self._runner.job(ref.job_id), site, key)
        except (StateError, NotFoundError):
            # The attempt was given up while the chunk was written: nothing of it may stay behind.
            if key not in job.objects:
                await asyncio.to_thread(self._parts.blobs.drop, _place(job, key))
            raise
        if key.kind == UPDATE:
            self._runner.aggregator.chunk_arrived(ref.job_id, key.number, key.attempt, site, chunk.index)

    def _store(
        self, job: Job, key: ObjectKey, ref: federation.ObjectRef, chunk: federation.Chunk, permit: Permit | StateError
    ) -> bool:
        """Whether the chunk is new; in one thread from the first check to the disk."""
        place = _place(job, key)
        check_chunk(chunk.index, chunk.data, chunk.digest)
        known = self._parts.blobs.chunk(place, chunk.index)
        if known is not None and known.digest == chunk.digest:
            return False
        if isinstance(permit, StateError):
            raise permit
        if chunk.index >= permit.chunks:
            raise RemoteProtocolError(
                f"{_named(ref)}: expected chunks 0 to {permit.chunks - 1}, as told in READY, got {chunk.index}"
            )
        if key.kind == UPDATE:  # what passes as a ciphertext is no file of a key
            self._check_ciphertexts(job, key.owner, chunk.index, chunk.data)
        else:
            refuse_keys(chunk.data, f"chunk {chunk.index} of {_named(ref)}")
        self._parts.budget.admit(len(chunk.data))
        self._parts.blobs.put(place, chunk.index, chunk.data, chunk.digest)
        return True

    async def finish(self, site: str, request: federation.FinishUploadRequest) -> None:
        """Takes an object as complete.

        Raises:
            StateError: chunks are missing (names them), or the site was not asked for it now.
            RemoteProtocolError: another number of chunks or digest than what is stored.
        """
        ref = request.object
        job = self._job_of(site, ref)
        key = _uploaded_key(ref, site)
        if (digest := self._finished_digest(job, key)) is not None:
            _same_digest(ref, digest, request.digest)
            return
        permit = self._permit(job, site, key)
        if not 1 <= request.chunks <= permit.chunks or (permit.exactly and request.chunks != permit.chunks):
            least = permit.chunks if permit.exactly else 1
            raise RemoteProtocolError(
                f"{_named(ref)}: expected {least} to {permit.chunks} chunks, got {request.chunks}"
            )
        info = await asyncio.to_thread(self._parts.blobs.complete, permit.place, request.chunks)
        _same_digest(ref, info.digest, request.digest)
        await self._runner.feed(ref.job_id, self._finished(key, info), partial(self._record, ref.job_id, key, info))

    def _finished_digest(self, job: Job, key: ObjectKey) -> bytes | None:
        """Digest of an object that the site has declared complete; an update's is known until the round ends."""
        if (row := job.objects.get(key)) is not None:
            return row.digest
        roster = job.state.roster
        if key.kind == UPDATE and roster is not None and (roster.round, roster.attempt) == (key.number, key.attempt):
            return job.state.uploaded.get(key.owner)
        return None

    def _finished(self, key: ObjectKey, info: BlobInfo) -> events.Event:
        now = self._parts.clock()
        if key.kind == UPDATE:
            return events.UploadFinished(key.owner, key.number, key.attempt, info.digest, now)
        return events.CheckpointFinished(key.owner, key.number, now)

    def _record(self, job_id: str, key: ObjectKey, info: BlobInfo, connection: Connection) -> None:
        now = self._parts.clock()
        row = ObjectRow(job_id, key.kind, key.number, key.attempt, key.owner, info.chunks, info.size, info.digest, now)
        records.put_object(connection, row)
        if key.kind == UPDATE:
            records.add_bytes(connection, job_id, key.number, key.owner, up=info.size)
            values = {"upload_digest": info.digest, "uploaded_at": now}
            records.update_contribution(connection, job_id, key.number, key.owner, **values)

    def _permit(self, job: Job, site: str, key: ObjectKey) -> Permit:
        """What the site was asked to send is what it may send, also after the job was paused."""
        asked, roster = work_for(job.state, site), job.state.roster
        place = _place(job, key)
        if asked is not None and key.kind == CHECKPOINT:
            version = asked.version if asked.work is Work.SEAL else 0
            if asked.work in {Work.SEAL, Work.SEED} and (version, 0) == (key.number, key.attempt):
                return Permit(key, place, MAX_CHUNKS, exactly=False)
        uploading = asked is not None and key.kind == UPDATE and asked.work is Work.UPLOAD
        if uploading and roster is not None and (roster.round, roster.attempt) == (key.number, key.attempt):
            return Permit(key, place, roster.chunks, exactly=True)
        wanted = "nothing" if asked is None else f"{asked.id!r} in phase {job.state.phase}"
        raise StateError(
            f"job {job.job_id}: {site} was asked for {wanted}, got {key.kind} {key.number}, attempt {key.attempt}",
            "poll for the present instruction",
        )

    def _check_ciphertexts(self, job: Job, site: str, index: int, data: bytes) -> None:
        roster = job.state.roster
        if roster is None:
            raise StateError(f"job {job.job_id}: no roster is sealed now", "poll for the present instruction")
        expect = Expectation(
            kind=ChunkKind.UPLOAD,
            key_id=roster.entries[0].key_id,
            params_id=job.params.params_id,
            context=roster.context,
            index=index,
            # All chunks but the last are full; how many ciphertexts the last one has, the model decides.
            count=MAX_CIPHERTEXTS if index < roster.chunks - 1 else None,
        )
        read_chunk(data, expect=expect, params=job.params)
        for other in roster.sites:
            place = places.update(job.job_id, roster.round, roster.attempt, other)
            stored = self._parts.blobs.chunk(place, index) if other != site else None
            if stored is not None and stored.size != len(data):
                raise RemoteProtocolError(
                    f"chunk {index} of {site}: expected {stored.size} bytes, as {other} sent, got {len(data)}"
                )

    # ---- downloads ----

    def describe(self, site: str | None, ref: federation.ObjectRef) -> federation.ObjectInfo:
        """Describes a complete object.

        Args:
            site: who asks; None for an admin.
            ref: the object; number `LATEST` is the newest checkpoint.

        Raises:
            NotFoundError: no such job or object.
            StateError: the site has no part in the job.
            RemoteProtocolError: the caller may not fetch objects of this kind.
        """
        row = self._downloadable(site, ref)
        return federation.ObjectInfo(chunks=row.chunks, size=row.size, digest=row.digest)

    async def get(self, site: str | None, request: federation.GetChunkRequest) -> federation.Chunk:
        """One chunk of a complete object; see `describe`."""
        row = self._downloadable(site, request.object)
        if request.index >= row.chunks:
            raise RemoteProtocolError(
                f"{_named(request.object)}: expected a chunk below {row.chunks}, got {request.index}"
            )
        place = places.place(row.job_id, row.kind, row.number, row.attempt, row.owner)
        data, digest = await asyncio.to_thread(self._parts.blobs.get, place, request.index)
        if site is not None and row.kind == SUM:
            self._runner.fetched.add(row.job_id, row.number, site, len(data))
        return federation.Chunk(index=request.index, data=data, digest=digest)

    def _downloadable(self, site: str | None, ref: federation.ObjectRef) -> ObjectRow:
        job = self._runner.job(ref.job_id) if site is None else self._job_of(site, ref)
        kind = _KINDS.get(ref.kind)
        if kind not in ({JOB, CHECKPOINT} if site is None else {JOB, SUM, CHECKPOINT}):
            raise RemoteProtocolError(f"{_named(ref)}: an object of this kind cannot be fetched")
        row: ObjectRow | None = None
        if kind == JOB:
            row = job.objects.get(ObjectKey(JOB))
        elif kind == CHECKPOINT:
            newest = job.checkpoints[-1] if job.checkpoints else None
            number = newest if ref.number == LATEST else ref.number
            row = None if number is None else job.stored_checkpoint(number)
        elif (published := job.state.sum_of(ref.number)) is not None and ref.attempt in {0, published.roster.attempt}:
            row = job.objects.get(ObjectKey(SUM, ref.number, published.roster.attempt))
        if row is None:
            raise NotFoundError(f"job {job.job_id}: {_named(ref)} is not stored here")
        return row

    def _job_of(self, site: str, ref: federation.ObjectRef) -> Job:
        job = self._runner.job(ref.job_id)
        if site not in job.state.config.sites:
            raise StateError(f"{site} has no part in job {job.job_id}", "the job names its sites in config_fed.yml")
        if site in job.state.gone:
            raise StateError(f"{site} is disabled in job {job.job_id}", "an admin can enable it again")
        return job


def _uploaded_key(ref: federation.ObjectRef, site: str) -> ObjectKey:
    kind = _KINDS.get(ref.kind)
    if kind not in {UPDATE, CHECKPOINT}:
        raise RemoteProtocolError(f"expected an update or a checkpoint, got {_named(ref)}", "sites send nothing else")
    return ObjectKey(kind, ref.number, ref.attempt, site)


def _place(job: Job, key: ObjectKey) -> str:
    return places.place(job.job_id, key.kind, key.number, key.attempt, key.owner)


def _same_digest(ref: federation.ObjectRef, stored: bytes, told: bytes) -> None:
    if stored != told:
        raise RemoteProtocolError(
            f"{_named(ref)}: what is stored has digest {stored.hex()[:16]}..., the site says {told.hex()[:16]}..."
        )


def _named(ref: federation.ObjectRef) -> str:
    kind = _KINDS.get(ref.kind, f"object of kind {ref.kind}")
    attempt = f", attempt {ref.attempt}" if ref.attempt else ""
    return f"{kind} {ref.number}{attempt}" if kind != JOB else kind
