"""The rounds of a job as `rounds list` shows them; opens the sealed notes where the admin's kit has the group key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedhe.cli.admin_format import mean, metric, printable, size
from fedhe.client.note import Note, open_applied_note, read_note
from fedhe.errors import FedheError
from fedhe.trust.sealed import GroupKey, NoteContext, open_note
from fedhe.wire import admin
from fedhe.wire.messages import parse_ready

COLUMNS = ("round", "attempts", "time", "contributors", "up", "down", "metric", "fingerprints")


@dataclass(frozen=True)
class OpenedNotes:
    """What the notes of one job's rounds say.

    Attributes:
        ready: by round and site, the note of the READY: it measures the model before the round.
        applied: by round and site, the note of the model after the last round.
        warnings: one line for each note that did not open.
    """

    ready: Mapping[tuple[int, str], Note] = field(default_factory=dict)
    applied: Mapping[tuple[int, str], Note] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def open_notes(project: str, job_id: str, rounds: Sequence[admin.Round], key: GroupKey | None) -> OpenedNotes:
    """Opens the notes of all rounds; without a key nothing is opened.

    A note that does not open (altered on the way or at the server, or of another key) is left out with a warning.
    """
    if key is None:
        return OpenedNotes()
    ready, applied, warnings = {}, {}, []
    for entry in rounds:
        for part in entry.contributions:
            place = (entry.round, part.site)
            try:
                if part.ready.body:
                    ready[place] = _open_ready(project, job_id, entry.round, part, key)
                if part.applied_note:
                    applied[place] = open_applied_note(key, project, job_id, entry.round, part.site, part.applied_note)
            except FedheError as error:
                warnings.append(f"note of {printable(part.site)}, round {entry.round}: {printable(error.message)}")
    return OpenedNotes(ready, applied, tuple(warnings))


def _open_ready(project: str, job_id: str, number: int, part: admin.Contribution, key: GroupKey) -> Note:
    statement = parse_ready(part.ready.body)
    # The context says what the admin looks at, not what the statement claims to be: a note of another job, round or
    # site does not open.
    context = NoteContext(
        project=project,
        job_id=job_id,
        round=number,
        attempt=statement.attempt,
        site=part.site,
        nonce=statement.nonce,
    )
    return read_note(open_note(key, context=context, note=statement.sealed_note))


def summarise(
    job_id: str, rounds: Sequence[admin.Round], notes: OpenedNotes, *, sealed: bool, now: float
) -> dict[str, Any]:
    """What `rounds list --json` prints.

    The metric of round r is of the model after it: sites report it in their READY of round r + 1, which validates
    version r, or with the last Applied. The baseline is the model before round 1.

    Args:
        job_id: the job.
        rounds: of the job, in order.
        notes: what `open_notes` opened.
        sealed: True if the notes could not be opened for want of a key; metrics are null then.
        now: seconds since 1970, for the duration of a round that still runs.
    """
    by_version: dict[int, dict[str, Note]] = {}
    for (number, site), note in sorted(notes.ready.items()):
        if note.metrics:
            by_version.setdefault(number - 1, {})[site] = note
    for (number, site), note in sorted(notes.applied.items()):
        if note.metrics:
            by_version.setdefault(number, {})[site] = note
    names = [note.main_metric for opened in by_version.values() for note in opened.values() if note.main_metric]
    main_metric = names[0] if names else None
    baseline = by_version.get(0, {})
    return {
        "job": job_id,
        "main_metric": main_metric,
        "sealed": sealed,
        "baseline": _main(baseline, main_metric),
        "baseline_metrics": _all(baseline),
        "rounds": [_round(entry, by_version.get(entry.round, {}), notes, main_metric, now) for entry in rounds],
    }


def _round(
    entry: admin.Round, after: Mapping[str, Note], notes: OpenedNotes, main_metric: str | None, now: float
) -> dict[str, Any]:
    parts = sorted(entry.contributions, key=lambda part: part.site)
    samples = {
        part.site: notes.ready[entry.round, part.site].samples
        for part in parts
        if (entry.round, part.site) in notes.ready
    }
    return {
        "round": entry.round,
        "attempts": entry.attempts,
        "started_at": entry.started_at or None,
        "ended_at": entry.ended_at or None,
        "seconds": round((entry.ended_at or now) - entry.started_at, 3) if entry.started_at else None,
        "contributors": [part.site for part in parts],
        "bytes_up": {part.site: part.bytes_up for part in parts},
        "bytes_down": {part.site: part.bytes_down for part in parts},
        "metric": _main(after, main_metric),
        "metrics": _all(after),
        "samples": samples or None,
        "fingerprints": {part.site: part.model_fingerprint.hex() for part in parts if part.model_fingerprint},
        "context": entry.context.hex(),
        "sum_digest": entry.sum_digest.hex(),
        "sum_bytes": entry.sum_bytes,
    }


def _main(notes: Mapping[str, Note], main_metric: str | None) -> dict[str, float] | None:
    if main_metric is None:
        return None
    return {site: note.metrics[main_metric] for site, note in notes.items() if main_metric in note.metrics} or None


def _all(notes: Mapping[str, Note]) -> dict[str, dict[str, float]] | None:
    return {site: dict(note.metrics) for site, note in notes.items()} or None


def table_rows(summary: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of `COLUMNS` for people."""
    rows = []
    for entry in summary["rounds"]:
        prints = set(entry["fingerprints"].values())
        rows.append(
            [
                entry["round"],
                entry["attempts"],
                None if entry["seconds"] is None else f"{entry['seconds']:.1f} s",
                ", ".join(printable(site) for site in entry["contributors"]),
                size(sum(entry["bytes_up"].values())),
                size(sum(entry["bytes_down"].values())),
                "sealed" if summary["sealed"] else metric(mean(entry["metric"])),
                _agreement(prints, len(entry["fingerprints"]), len(entry["contributors"])),
            ]
        )
    return rows


def _agreement(prints: set[str], applied: int, contributors: int) -> str | None:
    """Whether all sites hold the same model: `equal 3/3 1a2b3c4d`, or that they do not."""
    if not prints:
        return None
    if len(prints) > 1:
        return f"DIFFERENT ({len(prints)} models)"
    return f"equal {applied}/{contributors} {next(iter(prints))[:8]}"
