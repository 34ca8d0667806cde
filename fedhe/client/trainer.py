"""Runs a job's code in its own process: no keys, a bare environment, its own process group, ended with the agent."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fedhe.client.durable import disk_errors, make_folder, write_durably
from fedhe.config.policy import SitePolicy
from fedhe.config.trainer import TrainRequest, TrainResult, read_result
from fedhe.errors import ConfigError, ResourceError, TrainingError

MAX_EVENT_BYTES = 64 * 1024
MAX_REPORTED_LINES = 40
MAX_REPORTED_CHARACTERS = 500  # of each line
GRACE_SECONDS = 10.0  # between asking a process to end and ending it
DRAIN_SECONDS = 2.0  # for the last lines of a process that ended
_TAIL_BYTES = 64 * 1024
_TRACEBACK = "Traceback (most recent call last):"
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """One line of progress from a training process; its numbers may be anything, the process is not trusted.

    Attributes:
        activity: validating or training.
        fraction: done of the activity, 0 to 1.
        epoch: epoch under way, 0 if not told.
        epochs: number of epochs, 0 if not told.
        loss: of the last epoch, None if not told.
    """

    activity: str
    fraction: float
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class TrainingProcess:
    """How training processes are started.

    Attributes:
        command: the program that takes the path of a request as its last argument.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "fedhe.training.process")

    async def run(
        self, request: TrainRequest, *, work: Path, log: Path, policy: SitePolicy, told: Callable[[Progress], None]
    ) -> TrainResult:
        """Runs one task to its end.

        Args:
            request: what to do; its `output` folder is emptied first.
            work: the process's folder; also its HOME and place for temporary files.
            log: file that receives what the process prints, appended.
            policy: GPUs and the longest time.
            told: called with each line of progress.

        Returns:
            The result that the process left in `request.output`.

        Raises:
            TrainingError: the process failed, was killed, or left no valid result.
            ResourceError: disk full or read-only.
        """
        make_folder(work)
        make_folder(log.parent)
        shutil.rmtree(request.output, ignore_errors=True)
        make_folder(request.output)
        with disk_errors(request.output):
            if any(request.output.iterdir()):  # what is there now must be this task's
                raise ResourceError(f"{request.output}: cannot be emptied", "remove what an earlier job left there")
        request_file = work / "request.json"
        write_durably(request_file, request.model_dump_json(indent=1).encode(), sync=False)
        # An own pipe: asyncio's waits until all who hold it have closed it, and job code may leave children behind.
        read_end, write_end = os.pipe()
        output = os.fdopen(read_end, "rb")
        try:
            with disk_errors(log), log.open("ab") as stderr:
                begin = stderr.tell()
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "fedhe.client.leash", str(os.getpid()), *self.command, str(request_file),
                    cwd=work, env=bare_environment(os.environ, policy, work), start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL, stdout=write_end, stderr=stderr,
                )  # fmt: skip
        except BaseException:
            output.close()
            raise
        finally:
            os.close(write_end)
        listener = asyncio.create_task(_listen(output, told))
        hours = policy.max_training_hours
        try:
            with disk_errors(work):
                (work / "pid").write_text(f"{process.pid} {_start_time(process.pid)}", encoding="ascii")
            async with asyncio.timeout(None if hours is None else hours * 3600):
                code = await process.wait()
        except TimeoutError as error:
            raise TrainingError(
                f"{request.task} ran longer than this site's policy allows (max_training_hours: {hours})"
            ) from error
        finally:
            await _end(process)
            await _finish(listener)
            (work / "pid").unlink(missing_ok=True)
        if code != 0:
            raise _failure(request.task, code, last_lines(log, begin), log)
        try:
            return read_result(request.output)
        except ConfigError as error:
            raise TrainingError(f"{request.task} ended well but left no valid result: {error.message}") from error


