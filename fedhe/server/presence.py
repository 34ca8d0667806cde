"""Which sites are there, and what each says it is doing: kept in memory, last seen times now and then on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedhe.server.records import SiteRow

HEARTBEAT_SECONDS = 15.0
"""What sites are told; a long poll may take twice that, and three make a site offline."""
OFFLINE_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS


@dataclass(frozen=True)
class Progress:
    """What a site says of its work on a job.

    Args:
        activity: e.g. "training".
        fraction: of the activity done, 0 to 1.
        detail: one line, e.g. "epoch 2 of 5".
        model_version: rounds applied to the model it holds; -1 before it has one.
        working_on: id of the instruction.
    """

    activity: str
    fraction: float
    detail: str
    model_version: int
    working_on: str


class Presence:
    """All sites that were ever seen, with what they say; lives in the event loop."""

    def __init__(self, rows: Iterable[SiteRow]) -> None:
        self._sites = {row.name: row for row in rows}
        self._progress: dict[str, dict[str, Progress]] = {}
        self._unsaved: set[str] = set()

    def site(self, name: str) -> SiteRow:
        """What is known of a site; a new row for one never seen."""
        return self._sites.get(name) or SiteRow(name)

    def names(self) -> list[str]:
        """All sites that were ever seen or set."""
        return sorted(self._sites)

    def seen(self, name: str, now: float, software_version: str | None = None) -> bool:
        """Notes a sign of life.

        Returns:
            True if the site was offline before.
        """
        row = self.site(name)
        was_offline = not self.online(name, now)
        self._sites[name] = replace(
            row,
            last_seen=max(row.last_seen, now),
            software_version=row.software_version if software_version is None else software_version,
        )
        self._unsaved.add(name)
        return was_offline

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Changes what an admin set, once it is stored."""
        self._sites[name] = replace(self.site(name), enabled=enabled)

    def online(self, name: str, now: float) -> bool:
        """Whether the site polled lately."""
        row = self._sites.get(name)
        return row is not None and row.last_seen > 0 and now - row.last_seen < OFFLINE_AFTER_SECONDS

    def unsaved(self) -> list[SiteRow]:
        """Rows that changed since the last call, to be stored."""
        names, self._unsaved = self._unsaved, set()
        return [self._sites[name] for name in sorted(names)]

    def report(self, name: str, job_id: str, progress: Progress) -> bool:
        """Keeps what a site says.

        Returns:
            True if it differs from what it said before.
        """
        of_job = self._progress.setdefault(job_id, {})
        changed = of_job.get(name) != progress
        of_job[name] = progress
        return changed

    def progress(self, name: str, job_id: str) -> Progress | None:
        """What a site said last of a job."""
        return self._progress.get(job_id, {}).get(name)

    def forget_job(self, job_id: str) -> None:
        """Drops what was said of a job that is deleted."""
        self._progress.pop(job_id, None)
