"""Counts the payload bytes of sums that sites fetch; the count goes to the disk in one transaction now and then."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy.engine import Connection

from fedhe.server import records

Key = tuple[str, int, str]
"""Job id, round, site."""


class Fetched:
    """Bytes that are counted and not yet stored; used from one event loop."""

    def __init__(self) -> None:
        self._counted: Counter[Key] = Counter()

    def add(self, job_id: str, round_: int, site: str, size: int) -> None:
        """Counts bytes of a round's sum that a site fetched."""
        self._counted[job_id, round_, site] += size

    def take(self) -> Mapping[Key, int]:
        """All that is counted; the count begins anew."""
        taken, self._counted = self._counted, Counter()
        return taken

    def put_back(self, counted: Mapping[Key, int]) -> None:
        """Counts again what could not be stored."""
        self._counted.update(counted)


def store_fetched(connection: Connection, counted: Mapping[Key, int], job_ids: frozenset[str]) -> None:
    """Stores what was counted of jobs that still exist."""
    for (job_id, round_, site), size in counted.items():
        if job_id in job_ids:
            records.add_bytes(connection, job_id, round_, site, down=size)
