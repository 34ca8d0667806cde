"""What may be dropped: uploads, sums and unfinished checkpoints that a job's state does not speak of any more.

Decided from the state alone, so that it is the same after a step as after a crash and a restart.
"""

from collections.abc import Iterator

from fedhe.rounds.state import JobState, Phase
from fedhe.server import places, records
from fedhe.server.blobs import BlobStore
from fedhe.server.jobs import Job, ObjectKey, key_of
from fedhe.server.places import CHECKPOINT, SUM, UPDATE
from fedhe.server.store import Store


def is_needed(state: JobState, key: ObjectKey, *, complete: bool) -> bool:
    """Whether the state still speaks of an object.

    Args:
        state: the job's.
        key: the object; never of kind `JOB`, which stays as long as the job.
        complete: whether all of it is stored.
    """
    attempt = (key.number, key.attempt)
    if key.kind == CHECKPOINT:
        sealing = state.duty is not None and (state.duty.site, state.duty.version) == (key.owner, key.number)
        seeding = state.phase is Phase.SEEDING and (state.seeder, 0) == (key.owner, key.number)
        return complete or sealing or seeding
    under_way = state.phase in {Phase.UPLOAD, Phase.SUM} and state.roster is not None
    if under_way and state.roster is not None and attempt == (state.roster.round, state.roster.attempt):
        return True
    return key.kind != UPDATE and any(attempt == (kept.round, kept.roster.attempt) for kept in state.sums)


def drop_unneeded(store: Store, blobs: BlobStore, job: Job) -> list[ObjectKey]:
    """Drops what is not needed; may be cut at any moment and called again.

    Returns:
        The complete objects that are gone.

    Raises:
        ResourceError: the disk fails; what is left is dropped the next time.
    """
    unneeded = [
        (key, place)
        for key, place in _stored(blobs, job.job_id)
        if not is_needed(job.state, key, complete=key in job.objects)
    ]
    rows = [job.objects[key] for key, _ in unneeded if key in job.objects]
    rows += [row for key, row in job.objects.items() if _outlived(blobs, job.state, key) and row not in rows]
    cut = [(key, place) for key, place in unneeded if key.kind == UPDATE and key not in job.objects]
    if rows or cut:
        with store.write() as connection:
            for row in rows:
                records.delete_object(connection, row)
            for key, place in cut:
                # What was sent in vain was sent all the same.
                records.add_bytes(connection, job.job_id, key.number, key.owner, up=blobs.size(place))
    for _, place in unneeded:
        blobs.drop(place)
    return [key_of(row) for row in rows]


def _outlived(blobs: BlobStore, state: JobState, key: ObjectKey) -> bool:
    """Whether a row is left whose chunks a crash let be dropped before it."""
    if key.kind not in {UPDATE, SUM} or is_needed(state, key, complete=True):
        return False
    return not blobs.chunks(places.place(state.job_id, key.kind, key.number, key.attempt, key.owner))


def _stored(blobs: BlobStore, job_id: str) -> Iterator[tuple[ObjectKey, str]]:
    """All objects of a job of which anything is stored, with where they are."""
    for kind in (UPDATE, SUM, CHECKPOINT):
        above = places.kind(job_id, kind)
        for name in blobs.folders(above):
            number, _, attempt = name.partition("-")
            if not number.isdecimal():
                continue
            owners = [""] if kind == SUM else blobs.folders(f"{above}/{name}")
            for owner in owners:
                key = ObjectKey(kind, int(number), int(attempt or 0), owner)
                yield key, places.place(job_id, kind, key.number, key.attempt, owner)
