"""Starts a program that the kernel ends when the agent ends: `python -m fedhe.client.leash AGENT_PID PROGRAM ARGS...`.

A separate small program, because code between fork and exec of a process with threads may deadlock. It imports
nothing of fedhe and is replaced by the program that it starts.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
# When memory runs out, the kernel shall end the training process and not the agent.
OOM_SCORE = "500"


def main() -> None:
    """Ties this process to its parent, then becomes the program."""
    agent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    if os.getppid() != int(agent):  # the agent ended before the tie was made
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the agent's own argument list, no shell


if __name__ == "__main__":
    main()
