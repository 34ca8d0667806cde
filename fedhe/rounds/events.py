"""What can happen to a job; `now` is seconds since 1970, UTC."""

from dataclasses import dataclass
from enum import StrEnum

from fedhe.rounds.state import ReadyEntry


class Problem(StrEnum):
    """What a site reports that it cannot do."""

    REJECTED = "rejected"
    WAITING_FOR_APPROVAL = "waiting for approval"
    TRAINING_FAILED = "training failed"
    CHECK_FAILED = "check failed"
    UPDATE_LOST = "update lost"


@dataclass(frozen=True)
class Start:
    """A lead admin starts the job."""

    now: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float


@dataclass(frozen=True)
class SiteSeen:
    """A site polled.

    Attributes:
        version: the version that it holds; `NO_VERSION` for none.
        waiting: whether a person there still has to approve the job.
        willing: whether it says that it is at ease with its newest instruction: neither failed nor waiting for
            approval. Takes back what it declined before.
    """

    site: str
    version: int
    waiting: bool
    now: float
    willing: bool = False


@dataclass(frozen=True)
class Resumed:
    """The server is back after it was stopped or killed; sites need time to reconnect before a deadline counts."""

    now: float


@dataclass(frozen=True)
class SiteReady:
    """A site's READY arrived; its signature was verified."""

    round: int
    attempt: int
    entry: ReadyEntry
    now: float

    @property
    def site(self) -> str:
        """Who is ready."""
        return self.entry.site


@dataclass(frozen=True)
class UploadFinished:
    """All chunks of a site's update are stored."""

    site: str
    round: int
    attempt: int
    digest: bytes
    now: float


@dataclass(frozen=True)
class SumFinished:
    """All chunks of the sum are stored."""

    round: int
    attempt: int
    digest: bytes
    now: float


@dataclass(frozen=True)
class CheckpointFinished:
    """A sealed checkpoint is stored."""

    site: str
    version: int
    now: float


@dataclass(frozen=True)
class SiteApplied:
    """A site holds this version durably."""

    site: str
    version: int
    fingerprint: bytes
    now: float


@dataclass(frozen=True)
class SiteProblem:
    """A site reports that it cannot do what it was asked; round and attempt are 0 where it was about none."""

    site: str
    problem: Problem
    round: int
    attempt: int
    message: str
    now: float


@dataclass(frozen=True)
class SiteGone:
    """A site was disabled or its certificate revoked."""

    site: str
    reason: str
    now: float


@dataclass(frozen=True)
class SiteBack:
    """A site was enabled again, or joined the project."""

    site: str
    now: float


@dataclass(frozen=True)
class Pause:
    """A lead admin pauses the job.

    Attributes:
        after_round: not now but when the next round begins; what runs is finished before.
    """

    reason: str
    after_round: bool
    now: float


@dataclass(frozen=True)
class Continue:
    """A lead admin has a paused job go on, or takes back that it is to be paused."""

    now: float


@dataclass(frozen=True)
class Change:
    """A lead admin changes how a job goes on; None leaves a value as it is, deadlines in seconds."""

    now: float
    rounds: int | None = None
    train_deadline: float | None = None
    upload_deadline: float | None = None
    apply_deadline: float | None = None


@dataclass(frozen=True)
class Abort:
    """A lead admin ends the job."""

    reason: str
    now: float


Event = (
    Start
    | Tick
    | Resumed
    | SiteSeen
    | SiteReady
    | UploadFinished
    | SumFinished
    | CheckpointFinished
    | SiteApplied
    | SiteProblem
    | SiteGone
    | SiteBack
    | Pause
    | Continue
    | Change
    | Abort
)
