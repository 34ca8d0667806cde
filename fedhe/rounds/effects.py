"""What the server has to do after a step; each can be repeated without harm."""

from dataclasses import dataclass

from fedhe.rounds.state import SealedSet


@dataclass(frozen=True)
class StartSum:
    """Add the uploads of this roster, then feed `SumFinished`."""

    roster: SealedSet


@dataclass(frozen=True)
class DropUploads:
    """Uploads of this attempt are not needed any more."""

    round: int
    attempt: int


@dataclass(frozen=True)
class DropSums:
    """Sums of rounds before this one are not needed any more."""

    before: int


@dataclass(frozen=True)
class Announce:
    """One line for log and audit log.

    Attributes:
        kind: short name of what happened, e.g. `roster-sealed`.
        message: one line for people.
        round: the round it is about, 0 if none.
        sites: the sites it is about.
    """

    kind: str
    message: str
    round: int = 0
    sites: tuple[str, ...] = ()


Effect = StartSum | DropUploads | DropSums | Announce
Effects = tuple[Effect, ...]
