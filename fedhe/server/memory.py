"""How much memory the server has taken at most: this process and its workers."""

import re
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes without types

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


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
