"""What the server asks of the system: how much memory it has taken at most, and files for many connections."""

import re
import resource
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes without types

MAX_FILES = 65_536
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def allow_many_connections() -> None:
    """Lets this process open as many files as the administrator allows; systems begin with 1024 out of habit.

    A connection whose other side never says a word takes one until its handshake has timed out.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(most, MAX_FILES)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def peak_rss_bytes() -> int:
    """Largest resident size of this process so far plus those of its present workers, bytes.

    Where the system does not tell the largest size (other than Linux), the present one counts.
    """
    process = psutil.Process()
    return sum(_peak(one) for one in (process, *process.children(recursive=True)))


def _peak(process: psutil.Process) -> int:
    try:
        found = _PEAK.search(Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace"))
        return int(found[1]) * 1024 if found else int(process.memory_info().rss)
    except (OSError, psutil.Error):
        return 0
