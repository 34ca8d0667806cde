"""Carries out the server's instructions for one job, one at a time; a newer instruction ends the older one's work."""

import asyncio
import contextlib
import random
import traceback
from dataclasses import dataclass, field

from fedhe.client.bounds import check_bounds
from fedhe.client.checkpoint_step import load_checkpoint, seal, seed
from fedhe.client.exchange_step import apply_sum, send_update
from fedhe.client.job_intake import ensure_job, may_run
from fedhe.client.session import ServerRefusedError, backoff_seconds
from fedhe.client.train_step import send_ready, train
from fedhe.client.trainer import MAX_REPORTED_CHARACTERS, TrainingFailedError
from fedhe.client.transfer import LostError
from fedhe.client.work import NotNowError, Work
from fedhe.errors import ConfigError, FedheError, PolicyError, ResourceError, StateError, TrainingError
from fedhe.wire import federation
from fedhe.wire.limits import MAX_POLL_SECONDS

BUSY_POLL_SECONDS = 2.0
APPROVAL_POLL_SECONDS = 5.0  # so that the server soon hears of an approval
FIRST_RETRY_SECONDS = 60.0  # after a problem was reported and the server still asks for the same; doubles
MAX_RETRY_SECONDS = 3600.0
APPROVAL_INTERVAL_SECONDS = 1.0  # between two looks at the files that people at the site change

GONE = "gone"
_WAITING = {federation.ACTIVITY_WAITING_FOR_APPROVAL, federation.ACTIVITY_FAILED}


