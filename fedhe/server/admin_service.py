"""What admins ask of the server; the gate has checked already whether their role may."""

# ruff: noqa: N802 -- methods are named as in the .proto

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from fedhe import __version__
from fedhe.errors import NotFoundError, RemoteProtocolError, ResourceError, StateError
from fedhe.rounds import events
from fedhe.rounds.state import Phase
from fedhe.server import places, records
from fedhe.server.access import Gate, caller
from fedhe.server.job_view import detail_message, job_message, rounds_message
from fedhe.server.jobs import Job, ObjectKey
from fedhe.server.log_book import LogEntry
from fedhe.server.memory import peak_rss_bytes
from fedhe.server.one_line import one_line
from fedhe.server.parts import Parts
from fedhe.server.places import JOB
from fedhe.server.project_sites import ProjectSites
from fedhe.server.records import ObjectRow
from fedhe.server.runner import Runner
from fedhe.server.steering import Steering
from fedhe.server.submission import check_signature, make_job
from fedhe.server.transfers import Transfers
from fedhe.wire import AdminServicer, admin, federation
from fedhe.wire.chunking import split
from fedhe.wire.limits import MAX_LAST_LOG_LINES
from fedhe.wire.messages import SignedJob, check_job_id, join_job, write_signed_job

WATCH_PAUSE_SECONDS = 0.2
"""Changes that come faster than this are shown together."""
WATCH_LOOK_SECONDS = 5.0
"""A watched job is looked at this often even if nothing was told: a site may have gone offline."""


