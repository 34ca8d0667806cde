"""A job as the server holds it in memory: its row, its configuration, the round machine's state, its objects."""

from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from fedhe.config.federation import FederationConfig
from fedhe.errors import StateError
from fedhe.he.params import CkksParams
from fedhe.rounds.state import JobState
from fedhe.server.places import CHECKPOINT
from fedhe.server.records import JobRow, ObjectRow

_STATE: TypeAdapter[JobState] = TypeAdapter(JobState)


@dataclass(frozen=True)
class ObjectKey:
    """Names one object of a job.

    Args:
        kind: as in places.py.
        number: round or version; 0 of a `JOB`.
        attempt: 0 where there is none.
        owner: the site that sent it, or empty.
    """

    kind: str
    number: int = 0
    attempt: int = 0
    owner: str = ""


@dataclass
class Job:
    """One job; `state` is replaced as a whole, after it is on the disk.

    Args:
        params: the project's HE parameters with this job's field widths.
        objects: complete objects.
    """

    row: JobRow
    federation: FederationConfig
    params: CkksParams
    state: JobState
    objects: dict[ObjectKey, ObjectRow] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.row.job_id

    def stored_checkpoint(self, version: int) -> ObjectRow | None:
        """The complete sealed checkpoint of a version, whoever sent it."""
        for key, row in self.objects.items():
            if key.kind == CHECKPOINT and key.number == version:
                return row
        return None

    @property
    def checkpoints(self) -> list[int]:
        """Versions of which a sealed checkpoint is stored, ascending."""
        return sorted({key.number for key in self.objects if key.kind == CHECKPOINT})


def write_state(state: JobState) -> str:
    """The state as JSON."""
    return _STATE.dump_json(state).decode()


def read_state(job_id: str, text: str) -> JobState:
    """Reads what `write_state` wrote.

    Raises:
        StateError: it was written by a fedhe whose states this one does not know.
    """
    try:
        return _STATE.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise StateError(
            f"job {job_id}: its stored state is not one that this fedhe knows ({first['loc']}: {first['msg']})",
            "start the fedhe that wrote it, or restore a backup",
        ) from error


def key_of(row: ObjectRow) -> ObjectKey:
    """The key under which a stored object is found."""
    return ObjectKey(row.kind, row.number, row.attempt, row.owner)
