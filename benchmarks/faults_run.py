"""Carries out one schedule: watches the federation, has each fault begin and end, and tells what became of the job."""

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from faults_checks import Outcome, read_outcome
from faults_federation import Laboratory, Seen
from faults_power import lose_unflushed
from faults_proxy import Weather
from faults_schedule import (
    LATENCY_SECONDS,
    NARROW_BYTES,
    PHASES,
    SERVER,
    SITES,
    STALL_SECONDS,
    Fault,
    Schedule,
    When,
)
from round_federation import BenchmarkError

STUCK_SECONDS = 300.0  # without a step of the job after the last fault; a half-open connection shows after 80
SPARE_DESCRIPTORS = 16  # connections that are just being made, database connections
SHORT_STREAM_BYTES = 1_600_000  # more than the largest chunk, and less than all chunks that are under way
UNLIMITED = resource.RLIM_INFINITY


@dataclass(frozen=True)
class Calm:
    """A run without faults: what the others are held against.

    Attributes:
        seconds: from the job's submission to its end.
        changes: of each program's disk, up to the program's end.
        descriptors: open files and sockets of each program when the job was over.
        outcome: what it left.
    """

    seconds: float
    changes: dict[str, int]
    descriptors: dict[str, int]
    outcome: Outcome


@dataclass
class Run:
    """One run, and what happened in it.

    Attributes:
        done: faults that happened, with what is to be told of each.
        recoveries: seconds from the end of each fault to the next step of the job.
        trouble: what must not be; empty if all went well.
    """

    schedule: Schedule
    done: list[tuple[Fault, str]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    stuck: bool = False
    seconds: float = 0.0
    cuts: int = 0
    outcome: Outcome | None = None
    changes: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    wrong_model: bool = False


def carry_out(schedule: Schedule, template: Path, folder: Path, calm: Calm | None) -> Run:
    """Runs a job under a schedule of faults in an empty folder."""
    run = Run(schedule)
    orders: dict[str, dict[str, str]] = {}
    for fault in schedule.faults:
        if fault.when.kind == "change" and calm is not None:
            parts = (fault.when.part, *fault.when.parts)
            orders[fault.who] = {
                "die-at": " ".join(str(max(1, round(part * calm.changes[fault.who]))) for part in parts)
            }
    laboratory = Laboratory(folder, schedule.engine, len(SITES), 0, template=template, orders=orders)
    try:
        with laboratory:
            _Course(laboratory, run, calm.seconds if calm else 0.0).follow()
            run.descriptors = laboratory.descriptors()
            run.trouble += _leaks(laboratory, run, calm)
            run.cuts = laboratory.proxy.cuts
    except BenchmarkError as error:
        run.trouble.append(str(error))
    if not run.trouble and not run.stuck:
        run.changes = {name: laboratory.changes(name) for name in (SERVER, *SITES)}
        run.outcome = read_outcome(laboratory)
        run.trouble += run.outcome.faults
    return run


@dataclass
class _Course:
    """The course of one run: what is still to begin, and what is still to end."""

    laboratory: Laboratory
    run: Run
    calm_seconds: float
    waiting: list[Fault] = field(init=False)
    ending: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    down: dict[str, float] = field(default_factory=dict)
    weather: Weather = field(default_factory=Weather)
    healed: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = list(self.run.schedule.faults)

    def follow(self) -> None:
        """Until the job has ended and nothing is left to end."""
        began = last = time.monotonic()
        submitted = False
        before = self.laboratory.seen.progress
        while True:
            if not submitted and self.laboratory.is_ready:
                submitted = self._submit()
                began = last = time.monotonic()
            seen, now = self.laboratory.look(), time.monotonic()
            if seen.progress != before:
                before, last = seen.progress, now
                self.run.recoveries += [now - moment for moment in self.healed]
                self.healed.clear()
            self._begin(seen, now - began)
            self._end(now)
            self._watch(now)
            if seen.phase in {"failed", "aborted"}:
                raise BenchmarkError(f"the job ended as {seen.phase}: {_message(seen)}")
            if seen.phase == "finished" and not self.ending and not self.down:
                break
            if self.ending or self.down:
                last = now
            if now - last > STUCK_SECONDS:
                self.run.stuck = True
                raise BenchmarkError(f"no step for {STUCK_SECONDS:.0f} s in phase {seen.phase} of round {seen.round}")
            self.laboratory.wait_a_moment()
        self.run.seconds = time.monotonic() - began
        self._settle()

    def _submit(self) -> bool:
        try:
            self.laboratory.submit_job()
        except BenchmarkError:
            if self.laboratory.process(SERVER).poll() is None:
                raise  # else it was killed meanwhile
            self.laboratory.forget_job_folder()
            return False
        return True

    def _settle(self) -> None:
        """Waits until all sites have heard that the job is over."""
        sites = self.laboratory
        deadline = time.monotonic() + STUCK_SECONDS
        while not all(any(kind == "job-ended" for kind, _ in sites.look().lines[site]) for site in SITES):
            self._watch(time.monotonic())
            self._end(time.monotonic())
            if time.monotonic() > deadline:
                self.run.stuck = True
                raise BenchmarkError("the job has finished, and not all sites hear of it")
            sites.wait_a_moment()

    # ---- what happens by itself ----

    def _watch(self, now: float) -> None:
        """Starts a program again that ended as it was ordered to; any other end is trouble."""
        for name in (SERVER, *SITES):
            code = self.laboratory.process(name).poll()
            if code is None or name in self.down:
                continue
            fault = next((one for one in self.waiting if one.when.kind == "change" and one.who == name), None)
            if code != -signal.SIGKILL or fault is None:
                raise BenchmarkError(f"{name} ended with {code}:\n{self.laboratory.last_lines(name)}")
            if not self.laboratory.is_to_die_again(name):
                self.waiting.remove(fault)
            self._went_down(fault, now, f"at a change of its disk, {self._where()}")

    def _where(self) -> str:
        return f"{self.laboratory.seen.phase} of round {self.laboratory.seen.round}"

    def _went_down(self, fault: Fault, now: float, told: str) -> None:
        if fault.what == "power":
            rng = random.Random(f"power {self.run.schedule.seed}")
            lost = lose_unflushed(self.laboratory.journal(fault.who), rng)
            told += f"; {len(lost)} files lost: {lost}"
        self.down[fault.who] = now
        self._later(now + fault.seconds, lambda: self._up(fault.who))
        self.run.done.append((fault, told))

    def _up(self, name: str) -> None:
        self.laboratory.start(name)
        del self.down[name]
        self.healed.append(time.monotonic())

    def _later(self, moment: float, end: Callable[[], None]) -> None:
        self.ending.append((moment, end))

    def _end(self, now: float) -> None:
        for one in [one for one in self.ending if one[0] <= now]:
            self.ending.remove(one)
            one[1]()

    # ---- faults ----

    def _begin(self, seen: Seen, elapsed: float) -> None:
        for fault in list(self.waiting):
            if fault.when.kind != "change" and self._is_due(fault, fault.when, seen, elapsed):
                self.waiting.remove(fault)
                self._happen(fault)

    def _is_due(self, fault: Fault, when: When, seen: Seen, elapsed: float) -> bool:
        if fault.who in self.down:
            return False
        match when.kind:
            case "phase":
                round_ = 0 if when.name == "seeding" else when.round
                return (seen.round, PHASES.index(seen.phase)) >= (round_, PHASES.index(when.name))
            case "line":
                return (when.name, when.round) in seen.lines[fault.who]
            case "training":
                return seen.round >= when.round and self.laboratory.trainer(fault.who) is not None
            case "after":
                return elapsed >= when.part * self.calm_seconds
        raise ValueError(when.kind)

    def _happen(self, fault: Fault) -> None:
        now, told = time.monotonic(), self._where()
        match fault.what:
            case "kill" | "power":
                self.laboratory.kill(fault.who)
                self._went_down(fault, now, told)
                return
            case "move":
                self.laboratory.kill(SERVER)
                self.laboratory.move()
                self._went_down(fault, now, told)
                return
            case "kill-trainer":
                if (pid := self.laboratory.trainer(fault.who)) is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    self.healed.append(now)
            case "clock":
                self.laboratory.set_clock(fault.who, fault.amount)
                self.healed.append(now)
            case "disk-full":
                self._fill(fault, now)
            case _:
                self._network(fault, now)
        self.run.done.append((fault, told))

    def _fill(self, fault: Fault, now: float) -> None:
        """No file of the program grows for a while: what a full disk or a used-up quota is like."""
        process = self.laboratory.process(fault.who)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, UNLIMITED))

        def free() -> None:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile; the one that follows has no limit
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
            self.healed.append(time.monotonic())

        self._later(now + fault.seconds, free)

    def _network(self, fault: Fault, now: float) -> None:
        proxy = self.laboratory.proxy
        changes: dict[str, object] = {}
        match fault.what:
            case "cut":
                proxy.cut()
            case "half-open":
                proxy.forget()
            case "refuse":
                changes = {"refusing": True}
                proxy.cut()
            case "silence":
                changes = {"silent": True}
            case "latency":
                changes = {"latency": LATENCY_SECONDS}
            case "narrow":
                changes = {"bytes_per_second": NARROW_BYTES}
            case "stalls":
                changes = {"stall": STALL_SECONDS * fault.amount}
            case "short-streams":
                changes = {"longest_bytes": int(SHORT_STREAM_BYTES * max(1.0, fault.amount))}
        calm = Weather()
        self.weather = replace(self.weather, **changes)
        proxy.set(self.weather)

        def heal() -> None:
            self.weather = replace(self.weather, **{name: getattr(calm, name) for name in changes})
            proxy.set(self.weather)
            self.healed.append(time.monotonic())

        self._later(now + (fault.seconds if changes else 0.0), heal)


def _message(seen: Seen) -> str:
    return seen.state[-500:]


def _leaks(laboratory: Laboratory, run: Run, calm: Calm | None) -> list[str]:
    """Processes, temporary files and descriptors that are left when the job is over and the programs still run."""
    found = [f"a process is left: {line}" for line in laboratory.strays()]
    found += [f"a temporary file is left: {path}" for path in (laboratory.folder / "tmp").rglob("*")]
    for name, number in run.descriptors.items():
        if calm is not None and number > (most := calm.descriptors[name] + SPARE_DESCRIPTORS):
            found.append(f"{name} has {number} descriptors open, at most {most} are expected")
    return found
