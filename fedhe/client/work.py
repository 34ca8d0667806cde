"""One job at this site, as its steps see it: the site, the job's folder and record, and how far the work is."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhe.client.job_folder import NO_MODEL, JobFolder, JobRecord
from fedhe.client.log_book import Level
from fedhe.client.site import Site
from fedhe.client.status import JobStatus
from fedhe.client.vector_file import VectorFiles
from fedhe.config.job_archive import JobArchive
from fedhe.errors import FedheError, StateError
from fedhe.he.params import CkksParams
from fedhe.model.layout import Layout
from fedhe.trust.sealed import model_fingerprint
from fedhe.wire import federation

SETTLE_SECONDS = 5.0

ResultT = TypeVar("ResultT")

ACTIVITIES = {
    federation.ACTIVITY_IDLE: "idle",
    federation.ACTIVITY_WAITING_FOR_APPROVAL: "waiting for approval",
    federation.ACTIVITY_VALIDATING: "validating",
    federation.ACTIVITY_TRAINING: "training",
    federation.ACTIVITY_ENCRYPTING: "encrypting and uploading",
    federation.ACTIVITY_DOWNLOADING: "downloading and decrypting",
    federation.ACTIVITY_SEALING: "sealing a checkpoint",
    federation.ACTIVITY_FAILED: "failed",
}


class NotNowError(FedheError):
    """The instruction does not fit what this site holds; the server corrects it once it has heard of that."""

    exit_code = 6


@dataclass
class Work:
    """A job's present state; what must survive is in `record` and on the disk, the rest is for people.

    Attributes:
        archive: the job as its submitter signed it; None until it was fetched and believed.
        layout: the model's tensors; None until a training process or a checkpoint told.
        activity: what is going on now, a value of federation.Activity.
        fraction: done of the activity, 0 to 1.
        settled: unset while the call that ends an instruction is under way, see `closing`.
        vectors: reads and writes models and updates.
    """

    site: Site
    folder: JobFolder
    record: JobRecord
    archive: JobArchive | None = None
    layout: Layout | None = None
    activity: federation.Activity.ValueType = federation.ACTIVITY_IDLE
    fraction: float = 0.0
    detail: str = ""
    shown: JobStatus = field(default_factory=lambda: JobStatus(""))
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    vectors: VectorFiles = field(default_factory=VectorFiles)

    def __post_init__(self) -> None:
        self.settled.set()

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Around the call that ends an instruction, and what is noted of its answer.

        The server may give the next instruction before its answer to this call has come. Neither is this work broken
        off nor the server told of it before that answer is noted, else it would be told the state before the call.
        """
        self.settled.clear()
        try:
            yield
        finally:
            self.settled.set()

    async def settle(self) -> None:
        """Waits until no such call is under way, but not for a server that has gone away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.settled.wait()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.record.job_id

    def keep(self, **changes: Any) -> None:
        """Changes the record, durably.

        Raises:
            ResourceError: disk full or read-only; nothing changed.
        """
        changed = self.record.model_copy(update=changes)
        self.folder.write(changed)
        self.record = changed
        self.show()

    def tell(self, activity: federation.Activity.ValueType, fraction: float = 0.0, detail: str = "") -> None:
        """Notes what is going on, for the next poll and for people at the site."""
        changed = activity != self.activity
        self.activity, self.fraction, self.detail = activity, min(1.0, max(0.0, fraction)), detail
        self.show(force=changed)

    def show(self, *, force: bool = True, **fields: Any) -> None:
        """Writes the job's line of the site's status."""
        shown, record = self.shown, self.record
        for name, value in fields.items():
            setattr(shown, name, value)
        shown.job_id, shown.name = record.job_id, record.name
        shown.digest = record.archive_digest.hex() if record.archive_digest else ""
        shown.activity, shown.fraction, shown.detail = ACTIVITIES.get(self.activity, ""), self.fraction, self.detail
        shown.round, shown.rounds, shown.model_version = record.round, record.rounds, record.version
        shown.ended = record.ended
        self.site.status.jobs[record.job_id] = shown
        self.site.status.publish(force=force)

    def log(self, level: Level, message: str) -> None:
        """Logs a line about this job."""
        self.site.log.write(level, message, self.job_id)

    def audit(self, kind: str, **fields: Any) -> None:
        """Adds a line about this job to the site's audit log."""
        self.site.audit(kind, job=self.job_id, **fields)

    # ---- what steps need ----

    def job(self) -> JobArchive:
        """The job that was fetched and believed.

        Raises:
            NotNowError: it was not yet.
        """
        if self.archive is None:
            raise NotNowError("the job has not been fetched yet")
        return self.archive

    def known_layout(self) -> Layout:
        """The model's layout.

        Raises:
            NotNowError: no training process and no checkpoint told it yet.
        """
        if self.layout is None:
            raise NotNowError("this site does not know the model's tensors yet")
        return self.layout

    def params(self) -> CkksParams:
        """The HE parameters with this job's field widths."""
        return self.site.params(self.job().federation.precision)

    def model(self, version: int) -> NDArray[np.float32]:
        """The global model after `version` rounds; (n_values,) float32.

        Raises:
            NotNowError: this site holds another version.
        """
        return self._with_model(version, self.vectors.read)

    def check_model(self, version: int) -> None:
        """Makes sure that `model` would succeed.

        Raises:
            NotNowError: this site holds another version.
        """
        self._with_model(version, self.vectors.check)

    def _with_model(self, version: int, use: Callable[[Path, Layout, bytes], ResultT]) -> ResultT:
        digest = self.record.model_digests.get(version)
        if digest is None:
            raise NotNowError(f"expected to hold model version {version}, this site holds {self.record.version}")
        try:
            return use(self.folder.model_file(version), self.known_layout(), digest)
        except StateError as error:
            self.log("warning", f"model version {version} is lost: {error.message}; fetching the sealed checkpoint")
            self.keep(version=NO_MODEL, acknowledged=NO_MODEL, model_digests={})
            raise NotNowError(f"model version {version} is lost: {error.message}") from error

    def fingerprint(self, version: int) -> bytes:
        """Keyed fingerprint of a model that this site holds; 32 bytes.

        Raises:
            NotNowError: this site holds another version.
        """
        digest = self.record.model_digests.get(version)
        if digest is None:
            raise NotNowError(f"expected to hold model version {version}, this site holds {self.record.version}")
        return model_fingerprint(self.site.group_key, self.job_id, version, digest)

    def take_model(self, version: int, vector: NDArray[np.float32], layout: Layout) -> None:
        """Makes a model the present one, durably: first its file, then the record that names it.

        Raises:
            ResourceError: disk full or read-only; the model before stays the present one.
        """
        digest = self.vectors.write(self.folder.model_file(version), vector, layout)
        kept = {old: value for old, value in self.record.model_digests.items() if old == version - 1}
        update = self.record.update
        self.keep(
            version=version,
            model_digests={**kept, version: digest},
            update=update if update is not None and update.round > version else None,
        )
        self.folder.remove_old_models(version)
        self.folder.remove_spool()
