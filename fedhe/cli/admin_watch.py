"""What `rounds watch` shows of a job: a picture that redraws, plain lines, or JSON (all pure)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedhe.cli.admin_format import count_of, duration, listed, mean, metric, percent, printable, size
from fedhe.cli.output import local_time
from fedhe.rounds.state import Phase
from fedhe.wire import admin

ENDED = frozenset({Phase.FINISHED, Phase.ABORTED, Phase.FAILED})
# Plain lines tell of progress at every quarter of an activity: enough to see life, not enough to fill a log.
STEPS_TOLD = 4
_COLOURS = {
    "training": "yellow",
    "validating": "yellow",
    "encrypting": "cyan",
    "uploading": "cyan",
    "downloading": "cyan",
    "ready": "green",
    "uploaded": "green",
    "applied": "green",
    "failed": "red",
    "declined": "red",
}


def has_ended(detail: admin.JobDetail) -> bool:
    """Whether the job will not change any more."""
    return detail.job.phase in ENDED


def detail_json(detail: admin.JobDetail) -> dict[str, Any]:
    """The job's detail as it is printed with `--json`; times in seconds since 1970, 0 as null."""
    job = detail.job
    return {
        "job_id": job.job_id,
        "name": job.name,
        "phase": job.phase,
        "round": job.round,
        "rounds": job.rounds,
        "attempt": detail.attempt,
        "model_version": job.model_version,
        "message": job.message,
        "deadline": detail.deadline or None,
        "min_sites": detail.min_sites,
        "checkpoints": list(detail.checkpoints),
        "archive_digest": detail.archive_digest,
        "submitted_by": job.submitted_by,
        "submitted_at": job.submitted_at or None,
        "ended_at": job.ended_at or None,
        **pause_json(job),
        **deadlines_of(detail),
        "sites": [
            {
                "site": site.site,
                "online": site.online,
                "state": site.state,
                "fraction": round(site.fraction, 4),
                "detail": site.detail,
                "model_version": site.model_version,
            }
            for site in detail.sites
        ],
    }


def pause_json(job: admin.Job) -> dict[str, Any]:
    """Since when a job is paused (null if it is not), whether it is about to be, and why."""
    return {"paused_at": job.paused_at or None, "pause_due": job.pause_due, "pause_reason": job.pause_reason or None}


def deadlines_of(detail: admin.JobDetail) -> dict[str, float]:
    """How long each phase may take, seconds."""
    return {
        "train_deadline": detail.train_deadline,
        "upload_deadline": detail.upload_deadline,
        "apply_deadline": detail.apply_deadline,
    }


def phase_words(job: admin.Job) -> str:
    """The phase, and whether the job is paused in it or pauses after the round."""
    if job.paused_at:
        return printable(f"{job.phase}, paused")
    return printable(f"{job.phase}, pauses after this round" if job.pause_due else job.phase)


def json_line(detail: admin.JobDetail) -> str:
    """`detail_json` on one line."""
    return json.dumps(detail_json(detail))


def headline(detail: admin.JobDetail, now: float) -> str:
    """`demo (a1b2) · round 3 of 10 · train · attempt 2 · deadline in 2 h 3 min`."""
    left = detail.deadline - now
    return _title(detail, f"deadline in {duration(left)}" if left > 0 else "deadline passed")


def picture(detail: admin.JobDetail, now: float, note: str | None = None) -> RenderableType:
    """The job as a headline and one bar for each site; `note` is a line below, e.g. that the server is away."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("site", "state", "progress", "", "model", "detail"):
        table.add_column(column, overflow="fold")
    for site in detail.sites:
        busy = 0 < site.fraction < 1
        table.add_row(
            Text(printable(site.site)),
            Text(_state(site), style="dim" if not site.online else _COLOURS.get(site.state, "")),
            ProgressBar(total=1, completed=site.fraction, width=20) if busy else Text(" " * 20),
            Text(percent(site.fraction) if busy else "", justify="right"),
            Text("-" if site.model_version < 0 else f"v{site.model_version}"),
            Text(printable(site.detail), style="dim"),
        )
    lines: list[RenderableType] = [Text(headline(detail, now), style="bold"), table]
    if detail.job.pause_reason:
        lines.append(Text(printable(f"pause: {detail.job.pause_reason}"), style="yellow"))
    if detail.job.message:
        lines.append(Text(printable(detail.job.message), style="red" if has_ended(detail) else "yellow"))
    if note:
        lines.append(Text(note, style="yellow"))
    return Group(*lines)


def changes(before: admin.JobDetail | None, after: admin.JobDetail) -> Iterator[str]:
    """Yields plain lines for what is new in `after`: phase, message, sites' states, each quarter of progress."""
    if before is None or _phase_of(before) != _phase_of(after):
        yield _title(after, f"deadline {local_time(after.deadline)}")
    if after.job.pause_reason and (before is None or before.job.pause_reason != after.job.pause_reason):
        yield printable(f"pause: {after.job.pause_reason}")
    if after.job.message and (before is None or before.job.message != after.job.message):
        yield printable(after.job.message)
    known = {site.site: site for site in before.sites} if before else {}
    for site in after.sites:
        earlier = known.get(site.site)
        if earlier is None or _told(earlier) != _told(site):
            detail = f" · {printable(site.detail)}" if site.detail else ""
            progress = f" {percent(site.fraction)}" if 0 < site.fraction < 1 else ""
            yield f"  {printable(site.site)}: {_state(site)}{progress}{detail}"


def _title(detail: admin.JobDetail, deadline: str) -> str:
    job = detail.job
    parts = [f"{job.name} ({job.job_id})", f"round {job.round} of {job.rounds}", phase_words(job)]
    if detail.attempt > 1:
        parts.append(f"attempt {detail.attempt}")
    if detail.deadline and not has_ended(detail):
        parts.append(deadline)
    return " · ".join(printable(part) for part in parts)


def _phase_of(detail: admin.JobDetail) -> tuple[str, int, int]:
    return phase_words(detail.job), detail.job.round, detail.attempt


def _state(site: admin.SiteProgress) -> str:
    return printable(site.state or "waiting") + ("" if site.online else " (offline)")


def _told(site: admin.SiteProgress) -> tuple[str, bool, int]:
    return site.state, site.online, int(site.fraction * STEPS_TOLD)


@dataclass
class RoundNews:
    """Remembers which rounds and metrics were already told, so that each is told once."""

    _rounds: set[int] = field(default_factory=set)
    _metrics: set[int] = field(default_factory=set)

    def lines(self, summary: Mapping[str, Any]) -> Iterator[str]:
        """Yields a line for each round that ended and each metric that became known since the last call.

        Args:
            summary: what `rounds list --json` prints.
        """
        name = summary["main_metric"] or "metric"
        if 0 not in self._metrics and summary["baseline"]:
            self._metrics.add(0)
            yield f"before round 1: {name} {metric(mean(summary['baseline']))}"
        for entry in summary["rounds"]:
            number = entry["round"]
            if entry["ended_at"] and number not in self._rounds:
                self._rounds.add(number)
                contributors = entry["contributors"]
                moved = sum(entry["bytes_up"].values()) + sum(entry["bytes_down"].values())
                yield (
                    f"round {number} done in {duration(entry['seconds'] or 0)}: "
                    f"{count_of(len(contributors), 'site')} ({printable(listed(contributors))}), {size(moved)} moved"
                )
            if entry["metric"] and number not in self._metrics:
                self._metrics.add(number)
                yield f"after round {number}: {name} {metric(mean(entry['metric']))}"
