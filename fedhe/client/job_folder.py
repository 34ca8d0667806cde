"""One job's folder at a site: what the site must still know after a power cut, and where it is kept."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from fedhe.client.durable import disk_errors, make_folder, remove_leftovers, write_durably
from fedhe.config.document import FrozenModel
from fedhe.errors import StateError
from fedhe.model.layout import Layout

STATE_VERSION = 1
MODELS_KEPT = 2  # the present model and the one before it
NO_MODEL = -1


class _Stored(FrozenModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")


class UpdateRecord(_Stored):
    """What a finished training left: the numbers for the note, and the digest of the update's file.

    Attributes:
        round: the round that was trained, counted from 1; its update builds on model version `round - 1`.
        digest: SHA-256 of the update's float32 values as stored in `update-<round>.safetensors`.
        samples: training cases.
        max_change: largest absolute change of each tensor.
        metrics: of the model before the round.
        main_metric: name of the metric that people look at first, if the job names one.
    """

    round: int
    digest: bytes
    samples: int
    max_change: dict[str, float]
    metrics: dict[str, float]
    main_metric: str | None = None


class ReadyRecord(_Stored):
    """The READY that this site signed for one attempt, and the one roster it gave its update for."""

    round: int
    attempt: int
    body: bytes
    signature: bytes
    certificate: bytes
    context: bytes | None = None


class JobRecord(_Stored):
    """Everything about a job that must outlive the agent, apart from the big files.

    Attributes:
        version: rounds applied to the global model that is held; -1 before there is one.
        acknowledged: the version of which the server has this site's fingerprint; what polls tell.
        model_digests: SHA-256 of the float32 values of that model and of the one before, by version.
        seeded: whether version 0 is of this site's own making.
        applied_note: version and sealed metrics of the last model, where the server asked for them.
        ended: why there is nothing left to do for this job, or None.
    """

    v: int = STATE_VERSION
    job_id: str
    name: str = ""
    archive_digest: bytes | None = None
    submitted_by: str = ""
    version: int = NO_MODEL
    acknowledged: int = NO_MODEL
    model_digests: dict[int, bytes] = Field(default_factory=dict)
    seeded: bool = False
    applied_note: tuple[int, bytes] | None = None
    update: UpdateRecord | None = None
    ready: ReadyRecord | None = None
    round: int = 0
    rounds: int = 0
    ended: str | None = None


@dataclass(frozen=True)
class JobFolder:
    """Paths and durable reads and writes of one job's folder."""

    path: Path

    @property
    def archive(self) -> Path:
        """The signed job as it came."""
        return self.path / "job.signed"

    @property
    def mmar(self) -> Path:
        """The unpacked job folder."""
        return self.path / "mmar"

    @property
    def training(self) -> Path:
        """Work folder of the training process."""
        return self.path / "training"

    @property
    def local_state(self) -> Path:
        """Integer buffers and excluded tensors that stay at this site."""
        return self.path / "local_state.safetensors"

    @property
    def logs(self) -> Path:
        """What training processes printed."""
        return self.path / "logs"

    @property
    def layout_file(self) -> Path:
        """The model's layout as JSON."""
        return self.path / "layout.json"

    def model_file(self, version: int) -> Path:
        """The global model after `version` rounds."""
        return self.path / f"model-{version}.safetensors"

    def update_file(self, round_: int) -> Path:
        """This site's change of the model in a round."""
        return self.path / f"update-{round_}.safetensors"

    def spool(self, name: str) -> Path:
        """Chunks on their way out or in."""
        return self.path / "spool" / name

    def record(self, round_: int) -> Path:
        """What was sent and received in a round, where the policy keeps it."""
        return self.path / "record" / f"round-{round_}"

    def create(self) -> None:
        """Makes the folder and clears what a killed agent left half-written.

        Raises:
            ResourceError: disk full or read-only.
        """
        make_folder(self.path)
        remove_leftovers(self.path)

    # ---- the record ----

    def read(self) -> JobRecord | None:
        """The record, or None where nothing was written yet.

        Raises:
            StateError: the record is damaged or of a newer version.
        """
        path = self.path / "state.json"
        if not path.exists():
            return None
        try:
            with disk_errors(path):
                data = path.read_bytes()
            record = JobRecord.model_validate_json(data)
        except ValidationError as error:
            raise StateError(
                f"{path}: not a job record that this version can read ({error.error_count()} faults)",
                "move the job's folder away; the model is fetched again from the server's sealed checkpoint",
            ) from error
        if record.v != STATE_VERSION:
            raise StateError(f"{path}: expected version {STATE_VERSION} of the job record, got {record.v}")
        return record

    def write(self, record: JobRecord) -> None:
        """Stores the record durably.

        Raises:
            ResourceError: disk full or read-only; the old record stays.
        """
        write_durably(self.path / "state.json", record.model_dump_json(indent=1).encode())

    # ---- tensors ----

    def write_layout(self, layout: Layout) -> None:
        """Stores the model's layout.

        Raises:
            ResourceError: disk full or read-only.
        """
        write_durably(self.layout_file, layout.to_json().encode())

    def read_layout(self) -> Layout | None:
        """The model's layout, or None before it is known.

        Raises:
            RemoteProtocolError: the file is damaged.
        """
        if not self.layout_file.exists():
            return None
        with disk_errors(self.layout_file):
            return Layout.from_json(self.layout_file.read_bytes())

    def remove_old_models(self, version: int) -> None:
        """Removes models older than the last `MODELS_KEPT`, and updates of rounds that are applied."""
        for kind, bound in (("model", version - MODELS_KEPT), ("update", version)):
            for path in self.path.glob(f"{kind}-*.safetensors"):
                number = path.stem.removeprefix(f"{kind}-")
                if number.isdecimal() and int(number) <= bound:
                    path.unlink(missing_ok=True)

    def remove_work(self) -> None:
        """Removes what only a running job needs: updates, the training process's folder, unpacked code."""
        for path in (self.training, self.mmar):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.glob("update-*.safetensors"):
            path.unlink(missing_ok=True)

    def keep_only_spool(self, name: str) -> None:
        """Removes the other spools of the kind that `name` begins with: of attempts that were given up."""
        kind = name.partition("-")[0]
        for path in (self.path / "spool").glob(f"{kind}-*"):
            if path.name != name:
                shutil.rmtree(path, ignore_errors=True)

    def remove_spool(self, name: str | None = None) -> None:
        """Removes one spool, or all of them."""
        shutil.rmtree(self.path / "spool" if name is None else self.spool(name), ignore_errors=True)
