"""What sites ask of the server; each answer comes after everything it says is on the disk."""

# ruff: noqa: N802 -- methods are named as in the .proto

import asyncio
import math
from collections.abc import Container
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from fedhe import __version__
from fedhe.errors import RemoteProtocolError, StateError, TrustError
from fedhe.rounds import events
from fedhe.rounds.directive import Directive, instruction_for
from fedhe.rounds.state import NO_VERSION, ReadyEntry
from fedhe.server import records
from fedhe.server.access import Gate, caller
from fedhe.server.instructions import instruction_message
from fedhe.server.jobs import Job
from fedhe.server.log_book import LogEntry
from fedhe.server.one_line import one_line
from fedhe.server.parts import Parts
from fedhe.server.presence import HEARTBEAT_SECONDS, Progress
from fedhe.server.runner import Runner
from fedhe.server.transfers import Transfers
from fedhe.trust.certificates import SITE
from fedhe.trust.signatures import READY_LABEL, verify
from fedhe.wire import FederationServicer, federation
from fedhe.wire.limits import (
    MAX_JOBS_PER_POLL,
    MAX_LOG_LINES,
    MAX_NOTE_BYTES,
    MAX_POLL_SECONDS,
    MAX_REPORT_LINES,
    MAX_ROUNDS,
    PROTOCOL_VERSION,
)
from fedhe.wire.messages import FINGERPRINT_BYTES, ReadyStatement, check_signed_ready

_PROBLEMS = {
    federation.PROBLEM_REJECTED: events.Problem.REJECTED,
    federation.PROBLEM_WAITING_FOR_APPROVAL: events.Problem.WAITING_FOR_APPROVAL,
    federation.PROBLEM_TRAINING_FAILED: events.Problem.TRAINING_FAILED,
    federation.PROBLEM_CHECK_FAILED: events.Problem.CHECK_FAILED,
    federation.PROBLEM_UPDATE_LOST: events.Problem.UPDATE_LOST,
}