@dataclass
class JobTask:
    """One job's worker.

    Attributes:
        work: the job.
        instruction: the newest one; its id is what the server hears this site works on, or has done.
    """

    work: Work
    instruction: federation.Instruction | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _current: asyncio.Task[None] | None = None
    _training: tuple[int, asyncio.Task[None]] | None = None
    _told_waiting: bool = False
    _rng: random.Random = field(default_factory=random.SystemRandom)

    @property
    def working_on(self) -> str:
        """Id of the newest instruction; empty before there was one."""
        return self.instruction.id if self.instruction is not None else ""

    @property
    def is_told(self) -> bool:
        """Whether the server is to hear of this job: not of one that has ended, or that it no longer names itself."""
        return self.work.record.ended is None and self.working_on != GONE

    @property
    def poll_seconds(self) -> float:
        """How long the server may keep a poll: short while there is progress to tell."""
        match self.work.activity:
            case federation.ACTIVITY_WAITING_FOR_APPROVAL:
                return APPROVAL_POLL_SECONDS
            case federation.ACTIVITY_FAILED:
                return MAX_POLL_SECONDS
        idle = self.instruction is None or (self._current is not None and self._current.done())
        return MAX_POLL_SECONDS if idle and not self._changed.is_set() else BUSY_POLL_SECONDS

    def instruct(self, instruction: federation.Instruction) -> None:
        """Takes an instruction; the same id again changes nothing."""
        if instruction.id == self.working_on:
            return
        self.instruction = instruction
        self._changed.set()

    def progress(self) -> federation.JobProgress:
        """What the server shall know of this job."""
        work = self.work
        return federation.JobProgress(
            job_id=work.job_id,
            # Not the version held: were that told before its fingerprint is, the server would think it done and ask
            # for something else, and the fingerprint would never come.
            model_version=work.record.acknowledged,
            working_on=self.working_on,
            activity=work.activity,
            fraction=work.fraction,
            detail=work.detail,
        )

    async def run(self) -> None:
        """Follows instructions until it is cancelled; then ends what runs, the training process included."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                instruction = self.instruction
                if instruction is None:
                    continue
                if self._current is not None and not self._current.done():
                    await self.work.settle()
                await self._end_current()
                if not self._keeps_training(instruction):
                    await self._end_training()
                self.work.show(instruction=instruction.id, message="")
                self._current = asyncio.create_task(self._carry_out(instruction), name=instruction.id)
        finally:
            await self._end_current()
            await self._end_training()

    def _keeps_training(self, instruction: federation.Instruction) -> bool:
        """Whether training that runs is still wanted: in a new attempt of its round, and while the job is paused."""
        match instruction.WhichOneof("work"):
            case "train":
                return self._trains(instruction.train.round)
            case "wait":
                return instruction.wait.paused
        return False

    def _trains(self, round_: int) -> bool:
        return self._training is not None and self._training[0] == round_

    async def _end_current(self) -> None:
        await _end(self._current)
        self._current = None

    async def _end_training(self) -> None:
        if self._training is not None:
            await _end(self._training[1])
        self._training = None

    # ---- one instruction ----

    async def _carry_out(self, instruction: federation.Instruction) -> None:
        """Tries until it is done or another instruction comes; problems that are the job's are reported."""
        failures = reports = 0
        while True:
            try:
                await self._perform(instruction)
            except (NotNowError, ServerRefusedError, ResourceError, ConfigError) as error:
                # None of these is the job's fault: the server hears of our state, disks get freed, people mend files.
                failures += 1
                if failures == 1 or self.work.shown.message != error.message:
                    self.work.log("warning", f"{instruction.id}: {_line(error)}")
                self.work.show(message=_line(error))
                await asyncio.sleep(1.0 + backoff_seconds(failures, self._rng))
            except FedheError as error:
                await self._report(instruction, error)
                if isinstance(error, PolicyError):
                    await self._until_allowed()
                else:
                    await asyncio.sleep(min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**reports))
                    reports += 1
            except Exception as error:  # noqa: BLE001 - a fault of ours in one job must not end the others
                self.work.log("error", f"fault in fedhe: {''.join(traceback.format_exception(error))}")
                await self._report(instruction, StateError(f"fault in fedhe at this site: {error!r}"))
                return
            else:
                self.work.tell(federation.ACTIVITY_IDLE)
                if instruction.WhichOneof("work") != "wait":  # what it waits for stays to be seen
                    self.work.show(message="")
                return

    async def _perform(self, instruction: federation.Instruction) -> None:
        work, kind = self.work, instruction.WhichOneof("work")
        if kind == "stop":
            self._stop(instruction.stop)
            return
        if work.record.ended is not None:
            work.keep(ended=None)
        await ensure_job(work)
        await self._permission()
        check_bounds(work, instruction)
        match kind:
            case "wait":
                work.show(message=instruction.wait.reason)
            case "seed":
                await seed(work)
            case "load_checkpoint":
                await load_checkpoint(work, instruction.load_checkpoint.version)
            case "train":
                await self._train(instruction.train.round)
                await send_ready(work, instruction.train.round, instruction.train.attempt)
            case "upload":
                roster = instruction.upload.roster
                work.folder.keep_only_spool(f"update-{roster.round}-{roster.attempt}")
                await send_update(work, roster)
            case "apply":
                await apply_sum(work, instruction.apply.roster, validate=instruction.apply.validate)
            case "seal":
                await seal(work, instruction.seal.version)
            case _:
                raise NotNowError(
                    f"instruction {instruction.id} is of a kind that this version does not know", "update fedhe here"
                )

    async def _train(self, round_: int) -> None:
        """Trains beside the instruction, so that a new attempt of the same round does not begin it anew."""
        if not self._trains(round_) or (self._training and self._training[1].done()):
            await self._end_training()
            self._training = (round_, asyncio.create_task(train(self.work, round_), name=f"training {round_}"))
        if self._training is not None:
            await asyncio.shield(self._training[1])

    def _stop(self, stop: federation.Stop) -> None:
        work = self.work
        if work.record.ended is None:
            reason = stop.reason or ("finished" if stop.finished else "stopped")
            work.keep(ended=reason, update=None, ready=None)
            work.audit("job-ended", reason=reason, finished=stop.finished, version=work.record.version)
            work.log("info", f"job ended: {reason}")
        work.folder.remove_spool()
        work.folder.remove_work()

    # ---- permission ----

    async def _permission(self) -> None:
        """Returns once policy and people of this site let the job run.

        Raises:
            PolicyError: they refuse it.
        """
        while may_run(self.work) == "waiting":
            self.work.tell(federation.ACTIVITY_WAITING_FOR_APPROVAL)
            self.work.show(message=f"approve with: fedhe-client jobs approve {self.work.job_id}")
            if not self._told_waiting:
                self._told_waiting = True
                self.work.log("info", f"waits for approval: fedhe-client jobs approve {self.work.job_id}")
                self.work.audit("approval-asked", digest=self.work.job().digest.hex())
                await self._send_report(
                    federation.PROBLEM_WAITING_FOR_APPROVAL, "waits for somebody at the site to approve its code"
                )
            await asyncio.sleep(APPROVAL_INTERVAL_SECONDS)
        if self._told_waiting:
            self._told_waiting = False
            self.work.log("info", "approved")
            self.work.audit("approved", digest=self.work.job().digest.hex())
        if self.work.activity in _WAITING:
            self.work.tell(federation.ACTIVITY_IDLE)

    async def _until_allowed(self) -> None:
        """Waits for people at the site to change policy or approval."""
        before = now = self._decision()
        while now == before:
            await asyncio.sleep(APPROVAL_INTERVAL_SECONDS)
            now = self._decision()

    def _decision(self) -> str:
        try:
            return f"{may_run(self.work)} {self.work.site.policy().min_sites}"
        except FedheError as error:
            return error.message

    # ---- problems ----

    async def _report(self, instruction: federation.Instruction, error: FedheError) -> None:
        """Tells the server why this site cannot do what it was asked."""
        lines: tuple[str, ...] = ()
        match error:
            case LostError():
                problem = federation.PROBLEM_UPDATE_LOST
            case PolicyError():
                problem = federation.PROBLEM_REJECTED
            case TrainingError():
                problem = federation.PROBLEM_TRAINING_FAILED
                if isinstance(error, TrainingFailedError):
                    lines = self._shared_lines(error)
            case _:
                problem = federation.PROBLEM_CHECK_FAILED
        self.work.log("error", f"{instruction.id}: {_line(error)}")
        self.work.tell(federation.ACTIVITY_FAILED)
        self.work.show(message=_line(error))
        with contextlib.suppress(ResourceError):  # a full disk must not keep the problem from being reported
            self.work.audit("problem", instruction=instruction.id, message=error.message)
        message = error.message
        if isinstance(error, TrainingFailedError) and not self._shares_logs():
            message = "job code or training failed; this site's policy does not share why"
        with contextlib.suppress(ServerRefusedError):  # the round may be over already
            await self._send_report(problem, message, lines)

    def _shared_lines(self, error: TrainingFailedError) -> tuple[str, ...]:
        if not self._shares_logs():
            return ()
        return error.lines if self.work.site.policy().share_metrics else error.traceback

    def _shares_logs(self) -> bool:
        try:
            return self.work.site.policy().share_logs
        except ConfigError:
            return False

    async def _send_report(
        self, problem: federation.Problem.ValueType, message: str, lines: tuple[str, ...] = ()
    ) -> None:
        round_, attempt = self._where()
        request = federation.ReportRequest(
            job_id=self.work.job_id,
            problem=problem,
            round=round_,
            attempt=attempt,
            message=message[:MAX_REPORTED_CHARACTERS],
            lines=lines,
        )
        await self.work.site.session.call(self.work.site.session.stub.Report, request)

    def _where(self) -> tuple[int, int]:
        instruction = self.instruction
        match instruction.WhichOneof("work") if instruction is not None else None:
            case "train" if instruction is not None:
                return instruction.train.round, instruction.train.attempt
            case "upload" if instruction is not None:
                return instruction.upload.roster.round, instruction.upload.roster.attempt
            case "apply" if instruction is not None:
                return instruction.apply.roster.round, instruction.apply.roster.attempt
        return 0, 0


def gone(job_id: str) -> federation.Instruction:
    """What a job is told that the server no longer names: an admin deleted it."""
    stop = federation.Stop(reason="the server no longer names this job")
    return federation.Instruction(id=GONE, job_id=job_id, stop=stop)


def _line(error: FedheError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
