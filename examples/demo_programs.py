"""Runs fedhe's real commands as separate processes: server and agents in the background, the others in turn.

Every background program has its own log file, and is ended by its process id when the demo ends, however it ends.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_SECONDS = 20.0  # for a clean end after SIGTERM, before SIGKILL
POLL_SECONDS = 0.2
LOG_LINES_TOLD = 12


class DemoError(Exception):
    """The demo cannot go on; one line says why, and where to look."""


@dataclass(frozen=True)
class Program:
    """A background program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Programs:
    """The demo's processes; leaving the `with` block ends them all.

    Attributes:
        logs: folder for one log file per background program.
        environment: added to this process's environment for every program.
    """

    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _running: list[Program] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, name: str, *command: str | Path) -> Program:
        """Starts a background program whose output goes to logs/<name>.log."""
        show(command, background=True)
        log = self.logs / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                _argv(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self._env({})
            )
        program = Program(name, process, log)
        self._running.append(program)
        return program

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Runs a command to its end, shows it, and returns what it printed to standard output.

        Raises:
            DemoError: it ended with another exit code than 0; carries its last line.
        """
        show(command)
        done = subprocess.run(
            _argv(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=self._env(environment or {}),
        )  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise DemoError(f"{shlex.join(_words(command))} ended with exit code {done.returncode}: {last}")
        return done.stdout

    def ask(self, *command: str | Path) -> str | None:
        """Like `run`, but silent, and None where the command fails: for asking again until something is there."""
        done = subprocess.run(
            _argv(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=self._env({})
        )
        return done.stdout if done.returncode == 0 else None

    def watch(self, *command: str | Path, seconds: float) -> None:
        """Runs a command that shows progress on this terminal; background programs are looked after meanwhile.

        Raises:
            DemoError: it failed, a background program ended, or `seconds` passed.
        """
        show(command)
        watching = Program("watch", subprocess.Popen(_argv(command), env=self._env({})), self.logs)
        self._running.append(watching)
        deadline = time.monotonic() + seconds
        while watching.process.poll() is None:
            self.check(besides=watching)
            if time.monotonic() > deadline:
                raise DemoError(f"the job has not ended after {seconds:.0f} s; logs are in {self.logs}")
            time.sleep(POLL_SECONDS)
        self._running.remove(watching)
        if watching.process.returncode != 0:
            raise DemoError(f"the job did not end well; logs are in {self.logs}")

    def check(self, besides: Program | None = None) -> None:
        """Makes sure that all background programs still run.

        Raises:
            DemoError: one has ended; its last log lines are printed to standard error.
        """
        for program in self._running:
            code = program.process.poll()
            if program is not besides and code is not None:
                print("\n".join(last_lines(program.log)), file=sys.stderr)
                raise DemoError(f"{program.name} ended with exit code {code}; its log is {program.log}")

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until `ready()` is true.

        Raises:
            DemoError: a background program ended, or `seconds` passed.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"waited {seconds:.0f} s for {what}, in vain; logs are in {self.logs}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends all programs, last started first: SIGTERM, and SIGKILL for what still runs after STOP_SECONDS."""
        for program in reversed(self._running):
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for program in reversed(self._running):
            try:
                program.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        self._running.clear()

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, **self.environment, **more}


def show(command: Sequence[str | Path], *, background: bool = False) -> None:
    """Prints a command as one would type it, with paths relative to here."""
    print(f"$ {shlex.join(_words(command))}{' &' if background else ''}", flush=True)


def last_lines(log: Path) -> list[str]:
    """The last lines of a log file, without what is not there."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_TOLD:]
    except OSError:
        return []


def _words(command: Sequence[str | Path]) -> list[str]:
    here = Path.cwd()
    return [
        str(word.relative_to(here)) if isinstance(word, Path) and word.is_relative_to(here) else str(word)
        for word in command
    ]


def _argv(command: Sequence[str | Path]) -> list[str]:
    """The command with its program looked up beside this Python, so that no other installation is run.

    Raises:
        DemoError: the program is not installed there.
    """
    name, *rest = map(str, command)
    program = Path(sys.executable).parent / name
    if not program.is_file():
        raise DemoError(f"expected the command {name} beside {sys.executable}; pip install '.[client,examples]' there")
    return [str(program), *rest]
