"""The site's agent: says hello, polls for instructions, hands them to the jobs' workers; outlives all of them.

It only dials out. Everything that must survive is on the disk before the server hears of it, so the agent may be
killed at any moment and started again.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedhe import __version__
from fedhe.allocator import share_heaps
from fedhe.client.durable import make_folder
from fedhe.client.job_folder import JobFolder, JobRecord
from fedhe.client.job_task import JobTask, gone
from fedhe.client.log_book import LogBook
from fedhe.client.session import ServerRefusedError, Session, TransientError, backoff_seconds, open_channel
from fedhe.client.site import Site
from fedhe.client.status import STATUS_FILE, Status
from fedhe.client.trainer import TrainingProcess, end_leftover
from fedhe.client.work import Work
from fedhe.config.policy import warnings_about
from fedhe.errors import ConfigError, FedheError, ResourceError, TrustError
from fedhe.trust.installation import Installation
from fedhe.trust.site_keys import read_secret_key, read_site_keys
from fedhe.wire import FederationStub, federation
from fedhe.wire.limits import MAX_LOG_LINES, MAX_POLL_SECONDS, PROTOCOL_VERSION
from fedhe.wire.messages import check_job_id

POLL_SLACK_SECONDS = 30.0  # on top of the wait, before a poll counts as lost


@dataclass
class Agent:
    """All jobs of one site.

    Attributes:
        site: what the jobs share.
        jobs: workers by job id, and the asyncio tasks in which they run.
    """

    site: Site
    jobs: dict[str, JobTask] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _left_alone: dict[str, str] = field(default_factory=dict)
    _heartbeat: float = MAX_POLL_SECONDS
    _rng: random.Random = field(default_factory=random.SystemRandom)

    async def run(self) -> None:
        """Works until it is cancelled.

        Raises:
            TrustError: this site's certificate was revoked or has expired.
        """
        self._resume()
        failures = 0
        try:
            while True:
                self.site.check_standing()
                try:
                    await self._join()
                    while True:
                        await self._poll()
                        failures = 0
                except ServerRefusedError as error:
                    failures += 1
                    self._refused(error, delay := backoff_seconds(failures + 4, self._rng))
                    await asyncio.sleep(delay)
        finally:
            await self._end()

    # ---- the conversation ----

    async def _join(self) -> None:
        site, session = self.site, self.site.session
        reply = await session.call(
            session.stub.Join,
            federation.JoinRequest(
                protocol_version=PROTOCOL_VERSION,
                software_version=__version__,
                project=site.project,
                key_id=site.secret_key.key_id,
                roster_version=site.roster.version,
            ),
        )
        self._take_roster(reply.roster)
        if reply.heartbeat_seconds > 0:
            self._heartbeat = min(MAX_POLL_SECONDS, reply.heartbeat_seconds)
        site.status.connection_is("connected")
        site.log.write("info", f"connected to {site.installation.address} as site {site.name}")

    async def _poll(self) -> None:
        site = self.site
        wait = min([self._heartbeat, *(job.poll_seconds for job in self.jobs.values())])
        for job in self.jobs.values():
            await job.work.settle()
        told = {job_id: job for job_id, job in self.jobs.items() if job.is_told}
        request = federation.PollRequest(
            jobs=[job.progress() for job in told.values()], wait_seconds=wait, roster_version=site.roster.version
        )
        reply = await site.session.call(site.session.stub.Poll, request, seconds=wait + POLL_SLACK_SECONDS)
        self._take_roster(reply.roster)
        site.check_standing()
        named = set()
        for instruction in reply.instructions:
            named.add(instruction.job_id)
            try:
                self._worker(instruction.job_id).instruct(instruction)
            except FedheError as error:  # one job that cannot be taken up must not end the others
                self._cannot_take_up(instruction.job_id, error)
        for job_id in told.keys() - named:
            self.jobs[job_id].instruct(gone(job_id))
        await self._push_logs()

    def _take_roster(self, signed: bytes) -> None:
        if not signed:
            return
        try:
            self.site.take_roster(signed)
        except (TrustError, ResourceError) as error:
            # The one that is here stays: an old or forged list must not undo a revocation.
            self.site.log.write("error", f"the server's list of participants is refused: {error.message}")

    async def _push_logs(self) -> None:
        log, session = self.site.log, self.site.session
        jobs = log.jobs_with_lines()
        if not jobs:
            return
        try:
            shared = self.site.policy().share_logs
        except ConfigError:
            return
        for job_id in jobs:
            if not shared:
                log.forget(job_id)
                continue
            try:
                with log.pending(job_id, MAX_LOG_LINES) as lines:
                    request = federation.PushLogRequest(
                        job_id=job_id,
                        lines=[
                            federation.LogLine(time=line.time, level=line.level, job_id=job_id, message=line.message)
                            for line in lines
                        ],
                    )
                    await session.once(session.stub.PushLog, request, seconds=POLL_SLACK_SECONDS)
            except TransientError:
                return  # the lines stay queued
            except ServerRefusedError:
                log.forget(job_id)

    def _refused(self, error: ServerRefusedError, delay: float) -> None:
        line = f"{error.message}; {error.hint}" if error.hint else error.message
        if self.site.status.connection_is("refused", line, self.site.clock() + delay):
            self.site.log.write("error", f"the server refuses this site: {line}; trying again")

    # ---- jobs ----

    def _resume(self) -> None:
        """Takes up all jobs that have a folder."""
        for path in sorted((self.site.folder / "jobs").glob("*")):
            if not path.is_dir():
                continue
            try:
                if JobFolder(path).read() is not None:
                    self._worker(path.name)
            except FedheError as error:
                self._cannot_take_up(path.name, error)

    def _cannot_take_up(self, job_id: str, error: FedheError) -> None:
        line = f"job {job_id[:80]!r} cannot be taken up: {error.message}" + (f"; {error.hint}" if error.hint else "")
        if self._left_alone.get(job_id) != line:
            self._left_alone[job_id] = line
            self.site.log.write("error", line)

    def _worker(self, job_id: str) -> JobTask:
        if job_id in self.jobs:
            return self.jobs[job_id]
        folder = JobFolder(self.site.folder / "jobs" / check_job_id(job_id))
        folder.create()
        end_leftover(folder.training)
        record = folder.read() or JobRecord(job_id=job_id)
        work = Work(self.site, folder, record, layout=folder.read_layout())
        work.show()
        job = self.jobs[job_id] = JobTask(work)
        self._running[job_id] = asyncio.create_task(job.run(), name=f"job {job_id}")
        return job

    async def _end(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self.site.close()


async def serve(
    installation: Installation,
    log: LogBook,
    *,
    process: TrainingProcess | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Runs the agent of an installed site until it is cancelled.

    Args:
        installation: the site's kit.
        log: where lines go.
        process: how training processes are started.
        clock: seconds since 1970 UTC.

    Raises:
        TrustError: keys cannot be read, or this site's certificate was revoked or has expired.
        ConfigError: the policy file is not well-formed.
        ResourceError: disk full or read-only.
    """
    share_heaps()
    folder = make_folder(installation.folder)
    make_folder(folder / "jobs")
    status = Status(folder / STATUS_FILE, installation.name, installation.project, installation.address, clock)
    status.roster_version = installation.roster.version
    secret_key, (_, group_key) = read_secret_key(installation), read_site_keys(installation)
    async with open_channel(installation) as channel:
        stub = FederationStub(channel)  # type: ignore[no-untyped-call] # generated
        site = Site(
            installation=installation,
            secret_key=secret_key,
            group_key=group_key,
            session=Session(stub, status, log.write, clock),
            log=log,
            status=status,
            process=process or TrainingProcess(),
            clock=clock,
        )
        for line in warnings_about(site.policy()):
            log.write("warning", f"policy: {line}")
        site.audit("agent-started", version=__version__, roster=installation.roster.version)
        log.write("info", f"connecting to {installation.address}")
        gc.freeze()  # what is there now stays: looking through it for garbage again and again takes time
        try:
            await Agent(site).run()
        finally:
            status.connection_is("stopped")