def bare_environment(environment: Mapping[str, str], policy: SitePolicy, work: Path) -> dict[str, str]:
    """The few variables that job code may see; nothing else of the agent's environment is passed on."""
    bare = {name: environment[name] for name in _PASSED_ON if name in environment}
    bare |= {"HOME": str(work), "TMPDIR": str(work), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # No module is imported from the work folder, into which job code writes, or from below it as HOME.
    bare |= {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
    match policy.gpus:
        case "none":
            bare["CUDA_VISIBLE_DEVICES"] = ""
        case "auto":
            if "CUDA_VISIBLE_DEVICES" in environment:
                bare["CUDA_VISIBLE_DEVICES"] = environment["CUDA_VISIBLE_DEVICES"]
        case gpus:
            bare["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return bare


def visible_gpus(policy: SitePolicy) -> tuple[int, ...] | None:
    """GPU numbers as the training process counts them: those it may not use it does not see."""
    match policy.gpus:
        case "none":
            return ()
        case "auto":
            return None
        case gpus:
            return tuple(range(len(gpus)))


def end_leftover(work: Path) -> None:
    """Ends the process group of a training process that outlived a killed agent, if it is still that process."""
    try:
        pid, started = (work / "pid").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return
    if pid.isdecimal() and _start_time(int(pid)) == started != "":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)
    (work / "pid").unlink(missing_ok=True)


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """The last lines that were written to `log` after byte `begin`, at most `MAX_REPORTED_LINES`, each cut short."""
    with disk_errors(log), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return [line[:MAX_REPORTED_CHARACTERS] for line in lines[-MAX_REPORTED_LINES:]]


class TrainingFailedError(TrainingError):
    """A training process failed; carries its last lines, for the admin if the site's policy shares logs.

    Attributes:
        lines: the last lines that the process printed.
        may_pass: whether another try may help: the process was killed rather than failing by itself.
    """

    def __init__(self, message: str, hint: str | None, lines: Sequence[str], *, may_pass: bool) -> None:
        super().__init__(message, hint)
        self.lines = tuple(lines)
        self.may_pass = may_pass

    @property
    def traceback(self) -> tuple[str, ...]:
        """The lines from the last traceback on; those before it may tell losses and metrics."""
        begins = [index for index, line in enumerate(self.lines) if line.endswith(_TRACEBACK)]
        return self.lines[begins[-1] :] if begins else ()


def _failure(task: str, code: int, lines: list[str], log: Path) -> TrainingFailedError:
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = f"the process was ended by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    else:
        why = said or f"the process ended with code {code}"
    return TrainingFailedError(f"{task} failed: {why}", f"see {log} at the site", lines, may_pass=code < 0)


async def _listen(output: BinaryIO, told: Callable[[Progress], None]) -> None:
    """Reads the process's lines of progress until all have closed it; what is not progress is passed over."""
    reader = asyncio.StreamReader(limit=MAX_EVENT_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), output)
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # a line over the limit; asyncio has thrown away what it had of it
                continue
            if not line:
                return
            if (progress := parse_progress(line)) is not None:
                told(progress)
    finally:
        transport.close()


async def _finish(listener: asyncio.Task[None]) -> None:
    """Lets the listener read what is left in the pipe, but not wait for children that escaped the process group."""
    await asyncio.wait({listener}, timeout=DRAIN_SECONDS)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)


def parse_progress(line: bytes) -> Progress | None:
    """One line of a training process's output; None where it is no progress, as job code may print what it likes."""
    try:
        event = json.loads(line)
        if not isinstance(event, dict) or event.get("event") != "progress":
            return None
        fraction = min(1.0, max(0.0, float(event.get("fraction") or 0.0)))
        loss = event.get("loss")
        return Progress(
            "validating" if event.get("activity") == "validating" else "training",
            0.0 if fraction != fraction else fraction,  # noqa: PLR0124 - NaN is the one number unequal to itself
            int(event.get("epoch") or 0),
            int(event.get("epochs") or 0),
            None if loss is None else float(loss),
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends the process and everything that it started in its group; asks first, then insists."""
    if process.returncode is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await process.wait()
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _start_time(pid: int) -> str:
    """The kernel's start time of a process, which tells it from a later one of the same number; empty if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