class AdminService(AdminServicer):
    """The service `fedhe.v1.Admin`.

    Args:
        stop: ends the server; with True it starts again.
    """

    def __init__(
        self,
        parts: Parts,
        runner: Runner,
        transfers: Transfers,
        gate: Gate,
        sites: ProjectSites,
        *,
        stop: Callable[[bool], None],
    ) -> None:
        self._parts = parts
        self._runner = runner
        self._transfers = transfers
        self._gate = gate
        self._sites = sites
        self._stop = stop
        self.steering = Steering(parts, runner)
        self._closing = False

    def close(self) -> None:
        """Has all streams end now."""
        self._closing = True
        self._runner.notify()
        self._parts.book.close()

    # ---- server and sites ----

    async def GetStatus(self, _request: admin.GetStatusRequest, _context: Any) -> admin.ServerStatus:
        """Tells how the server is."""
        now, roster = self._parts.clock(), self._parts.roster.current
        used, free = await asyncio.to_thread(self._parts.blobs.disk_usage)
        return admin.ServerStatus(
            project=self._parts.project,
            software_version=__version__,
            started_at=self._parts.started_at,
            server_time=now,
            sites_online=sum(self._parts.presence.online(site, now) for site in roster.sites),
            sites_known=len(roster.sites),
            jobs_running=sum(job.state.phase.running for job in self._runner.jobs.values()),
            disk_used_bytes=used,
            disk_free_bytes=free,
            disk_budget_bytes=self._parts.budget.limit or 0,
            peak_rss_bytes=await asyncio.to_thread(peak_rss_bytes),
            roster_version=roster.version,
            key_id=roster.key_id,
            draining=self.steering.draining,
            jobs_busy=self.steering.jobs_busy,
        )

    async def ListSites(self, _request: admin.ListSitesRequest, _context: Any) -> admin.ListSitesReply:
        """Lists the project's sites, and those that were revoked."""
        return admin.ListSitesReply(sites=self._sites.listing())

    async def SetSite(self, request: admin.SetSiteRequest, _context: Any) -> federation.Receipt:
        """Disables a site, or enables it again."""
        await self._sites.set_enabled(request.name, request.enabled, by=caller().name)
        return federation.Receipt()

    async def UpdateRoster(self, request: admin.UpdateRosterRequest, _context: Any) -> federation.Receipt:
        """Puts a newer roster in force."""
        await self._sites.update_roster(request.roster, by=caller().name)
        return federation.Receipt()

    async def Shutdown(self, request: admin.ShutdownRequest, _context: Any) -> federation.Receipt:
        """Stops the server, or starts it over."""
        what = "restart" if request.restart else "shutdown"
        await asyncio.to_thread(self._parts.audit.note, self._parts.clock(), what, {"by": caller().name})
        self._parts.log.write("info", f"{what} asked for by {caller().name}")
        self._stop(request.restart)
        return federation.Receipt()

    # ---- jobs ----

    async def SubmitJob(self, pieces: AsyncIterator[admin.SubmitJobRequest], _context: Any) -> admin.SubmitJobReply:
        """Takes a signed job in, and starts it where that is asked for."""
        request = await join_job(pieces)
        signed = SignedJob(request.archive, request.signature, request.certificate)
        await asyncio.to_thread(check_signature, signed, self._gate.identify(request.certificate), caller())
        job = await asyncio.to_thread(
            make_job,
            request.archive,
            caller(),
            self._parts.roster.current,
            self._sites.enabled(),
            params=self._parts.params,
            now=self._parts.clock(),
        )
        self._parts.budget.admit(len(request.archive))
        row = await asyncio.to_thread(self._store_archive, job, write_signed_job(signed))
        job.objects[ObjectKey(JOB)] = row
        said = {"job": job.job_id, "name": job.row.name, "by": caller().name, "digest": job.row.archive_digest}
        try:
            await self._runner.add(job, self._decided("job-submitted", said))
        except ResourceError:
            await asyncio.to_thread(self._parts.blobs.drop, places.job(job.job_id))
            raise
        self._parts.log.write("info", f"job {job.row.name} submitted by {caller().name}", job_id=job.job_id)
        if request.start:
            await self._start(job.job_id)
        return admin.SubmitJobReply(job_id=job.job_id)

    def _store_archive(self, job: Job, signed: bytes) -> ObjectRow:
        place = places.place(job.job_id, JOB, 0, 0, "")
        pieces = list(split(signed))
        try:
            for index, piece in enumerate(pieces):
                self._parts.blobs.put(place, index, piece)
        except ResourceError:
            self._parts.blobs.drop(places.job(job.job_id))
            raise
        info = self._parts.blobs.complete(place, len(pieces))
        return ObjectRow(job.job_id, JOB, 0, 0, "", info.chunks, info.size, info.digest, self._parts.clock())

    async def ListJobs(self, _request: admin.ListJobsRequest, _context: Any) -> admin.ListJobsReply:
        """Lists all jobs, oldest first."""
        return admin.ListJobsReply(jobs=[job_message(job) for job in self._runner.jobs.values()])

    async def ShowJob(self, request: admin.JobRef, _context: Any) -> admin.JobDetail:
        """Shows one job."""
        return self._detail(request.job_id)

    async def StartJob(self, request: admin.JobRef, _context: Any) -> federation.Receipt:
        """Starts a submitted job."""
        phase = self._runner.job(request.job_id).state.phase
        if phase.ended:
            raise StateError(f"job {request.job_id} is {phase}", "submit it again to run it again")
        await self._start(request.job_id)
        return federation.Receipt()

    async def _start(self, job_id: str) -> None:
        self.steering.check_may_start()
        also = self._decided("job-start-asked", {"job": job_id, "by": caller().name})
        await self._runner.feed(job_id, events.Start(self._parts.clock()), also)

    async def AbortJob(self, request: admin.AbortJobRequest, _context: Any) -> federation.Receipt:
        """Ends a job."""
        phase = self._runner.job(request.job_id).state.phase
        if phase in {Phase.FINISHED, Phase.FAILED}:
            raise StateError(f"job {request.job_id} is {phase} already", "there is nothing to abort")
        reason, who = one_line(request.reason).strip(), caller().name
        also = self._decided("job-abort-asked", {"job": request.job_id, "by": who, "reason": reason})
        event = events.Abort(f"{reason or 'no reason given'} (by {who})", self._parts.clock())
        await self._runner.feed(request.job_id, event, also)
        return federation.Receipt()

    async def PauseJob(self, request: admin.PauseJobRequest, _context: Any) -> federation.Receipt:
        """Pauses a running job, now or when its next round begins."""
        await self.steering.pause(request)
        return federation.Receipt()

    async def ResumeJob(self, request: admin.JobRef, _context: Any) -> federation.Receipt:
        """Has a paused job go on."""
        await self.steering.resume(request.job_id)
        return federation.Receipt()

    async def ChangeJob(self, request: admin.ChangeJobRequest, _context: Any) -> federation.Receipt:
        """Changes a job's rounds and deadlines."""
        await self.steering.change(request)
        return federation.Receipt()

    async def SetDrain(self, request: admin.SetDrainRequest, _context: Any) -> federation.Receipt:
        """Drains the server for maintenance, or ends that."""
        await self.steering.set_drain(request.on)
        return federation.Receipt()

    async def DeleteJob(self, request: admin.JobRef, _context: Any) -> federation.Receipt:
        """Removes a job that does not run, with its history, checkpoints and archive."""
        said = {"job": request.job_id, "by": caller().name}
        await self._runner.delete(request.job_id, self._decided("job-deleted", said))
        self._parts.log.write("info", f"job deleted by {caller().name}", job_id=request.job_id)
        return federation.Receipt()

    async def ListRounds(self, request: admin.JobRef, _context: Any) -> admin.ListRoundsReply:
        """Lists a job's rounds with what each site did."""
        job_id = self._runner.job(request.job_id).job_id
        await self._runner.save_fetched()

        def read() -> admin.ListRoundsReply:
            with self._parts.store.read() as connection:
                return rounds_message(records.rounds(connection, job_id), records.contributions(connection, job_id))

        return await asyncio.to_thread(read)

    async def WatchJob(self, request: admin.JobRef, _context: Any) -> AsyncIterator[admin.JobDetail]:
        """Yields the job's detail now and whenever it changes, until the job has ended."""
        shown = None
        while not self._closing:
            mark = self._runner.progress.mark
            try:
                detail = self._detail(request.job_id)
            except NotFoundError:
                if shown is None:
                    raise
                return  # deleted while it was watched
            if detail != shown:
                yield detail
                shown = detail
            if Phase(detail.job.phase).ended:
                return
            await self._runner.progress.wait(mark, WATCH_LOOK_SECONDS)
            await asyncio.sleep(WATCH_PAUSE_SECONDS)

    # ---- log and objects ----

    async def ReadLog(self, request: admin.ReadLogRequest, _context: Any) -> AsyncIterator[federation.LogLine]:
        """Yields the last log lines, and then new ones where that is asked for."""
        if request.last > MAX_LAST_LOG_LINES:
            raise RemoteProtocolError(f"log: expected at most {MAX_LAST_LOG_LINES} lines, got {request.last}")
        if request.job_id:
            check_job_id(request.job_id)
        self._sites.check_source(request.source)
        # Following begins before the last lines are read, so that none falls between.
        follower = self._parts.book.follow(request.source, request.job_id) if request.follow else None
        try:
            last = await asyncio.to_thread(self._parts.book.last, request.last, request.source, request.job_id)
            for entry in last:
                yield _line(entry)
            if follower is not None:
                shown = set(last)
                async for entry in follower:
                    if entry not in shown:
                        yield _line(entry)
        finally:
            if follower is not None:
                follower.close()

    async def DescribeObject(self, request: federation.ObjectRef, _context: Any) -> federation.ObjectInfo:
        """Describes a job's archive or a sealed checkpoint."""
        return self._transfers.describe(None, request)

    async def GetChunk(self, request: federation.GetChunkRequest, _context: Any) -> federation.Chunk:
        """Hands out one chunk of a job's archive or a sealed checkpoint."""
        return await self._transfers.get(None, request)

    def _detail(self, job_id: str) -> admin.JobDetail:
        return detail_message(self._runner.job(job_id), self._parts.presence, self._parts.clock())

    def _decided(self, kind: str, said: dict[str, Any]) -> Callable[[Connection], None]:
        return partial(_decide, self._parts, kind, said)


def _decide(parts: Parts, kind: str, said: dict[str, Any], connection: Connection) -> None:
    parts.audit.decide(connection, parts.clock(), kind, said)


def _line(entry: LogEntry) -> federation.LogLine:
    return federation.LogLine(
        time=entry.time, level=entry.level, source=entry.source, job_id=entry.job_id, message=entry.message
    )
