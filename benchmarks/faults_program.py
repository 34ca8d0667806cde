"""Starts the real server or agent so that it may die at a disk change of our choice, with a clock that we may set.

    python benchmarks/faults_program.py ORDERS server start --home DIR ...
    python benchmarks/faults_program.py ORDERS site FOLDER

ORDERS is a folder. `clock` in it, if there, holds seconds by which time.time() is off; it may change at any time.
`die-at` holds numbers, one for each life: the process kills itself with SIGKILL right before it changes the disk for
that time, where a change is a file opened for writing, renamed or removed, or a folder made or removed, below the
folder that `within` names. `journal` gets a line for each of them, and for each file or folder that was flushed: what
is not flushed may be lost when the power is cut. The database's own files are changed by SQLite and not seen.
"""

import contextlib
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import grpc.aio

CLOCK_SECONDS = 0.05  # how often the clock's file is looked at
_OTHERS = {"os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "remove", "shutil.rmtree": "remove"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Orders:
    """What the laboratory wants of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.within = (folder / "within").read_text() + os.sep
        file = folder / "die-at"
        die_at, *later = file.read_text().split() if file.exists() else ["0"]
        self.die_at = int(die_at)
        if later:  # for the process that is started after this one
            file.write_text(" ".join(later))
        else:
            file.unlink(missing_ok=True)
        self.changes = 0
        self.journal = os.open(folder / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._offset, self._looked = 0.0, float("-inf")
        self._time = time.time
        self._fsync = os.fsync

    def changed(self, kind: str, *paths: str) -> None:
        """Notes a change that is just about to be made; may be the last thing that this process does."""
        self.changes += 1
        if self.changes == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(self.journal, "\t".join((kind, *paths)).encode() + b"\n")

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Called by Python before it touches a file."""
        path = arguments[0] if arguments else None
        if not isinstance(path, str | bytes | os.PathLike) or not os.fsdecode(path).startswith(self.within):
            return
        if event == "open":
            flags = arguments[2]
            if isinstance(flags, int) and flags & _WRITES:
                self.changed("write", os.fsdecode(path))
        elif event == "os.rename":
            target = os.fsdecode(arguments[1])  # type: ignore[type-var]
            self.changed("rename", os.fsdecode(path), target, "over" if os.path.lexists(target) else "new")
        elif event in _OTHERS and not (event == "os.mkdir" and os.path.lexists(path)):
            self.changed(_OTHERS[event], os.fsdecode(path))

    def fsync(self, descriptor: int) -> None:
        """os.fsync, with a note of what is on the disk now."""
        self._fsync(descriptor)
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if f"{path}{os.sep}".startswith(self.within):
            os.write(self.journal, f"sync\t{path}\t{os.fstat(descriptor).st_size}\n".encode())

    def now(self) -> float:
        """time.time, off by what the file `clock` says."""
        if (tick := time.monotonic()) - self._looked > CLOCK_SECONDS:
            self._looked = tick
            with contextlib.suppress(OSError, ValueError):
                self._offset = float((self.folder / "clock").read_text())
        return self._time() + self._offset


def main() -> None:
    """Command line; see the module's first lines."""
    orders = Orders(Path(sys.argv[1]))
    role, *arguments = sys.argv[2:]
    # gRPC hands what this gives to its core, which has a clock of its own.
    grpc.aio._utils.time = SimpleNamespace(time=time.time)  # noqa: SLF001
    time.time = orders.now  # before fedhe takes it for a default of its functions
    os.fsync = orders.fsync
    sys.addaudithook(orders.audit)
    try:
        if role == "server":
            sys.argv = ["fedhe-server", *arguments]
            runpy.run_module("fedhe.cli.server", run_name="__main__")
        else:
            sys.argv = ["round_site.py", *arguments]
            runpy.run_path(str(Path(__file__).with_name("round_site.py")), run_name="__main__")
    finally:
        (orders.folder / "changes").write_text(str(orders.changes))


if __name__ == "__main__":
    main()
