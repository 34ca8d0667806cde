"""What the server's services and its runner work with, in one immutable bundle."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedhe.he.params import CkksParams
from fedhe.server.audit import Audit
from fedhe.server.blobs import BlobStore
from fedhe.server.disk_budget import DiskBudget
from fedhe.server.log_book import LogBook
from fedhe.server.presence import Presence
from fedhe.server.roster_file import RosterFile
from fedhe.server.server_log import ServerLog
from fedhe.server.store import Store


@dataclass(frozen=True)
class Parts:
    """See the modules of these classes.

    Args:
        project: the project's name.
        params: the project's HE parameters.
        max_forwarded: for how many sites, at most, a sum carries their seeds (he/sums.py).
        started_at: seconds since 1970 UTC.
        clock: likewise, now.
    """

    project: str
    params: CkksParams
    store: Store
    blobs: BlobStore
    audit: Audit
    presence: Presence
    roster: RosterFile
    book: LogBook
    log: ServerLog
    max_forwarded: int
    started_at: float
    budget: DiskBudget = field(default_factory=DiskBudget)
    clock: Callable[[], float] = time.time