class FederationService(FederationServicer):
    """The service `fedhe.v1.Federation`; who calls is known from the gate."""

    def __init__(self, parts: Parts, runner: Runner, transfers: Transfers, gate: Gate) -> None:
        self._parts = parts
        self._runner = runner
        self._transfers = transfers
        self._gate = gate
        self._closing = False

    def close(self) -> None:
        """Has all long polls answer now."""
        self._closing = True
        self._runner.notify()

    # ---- hello, and what to do ----

    async def Join(self, request: federation.JoinRequest, _context: Any) -> federation.JoinReply:
        """Says hello."""
        site = caller().name
        roster = self._parts.roster.current
        for what, expected, actual in (
            ("protocol version", PROTOCOL_VERSION, request.protocol_version),
            ("project", self._parts.project, request.project),
            ("CKKS key id", roster.key_id.hex(), request.key_id.hex()),
        ):
            if expected != actual:
                raise StateError(
                    f"{site}: expected {what} {expected}, got {str(actual)[:80]}",
                    "install the same release of fedhe, and the newest kit of this project",
                )
        now, version = self._parts.clock(), one_line(request.software_version[:64])
        self._parts.presence.seen(site, now, version)
        self._parts.log.write("info", f"{site} joined", version=version)
        self._runner.progress.notify()
        return federation.JoinReply(
            software_version=__version__,
            server_time=now,
            roster=self._newer_roster(request.roster_version),
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )

    async def Poll(self, request: federation.PollRequest, _context: Any) -> federation.PollReply:
        """Answers with the site's instructions as soon as one differs from what it works on."""
        site = caller().name
        if len(request.jobs) > MAX_JOBS_PER_POLL:
            raise RemoteProtocolError(f"poll: expected at most {MAX_JOBS_PER_POLL} jobs, got {len(request.jobs)}")
        wait = request.wait_seconds if math.isfinite(request.wait_seconds) else 0.0
        if self._parts.presence.seen(site, self._parts.clock()):
            self._runner.progress.notify()
        named = {progress.job_id: progress for progress in request.jobs}
        await self._take_progress(site, named)
        loop = asyncio.get_running_loop()
        ends = loop.time() + min(max(wait, 0.0), MAX_POLL_SECONDS)
        while True:
            mark = self._runner.changes.mark
            roster = self._newer_roster(request.roster_version)
            try:
                self._parts.roster.current.check(caller(), self._parts.clock())
            except TrustError:
                if not roster:
                    raise
                # Revoked while it waited: the roster tells it so, and nothing else is for it any more.
                return federation.PollReply(roster=roster)
            present = {job.job_id: directive.id for job, directive in self._directives(site, named)}
            news = present != {name: p.working_on for name, p in named.items()}
            if news or roster or self._closing or loop.time() >= ends:
                # Sealed rosters are large, and all sites get theirs at the same moment.
                await self._gate.turns.take(f"site {site}")
                self._parts.presence.seen(site, self._parts.clock())
                instructions = [instruction_message(job.state, one) for job, one in self._directives(site, named)]
                return federation.PollReply(
                    instructions=instructions, roster=self._newer_roster(request.roster_version)
                )
            await self._runner.changes.wait(mark, ends - loop.time())

    async def _take_progress(self, site: str, named: dict[str, federation.JobProgress]) -> None:
        now, told = self._parts.clock(), False
        for job in list(self._runner.jobs.values()):
            if site not in job.state.config.sites:
                continue
            said = named.get(job.job_id)
            if said is None and job.state.phase.ended:
                continue
            if said is not None:
                told |= self._parts.presence.report(site, job.job_id, _progress(said))
            # A site that does not name a job has no folder for it: it never had it, or lost its disk.
            version = NO_VERSION if said is None else min(max(said.model_version, NO_VERSION), MAX_ROUNDS)
            waiting = said is not None and said.activity == federation.ACTIVITY_WAITING_FOR_APPROVAL
            seen = events.SiteSeen(site, version, waiting, now, willing=_at_ease(job, site, said))
            await self._runner.feed(job.job_id, seen)
        if told:
            self._runner.progress.notify()

    def _directives(self, site: str, named: Container[str]) -> list[tuple[Job, Directive]]:
        found = []
        for job in self._runner.jobs.values():
            if job.state.phase.ended and job.job_id not in named:
                continue
            directive = instruction_for(job.state, site)
            if directive is not None:
                found.append((job, directive))
        return found

    def _newer_roster(self, version: int) -> bytes:
        return self._parts.roster.signed if self._parts.roster.current.version > version else b""

    # ---- READY ----

    async def Ready(self, request: federation.SignedReady, _context: Any) -> federation.Receipt:
        """Takes a site's READY into the round."""
        statement = check_signed_ready(request)
        job = self._own_job(statement.job_id)
        self._check_ready(request, statement, job)
        entry = ReadyEntry(
            site=statement.site,
            body=request.body,
            signature=request.signature,
            certificate=request.certificate,
            fingerprint=statement.model_fingerprint,
            layout_digest=statement.layout_digest,
            key_id=statement.key_id,
            params_id=statement.params_id,
            chunks=statement.chunks,
        )
        now = self._parts.clock()

        def also(connection: Connection) -> None:
            records.update_contribution(
                connection,
                statement.job_id,
                statement.round,
                statement.site,
                ready_body=request.body,
                ready_signature=request.signature,
                ready_certificate=request.certificate,
                ready_at=now,
            )

        event = events.SiteReady(statement.round, statement.attempt, entry, now)
        await self._runner.feed(statement.job_id, event, also)
        return federation.Receipt()

    def _check_ready(self, request: federation.SignedReady, statement: ReadyStatement, job: Job) -> None:
        site = caller().name
        signer = self._gate.identify(request.certificate)
        if (signer.role, signer.name) != (SITE, site):
            raise TrustError(f"READY of {site}: signed with the certificate of {signer.role} {signer.name}")
        verify(READY_LABEL, request.body, request.signature, request.certificate)
        for what, expected, actual in (
            ("site", site, statement.site),
            ("project", self._parts.project, statement.project),
            ("CKKS key id", self._parts.roster.current.key_id.hex(), statement.key_id.hex()),
            ("HE parameters id", job.params.params_id.hex(), statement.params_id.hex()),
        ):
            if expected != actual:
                raise RemoteProtocolError(f"READY of {site}: expected {what} {expected}, got {actual}")

    # ---- objects ----

    async def UploadStatus(self, request: federation.ObjectRef, _context: Any) -> federation.UploadStatusReply:
        """Tells which chunks are stored."""
        return await self._transfers.status(caller().name, request)

    async def PutChunk(self, request: federation.PutChunkRequest, _context: Any) -> federation.Receipt:
        """Stores one chunk."""
        await self._transfers.put(caller().name, request.object, request.chunk)
        return federation.Receipt()

    async def FinishUpload(self, request: federation.FinishUploadRequest, _context: Any) -> federation.Receipt:
        """Takes an upload as complete."""
        await self._transfers.finish(caller().name, request)
        return federation.Receipt()

    async def DescribeObject(self, request: federation.ObjectRef, _context: Any) -> federation.ObjectInfo:
        """Describes an object."""
        return self._transfers.describe(caller().name, request)

    async def GetChunk(self, request: federation.GetChunkRequest, _context: Any) -> federation.Chunk:
        """Hands out one chunk."""
        return await self._transfers.get(caller().name, request)

    # ---- what a site reports ----

    async def Applied(self, request: federation.AppliedRequest, _context: Any) -> federation.Receipt:
        """Notes that a site holds a version durably."""
        site, version = caller().name, request.version
        self._own_job(request.job_id)
        if len(request.model_fingerprint) != FINGERPRINT_BYTES:
            raise RemoteProtocolError(
                f"fingerprint: expected {FINGERPRINT_BYTES} bytes, got {len(request.model_fingerprint)}"
            )
        if len(request.sealed_note) > MAX_NOTE_BYTES:
            raise RemoteProtocolError(
                f"sealed note: expected at most {MAX_NOTE_BYTES} bytes, got {len(request.sealed_note)}"
            )
        now = self._parts.clock()
        values: dict[str, Any] = {"model_fingerprint": request.model_fingerprint, "applied_at": now}
        if request.sealed_note:
            values["applied_note"] = request.sealed_note
        event = events.SiteApplied(site, version, request.model_fingerprint, now)
        also = partial(_record_applied, request.job_id, version, site, values)
        await self._runner.feed(request.job_id, event, also, even_if_unchanged=True)
        return federation.Receipt()

    async def Report(self, request: federation.ReportRequest, _context: Any) -> federation.Receipt:
        """Takes what a site cannot do."""
        site = caller().name
        self._own_job(request.job_id)
        problem = _PROBLEMS.get(request.problem)
        if problem is None:
            raise RemoteProtocolError(f"report: expected a known problem, got {request.problem}")
        if len(request.lines) > MAX_REPORT_LINES:
            raise RemoteProtocolError(f"report: expected at most {MAX_REPORT_LINES} lines, got {len(request.lines)}")
        message = one_line(request.message)
        now = self._parts.clock()
        lines = [LogEntry(now, "error", site, request.job_id, line) for line in request.lines]
        waits = problem is events.Problem.WAITING_FOR_APPROVAL
        lines.append(LogEntry(now, "info" if waits else "error", site, request.job_id, f"{problem}: {message}"))
        self._parts.book.add(lines)
        event = events.SiteProblem(site, problem, request.round, request.attempt, message, now)
        await self._runner.feed(request.job_id, event)
        return federation.Receipt()

    async def PushLog(self, request: federation.PushLogRequest, _context: Any) -> federation.Receipt:
        """Keeps lines of a site's log for admins."""
        self._own_job(request.job_id)
        if len(request.lines) > MAX_LOG_LINES:
            raise RemoteProtocolError(f"log: expected at most {MAX_LOG_LINES} lines, got {len(request.lines)}")
        site, now = caller().name, self._parts.clock()
        self._parts.book.add(
            [
                LogEntry(line.time if math.isfinite(line.time) else now, line.level, site, request.job_id, line.message)
                for line in request.lines
            ]
        )
        return federation.Receipt()

    def _own_job(self, job_id: str) -> Job:
        job = self._runner.job(job_id)
        if caller().name not in job.state.config.sites:
            raise StateError(
                f"{caller().name} has no part in job {job_id}", "the job names its sites in config_fed.yml"
            )
        return job


def _record_applied(job_id: str, version: int, site: str, values: dict[str, Any], connection: Connection) -> None:
    records.update_contribution(connection, job_id, version, site, **values)


def _at_ease(job: Job, site: str, said: federation.JobProgress | None) -> bool:
    """Whether the site has carried out its newest instruction and neither failed nor waits for approval."""
    directive = instruction_for(job.state, site)
    if said is None or directive is None:
        return False
    return said.activity == federation.ACTIVITY_IDLE and said.working_on == directive.id


def _progress(said: federation.JobProgress) -> Progress:
    activity = federation.Activity.Name(said.activity) if said.activity in federation.Activity.values() else ""
    return Progress(
        activity=activity.removeprefix("ACTIVITY_").lower().replace("_", " "),
        fraction=min(max(said.fraction, 0.0), 1.0) if math.isfinite(said.fraction) else 0.0,
        detail=one_line(said.detail),
        model_version=said.model_version,
        working_on=said.working_on[:100],
    )
