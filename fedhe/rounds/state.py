"""The state of a job: everything that decisions depend on, immutable, and nothing else.

A round goes TRAIN, UPLOAD, SUM, APPLY. Rounds count from 1. The model's version is the number of rounds applied: round
r leads from version r - 1 to version r; version 0 is the seed model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar, Final, TypeVar

ValueT = TypeVar("ValueT")

NO_VERSION: Final = -1
"""Version of a site that has no model yet."""


class Phase(StrEnum):
    """Where a job stands."""

    SUBMITTED = "submitted"
    SEEDING = "seeding"
    TRAIN = "train"
    UPLOAD = "upload"
    SUM = "sum"
    APPLY = "apply"
    FINISHED = "finished"
    ABORTED = "aborted"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether no event can change the job any more, but for sites that catch up."""
        return self in {Phase.FINISHED, Phase.ABORTED, Phase.FAILED}

    @property
    def running(self) -> bool:
        """Whether the job was started and has not ended."""
        return self is not Phase.SUBMITTED and not self.ended


@dataclass(frozen=True)
class RoundConfig:
    """What a job's rounds keep to; deadlines in seconds.

    Attributes:
        rounds: number of rounds, at least 1.
        min_sites: fewest sites of a round, at least 2: a sum over one site is that site's update.
        sites: names of the sites that take part, sorted.
        open: whether sites that join the project later take part too.
    """

    rounds: int
    min_sites: int
    sites: tuple[str, ...]
    train_deadline: float
    upload_deadline: float
    apply_deadline: float
    checkpoint_every: int = 5
    open: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.min_sites < 2 or self.checkpoint_every < 1:
            raise ValueError(f"expected rounds >= 1, min_sites >= 2, checkpoint_every >= 1, got {self}")
        if list(self.sites) != sorted(set(self.sites)):
            raise ValueError(f"expected sorted, distinct sites, got {self.sites}")


@dataclass(frozen=True)
class ReadyEntry:
    """One site's READY as it was signed, and the fields that must agree over the roster."""

    __pydantic_config__: ClassVar = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    site: str
    body: bytes
    signature: bytes
    certificate: bytes
    fingerprint: bytes
    layout_digest: bytes
    key_id: bytes
    params_id: bytes
    chunks: int


@dataclass(frozen=True)
class SealedSet:
    """A sealed roster: the READY set of one attempt, sorted by site, and its hash."""

    __pydantic_config__: ClassVar = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    round: int
    attempt: int
    entries: tuple[ReadyEntry, ...]
    context: bytes

    @property
    def sites(self) -> tuple[str, ...]:
        """Names, sorted."""
        return tuple(entry.site for entry in self.entries)

    @property
    def chunks(self) -> int:
        """Number of chunks of each upload and of the sum."""
        return self.entries[0].chunks


@dataclass(frozen=True)
class SumRecord:
    """A published sum that sites can still fetch."""

    __pydantic_config__: ClassVar = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    roster: SealedSet
    digest: bytes

    @property
    def round(self) -> int:
        """The round, which is also the version that applying the sum gives."""
        return self.roster.round


@dataclass(frozen=True)
class CheckpointDuty:
    """Which site uploads which version as a sealed checkpoint, and until when (seconds since 1970)."""

    site: str
    version: int
    deadline: float


@dataclass(frozen=True)
class JobState:
    """One job. Sets are sorted tuples and mappings are never changed in place.

    Attributes:
        round: the round under way, 0 before the first.
        attempt: of the round, from 1; a lost site makes a new one.
        version: of the federation's model; `NO_VERSION` before seeding.
        seeder: the site that makes the initial model.
        candidates: in a later attempt, the sites that are asked again; None for all.
        ready: READY so far in this attempt, sorted by site.
        roster: the sealed set of this attempt, from UPLOAD on.
        uploaded: digest of each complete upload of this attempt.
        applied: fingerprint that each site reported for the round's model.
        fingerprints: of each version that sites may still reach, as first reported.
        versions: of each site's model, as it reported.
        failed: what each site failed with in this round.
        declined: why each site refuses the job.
        waiting: sites at which a person still has to approve the job.
        gone: sites that are disabled or revoked.
        passed: sites that had their chance to seed or to seal a checkpoint and did not.
        doubtful: sites that may hold a version 0 of their own making, because seeding passed on from them.
        deadline: of the phase, seconds since 1970; None where nothing is timed.
        checkpoint: newest version of which a sealed checkpoint is stored; `NO_VERSION` if none.
        checkpoint_due: whether one should be made of the present version.
        sums: published sums that are kept, by rising round.
        message: why it waits or ended, for people.
        paused_at: since when it is paused, seconds since 1970; None if it is not. Its clock stands still.
        pause_due: whether it is to be paused when the next round begins.
        pause_reason: why it is or is to be paused, for people.
    """

    __pydantic_config__: ClassVar = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    job_id: str
    config: RoundConfig
    phase: Phase = Phase.SUBMITTED
    round: int = 0
    attempt: int = 0
    version: int = NO_VERSION
    seeder: str | None = None
    candidates: tuple[str, ...] | None = None
    ready: tuple[ReadyEntry, ...] = ()
    roster: SealedSet | None = None
    uploaded: Mapping[str, bytes] = field(default_factory=dict)
    applied: Mapping[str, bytes] = field(default_factory=dict)
    fingerprints: Mapping[int, bytes] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    declined: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    passed: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    deadline: float | None = None
    checkpoint: int = NO_VERSION
    checkpoint_due: bool = False
    duty: CheckpointDuty | None = None
    sums: tuple[SumRecord, ...] = ()
    message: str = ""
    paused_at: float | None = None
    pause_due: bool = False
    pause_reason: str = ""

    @property
    def active(self) -> tuple[str, ...]:
        """Sites that may take part now: neither gone nor refusing."""
        return tuple(site for site in self.config.sites if site not in self.gone and site not in self.declined)

    @property
    def able(self) -> tuple[str, ...]:
        """Active sites that have not failed in this round."""
        return tuple(site for site in self.active if site not in self.failed)

    @property
    def newest(self) -> int:
        """The newest version of the model that a site can hold."""
        return self.round if self.phase is Phase.APPLY else self.version

    def sum_of(self, round_: int) -> SumRecord | None:
        """The kept sum of a round."""
        return next((record for record in self.sums if record.round == round_), None)


def with_member(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The sorted set with `name` in it."""
    return tuple(sorted({*names, name}))


def without_member(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The set without `name`."""
    return tuple(other for other in names if other != name)


def without_key(mapping: Mapping[str, ValueT], key: str) -> dict[str, ValueT]:
    """A copy of the mapping without `key`."""
    return {name: value for name, value in mapping.items() if name != key}


def ended(state: JobState, phase: Phase, message: str) -> JobState:
    """The state in one of the phases that end a job."""
    over = replace(state, phase=phase, deadline=None, duty=None, checkpoint_due=False, message=message)
    return replace(over, paused_at=None, pause_due=False, pause_reason="")
