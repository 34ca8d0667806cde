"""The note that a site seals for the other sites: sample count, largest changes, metrics; and how it is opened.

The server carries notes and cannot open them. A note is JSON of version 1:
`{"v": 1, "samples": int, "max_change": {tensor: float}, "metrics": {name: float}, "main_metric": name | null}`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedhe.errors import RemoteProtocolError
from fedhe.trust.sealed import GroupKey, NoteContext, open_note, seal_note

NOTE_VERSION = 1
MAX_SAMPLES = 2**40  # cases; sums over all sites stay exact in float64
MAX_METRICS = 1000
MAX_NAME_CHARACTERS = 500
MAX_CHANGE = 3.4028234663852886e38  # the largest float32
APPLIED_ATTEMPT = 0  # no READY has it, so a note of one kind never opens as one of the other
APPLIED_NONCE = bytes(16)


@dataclass(frozen=True)
class Note:
    """What one site tells the others about its round.

    Attributes:
        samples: training cases; at least 1 in a READY, 0 in a note that only carries metrics.
        max_change: largest absolute change of each tensor, finite.
        metrics: of the model before the round (in a READY) or after it (with the last Applied).
        main_metric: the metric that people look at first.
    """

    samples: int
    max_change: Mapping[str, float]
    metrics: Mapping[str, float]
    main_metric: str | None

    def to_json(self) -> bytes:
        """The note's bytes before sealing; metrics that are not finite are left out, JSON has no word for them."""
        return json.dumps(
            {
                "v": NOTE_VERSION,
                "samples": self.samples,
                "max_change": dict(self.max_change),
                "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
                "main_metric": self.main_metric,
            },
            allow_nan=False,
            separators=(",", ":"),
        ).encode()


def read_note(data: bytes) -> Note:
    """Parses an opened note.

    Raises:
        RemoteProtocolError: not a note of version 1, or a number out of its range.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"note: expected JSON, got {data[:20]!r}… ({error})") from error
    if not isinstance(value, dict) or value.get("v") != NOTE_VERSION:
        version = value.get("v") if isinstance(value, dict) else type(value).__name__
        raise RemoteProtocolError(f"note: expected version {NOTE_VERSION}, got {version!r:.40}")
    expected = {"v", "samples", "max_change", "metrics", "main_metric"}
    if value.keys() != expected:
        raise RemoteProtocolError(f"note: expected the keys {sorted(expected)}, got {sorted(map(str, value))!r:.200}")
    samples = value["samples"]
    if not isinstance(samples, int) or isinstance(samples, bool) or not 0 <= samples <= MAX_SAMPLES:
        raise RemoteProtocolError(f"note: expected 0 to {MAX_SAMPLES} samples, got {samples!r:.40}")
    main_metric = value["main_metric"]
    if main_metric is not None and not (isinstance(main_metric, str) and len(main_metric) <= MAX_NAME_CHARACTERS):
        raise RemoteProtocolError(f"note: expected a metric's name or null, got {main_metric!r:.40}")
    max_change = _numbers(value["max_change"], "max_change")
    if wrong := {name: change for name, change in max_change.items() if not 0 <= change <= MAX_CHANGE}:
        raise RemoteProtocolError(f"note: expected changes from 0 to {MAX_CHANGE}, got {wrong!r:.200}")
    metrics = _numbers(value["metrics"], "metrics")
    if len(metrics) > MAX_METRICS:
        raise RemoteProtocolError(f"note: expected at most {MAX_METRICS} metrics, got {len(metrics)}")
    return Note(samples, max_change, metrics, main_metric)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a note may hold")


def _numbers(value: Any, what: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"note: expected names with numbers under {what}, got {type(value).__name__}")
    numbers = {}
    for name, number in value.items():
        if len(name) > MAX_NAME_CHARACTERS:
            raise RemoteProtocolError(f"note: a name under {what} has {len(name)} characters, at most 500 are allowed")
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise RemoteProtocolError(f"note: expected a number for {what}.{name}, got {number!r:.40}")
        try:
            numbers[name] = float(number)
        except OverflowError as error:
            raise RemoteProtocolError(f"note: {what}.{name} is too large for a float64") from error
        if not math.isfinite(numbers[name]):
            raise RemoteProtocolError(f"note: expected a finite number for {what}.{name}, got {number!r:.40}")
    return numbers


def applied_context(project: str, job_id: str, version: int, site: str) -> NoteContext:
    """What the note with the metrics of model `version` is bound to."""
    return NoteContext(
        project=project, job_id=job_id, round=version, attempt=APPLIED_ATTEMPT, site=site, nonce=APPLIED_NONCE
    )


def seal_applied_note(  # noqa: PLR0917 - the parts of a note's place, in the order of NoteContext
    key: GroupKey, project: str, job_id: str, version: int, site: str, note: Note
) -> bytes:
    """Seals the metrics of the job's last model, for the Applied message."""
    return seal_note(key, context=applied_context(project, job_id, version, site), note=note.to_json())


def open_applied_note(  # noqa: PLR0917 - the parts of a note's place, in the order of NoteContext
    key: GroupKey, project: str, job_id: str, version: int, site: str, sealed: bytes
) -> Note:
    """Opens what `seal_applied_note` made.

    Raises:
        TrustError: another key, job, version or site, or altered.
        RemoteProtocolError: sealed by a key holder, but not a note.
    """
    return read_note(open_note(key, context=applied_context(project, job_id, version, site), note=sealed))
