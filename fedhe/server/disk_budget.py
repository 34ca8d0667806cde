"""How much the server's blobs may take: chunks of sites are refused beyond it, and old checkpoints give way.

Sums are never refused: each lets a round end, after which the uploads that it was made of are dropped. A site whose
chunk is refused tries again by itself, so a budget that is used up makes jobs wait and ends none.
"""

import threading
from typing import Final

from fedhe.errors import ResourceError

CLEAN_FROM: Final = 0.9
"""From this part of the budget on, old checkpoints are dropped."""


class DiskBudget:
    """Counts what is stored; may be used from any thread.

    Args:
        limit: bytes that blobs may take; None for as many as the disk takes.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    def admit(self, size: int) -> None:
        """Takes in `size` bytes more, which are counted from now on.

        Raises:
            ResourceError: they would exceed the budget.
        """
        with self._lock:
            if self.limit is not None and self._used + size > self.limit:
                raise ResourceError(
                    f"the server's disk budget of {self.limit} bytes is used up: {self._used} bytes are stored",
                    "delete jobs that are done, or start it with a larger --disk-budget; senders try again",
                )
            self._used += size

    def found(self, used: int) -> None:
        """Corrects the count by what is really stored, bytes."""
        with self._lock:
            self._used = used

    @property
    def short(self) -> bool:
        """Whether so little is left that what can be spared should go."""
        return self.limit is not None and self._used > CLEAN_FROM * self.limit
