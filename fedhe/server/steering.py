"""What lead admins do to running jobs: pause, resume, change; and draining the whole server for maintenance."""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sqlalchemy.engine import Connection

from fedhe.config.federation import MAX_DURATION_SECONDS
from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds import events
from fedhe.rounds.state import JobState, Phase
from fedhe.server import records
from fedhe.server.access import caller
from fedhe.server.jobs import Job
from fedhe.server.one_line import one_line
from fedhe.server.parts import Parts
from fedhe.server.runner import Runner
from fedhe.wire import admin

DRAIN_REASON: Final = "the server is drained for maintenance"
"""Why a drained server's jobs are paused; those are what goes on when draining ends."""

_SETTING: Final = "drain"
_DEADLINES: Final = ("train_deadline", "upload_deadline", "apply_deadline")


class Steering:
    """Pauses, changes and draining; lives in the event loop."""

    def __init__(self, parts: Parts, runner: Runner) -> None:
        self._parts = parts
        self._runner = runner
        with parts.store.read() as connection:
            self._draining = json.loads(records.setting(connection, _SETTING) or "false")

    @property
    def draining(self) -> bool:
        """Whether no job starts and no round begins."""
        return bool(self._draining)

    @property
    def jobs_busy(self) -> int:
        """Jobs that run and are not paused."""
        return sum(_busy(job.state) for job in self._runner.jobs.values())

    def check_may_start(self) -> None:
        """Refuses to start a job while the server is drained.

        Raises:
            StateError: it is.
        """
        if self._draining:
            raise StateError("the server is drained for maintenance, so no job starts", "fedhe-admin drain --off")

    async def pause(self, request: admin.PauseJobRequest) -> None:
        """Pauses a job.

        Raises:
            NotFoundError: there is none of that id.
            StateError: it is not running, or paused already.
            ResourceError: the disk does not take it.
        """
        state = self._running(request.job_id, "paused")
        if state.paused_at is not None or (state.pause_due and request.after_round):
            what = "paused" if state.paused_at is not None else "about to be paused"
            raise StateError(f"job {request.job_id} is {what} already: {state.pause_reason or 'no reason given'}")
        given = one_line(request.reason).strip()
        reason = f"{given or 'no reason given'} (by {caller().name})"
        event = events.Pause(reason, request.after_round, self._parts.clock())
        await self._feed(request.job_id, event, "job-pause-asked", reason=given, after_round=request.after_round)

    async def resume(self, job_id: str) -> None:
        """Has a paused job go on.

        Raises:
            NotFoundError: there is none of that id.
            StateError: it is not paused, or the server is drained.
            ResourceError: the disk does not take it.
        """
        state = self._running(job_id, "resumed")
        if state.paused_at is None and not state.pause_due:
            raise StateError(f"job {job_id} is not paused", "fedhe-admin jobs show says what it waits for")
        if self._draining:
            raise StateError("the server is drained for maintenance, so no job goes on", "fedhe-admin drain --off")
        await self._feed(job_id, events.Continue(self._parts.clock()), "job-resume-asked")

    async def change(self, request: admin.ChangeJobRequest) -> None:
        """Changes a job's rounds and deadlines.

        Raises:
            NotFoundError: there is no job of that id.
            StateError: it has ended or begun more rounds, or its signed job has fewer.
            RemoteProtocolError: nothing to change, or a deadline out of range.
            ResourceError: the disk does not take it.
        """
        job = self._runner.job(request.job_id)
        if job.state.phase.ended:
            raise StateError(f"job {request.job_id} is {job.state.phase}, so nothing of it can be changed")
        wanted = _wanted(request)
        _check_wanted(job, wanted)
        event = events.Change(self._parts.clock(), **wanted)
        await self._feed(request.job_id, event, "job-change-asked", **wanted)

    async def set_drain(self, on: bool) -> None:
        """Has all jobs pause when their next round begins and none start, durably; or ends that.

        Raises:
            ResourceError: the disk does not take it; asking again goes on.
        """
        said = {"by": caller().name}

        def write() -> None:
            with self._parts.store.write() as connection:
                records.set_setting(connection, _SETTING, json.dumps(on))
                kind = "drain-began" if on else "drain-ended"
                self._parts.audit.decide(connection, self._parts.clock(), kind, said)

        await self._runner.write(write)
        self._draining = on
        self._parts.log.write("info", f"{'drain' if on else 'end of drain'} asked for by {caller().name}")
        await self.follow_drain()

    async def follow_drain(self) -> None:
        """Has every job follow what was last set; called at the start too, where a killed server had not told all.

        Raises:
            ResourceError: the disk does not take it; calling again goes on.
        """
        for job in list(self._runner.jobs.values()):
            state, now = job.state, self._parts.clock()
            if self._draining and _busy(state):
                # A job that waits for a site to begin has nothing under way, and may wait for long.
                under_way = state.phase is not Phase.SEEDING or state.seeder is not None
                await self._runner.feed(job.job_id, events.Pause(DRAIN_REASON, after_round=under_way, now=now))
            elif not self._draining and state.phase.running and state.pause_reason == DRAIN_REASON:
                await self._runner.feed(job.job_id, events.Continue(now))

    def _running(self, job_id: str, done: str) -> JobState:
        state = self._runner.job(job_id).state
        if not state.phase.running:
            raise StateError(f"job {job_id} is {state.phase}; only a running job can be {done}")
        return state

    async def _feed(self, job_id: str, event: events.Event, kind: str, **said: Any) -> None:
        also = self._decided(kind, {"job": job_id, "by": caller().name, **said})
        await self._runner.feed(job_id, event, also)

    def _decided(self, kind: str, said: dict[str, Any]) -> Callable[[Connection], None]:
        return partial(_decide, self._parts, kind, said)


def _busy(state: JobState) -> bool:
    return state.phase.running and state.paused_at is None


def _decide(parts: Parts, kind: str, said: dict[str, Any], connection: Connection) -> None:
    parts.audit.decide(connection, parts.clock(), kind, said)


def _wanted(request: admin.ChangeJobRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("rounds", *_DEADLINES) if request.HasField(name)}


def _check_wanted(job: Job, wanted: dict[str, Any]) -> None:
    if not wanted:
        raise RemoteProtocolError("expected rounds or a deadline to change, got neither")
    signed = job.federation.rounds
    if not 1 <= wanted.get("rounds", 1) <= signed:
        raise StateError(
            f"rounds: expected 1 to {signed}, as the signed job says, got {wanted['rounds']}",
            "for more rounds submit another job that begins with this one's model",
        )
    for name in _DEADLINES:
        seconds = wanted.get(name, 1.0)
        if not (math.isfinite(seconds) and 1.0 <= seconds <= MAX_DURATION_SECONDS):
            raise RemoteProtocolError(f"{name}: expected 1 to {MAX_DURATION_SECONDS:.0f} seconds, got {seconds:g}")
