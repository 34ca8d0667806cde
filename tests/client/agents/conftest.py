"""A small federation server with the real round machine, real TLS and hooks for mischief; and agents to run."""

import asyncio
import contextlib
import io
import json
import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from safetensors.numpy import load_file

from fedhe.client.agent import serve
from fedhe.client.log_book import LogBook
from fedhe.config.job_archive import read_job
from fedhe.errors import FedheError, NotFoundError, StateError
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.sums import add_chunks
from fedhe.rounds.directive import Work, instruction_for
from fedhe.rounds.effects import StartSum
from fedhe.rounds.events import (
    CheckpointFinished,
    Problem,
    SiteApplied,
    SiteProblem,
    SiteReady,
    SiteSeen,
    Start,
    SumFinished,
    UploadFinished,
)
from fedhe.rounds.machine import step
from fedhe.rounds.state import JobState, Phase, ReadyEntry, RoundConfig
from fedhe.wire import FederationServicer, add_FederationServicer_to_server, federation
from fedhe.wire.channel import server_options
from fedhe.wire.chunking import bitmap_of, digest_of, digest_of_digests, split
from fedhe.wire.errors import abort_arguments
from fedhe.wire.messages import parse_ready

PROBLEMS = {
    federation.PROBLEM_REJECTED: Problem.REJECTED,
    federation.PROBLEM_WAITING_FOR_APPROVAL: Problem.WAITING_FOR_APPROVAL,
    federation.PROBLEM_TRAINING_FAILED: Problem.TRAINING_FAILED,
    federation.PROBLEM_CHECK_FAILED: Problem.CHECK_FAILED,
    federation.PROBLEM_UPDATE_LOST: Problem.UPDATE_LOST,
}


@dataclass
class Job:
    """A job at the small server; objects are lists of chunks by (kind, number, attempt, site)."""

    state: JobState
    params: object
    objects: dict = field(default_factory=lambda: defaultdict(dict))
    finished: dict = field(default_factory=dict)
    entries: dict = field(default_factory=dict)


@dataclass
class SmallServer(FederationServicer):
    """Decides with the real round machine, keeps everything in memory.

    `before[method]` and `after[method]` are called with site and request (and reply) and may raise, sleep or change
    what they are given; `calls` and `payload` remember everything that a site sent.
    """

    project: object
    jobs: dict = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    payload: list = field(default_factory=list)
    reports: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    roster: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    server: object = None
    port: int = 0

    async def start(self):
        self.server = grpc.aio.server(options=server_options())
        add_FederationServicer_to_server(self, self.server)
        issued = self.project.members["server"][1]
        credentials = grpc.ssl_server_credentials(
            [(issued.key_pem, issued.certificate_pem)], self.project.ca, require_client_auth=True
        )
        self.port = self.server.add_secure_port(f"localhost:{self.port}", credentials)
        await self.server.start()
        return self

    async def stop(self):
        await self.server.stop(0)

    def add_job(self, archive, job_id="j1", *, start=True, sites=("A", "B", "C"), signer="lead"):
        federated = read_job(archive).federation
        config = RoundConfig(
            rounds=federated.rounds, min_sites=federated.min_sites, sites=sites, train_deadline=60.0,
            upload_deadline=60.0, apply_deadline=60.0, checkpoint_every=federated.checkpoint_every,
        )  # fmt: skip
        precision = federated.precision
        params = self.project.params.with_precision(precision.field_bits, precision.statistics_bits)
        job = self.jobs[job_id] = Job(JobState(job_id, config), params)
        self._store(job, (federation.OBJECT_KIND_JOB, 0, 0), list(split(self.project.sign_job(archive, signer))))
        if start:
            self.feed(job, Start(time.time()))
        return job

    # ---- the machine ----

    def feed(self, job, event):
        job.state, effects = step(job.state, event)
        for effect in effects:
            if isinstance(effect, StartSum):
                self._sum(job, effect.roster)
        self.changed.set()
        self.changed = asyncio.Event()

    def _sum(self, job, roster):
        chunks = []
        for index in range(roster.chunks):
            parts = [
                job.objects[federation.OBJECT_KIND_UPDATE, roster.round, roster.attempt, site][index]
                for site in roster.sites
            ]
            expect = Expectation(
                ChunkKind.UPLOAD, self.project.secret_key.key_id, job.params.params_id, roster.context, index
            )
            chunks.append(add_chunks(parts, job.params, expect))
        info = self._store(job, (federation.OBJECT_KIND_SUM, roster.round, roster.attempt), chunks)
        self.feed(job, SumFinished(roster.round, roster.attempt, info.digest, time.time()))

    def _store(self, job, key, chunks):
        job.objects[key] = dict(enumerate(chunks))
        digest = digest_of_digests([digest_of(chunk) for chunk in chunks])
        job.finished[key] = federation.ObjectInfo(chunks=len(chunks), size=sum(map(len, chunks)), digest=digest)
        return job.finished[key]

    async def until(self, condition, seconds=60):
        async with asyncio.timeout(seconds):
            while not condition():
                event = self.changed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await event.wait()

    async def until_phase(self, *phases, job_id="j1", seconds=60):
        try:
            await self.until(lambda: self.jobs[job_id].state.phase in phases, seconds)
        except TimeoutError as error:
            state = self.jobs[job_id].state
            told = {site: (instruction_for(state, site).id, state.versions.get(site)) for site in state.config.sites}
            raise AssertionError(
                f"still {state.phase} {state.round}/{state.attempt}, ready {[e.site for e in state.ready]}, "
                f"uploaded {[*state.uploaded]}, applied {[*state.applied]}, told {told}, "
                f"reports {[(site, r.message) for site, r in self.reports]}, calls {self.calls[-12:]}"
            ) from error
        return self.jobs[job_id].state

    # ---- the service ----

    def _instruction(self, job, site):
        directive = instruction_for(job.state, site)
        if directive is None:
            return None
        instruction = federation.Instruction(id=directive.id, job_id=job.state.job_id)
        match directive.work:
            case Work.WAIT:
                instruction.wait.reason, instruction.wait.paused = directive.reason, directive.paused
            case Work.SEED:
                instruction.seed.SetInParent()
            case Work.LOAD_CHECKPOINT:
                instruction.load_checkpoint.version = directive.version
            case Work.TRAIN:
                instruction.train.round, instruction.train.attempt = directive.round, directive.attempt
            case Work.UPLOAD:
                instruction.upload.roster.CopyFrom(self._sealed(job, job.state.roster))
            case Work.APPLY:
                instruction.apply.roster.CopyFrom(self._sealed(job, job.state.sum_of(directive.round).roster))
                instruction.apply.validate = directive.validate
            case Work.SEAL:
                instruction.seal.version = directive.version
            case Work.STOP:
                instruction.stop.reason, instruction.stop.finished = directive.reason, directive.finished
        return instruction

    def _sealed(self, job, roster):
        ready = [
            federation.SignedReady(body=e.body, signature=e.signature, certificate=e.certificate)
            for e in roster.entries
        ]
        return federation.SealedRoster(
            job_id=job.state.job_id, round=roster.round, attempt=roster.attempt, ready=ready, context=roster.context
        )

    def _job(self, job_id):
        if job_id not in self.jobs:
            raise NotFoundError(f"there is no job {job_id}")
        return self.jobs[job_id]

    def _key(self, ref, site):
        key = (ref.kind, ref.number, ref.attempt)
        return (*key, site) if ref.kind == federation.OBJECT_KIND_UPDATE else key

    async def _on_join(self, _site, _request):
        return federation.JoinReply(server_time=time.time(), heartbeat_seconds=1.0)

    async def _on_poll(self, site, request):
        end = time.monotonic() + request.wait_seconds
        told = {progress.job_id: progress.working_on for progress in request.jobs}
        for progress in request.jobs:
            if progress.job_id in self.jobs:
                waiting = progress.activity == federation.ACTIVITY_WAITING_FOR_APPROVAL
                self.feed(self.jobs[progress.job_id], SiteSeen(site, progress.model_version, waiting, time.time()))
        while True:
            event = self.changed
            asked = [job for name, job in self.jobs.items() if name in told or not job.state.phase.ended]
            found = [i for job in asked if (i := self._instruction(job, site)) is not None]
            gone = told.keys() - self.jobs.keys()
            left = end - time.monotonic()
            if left <= 0 or gone or any(i.id != told.get(i.job_id, "") for i in found):
                return federation.PollReply(instructions=found, roster=self.roster)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await event.wait()

    async def _on_ready(self, site, request):
        said = parse_ready(request.body)
        entry = ReadyEntry(
            site, request.body, request.signature, request.certificate, said.model_fingerprint, said.layout_digest,
            said.key_id, said.params_id, said.chunks,
        )  # fmt: skip
        self.feed(self._job(said.job_id), SiteReady(said.round, said.attempt, entry, time.time()))
        return federation.Receipt()

    async def _on_upload_status(self, site, request):
        job, key = self._job(request.job_id), self._key(request, site)
        have = job.objects[key]
        return federation.UploadStatusReply(
            received=bitmap_of(have, max(have) + 1) if have else b"", finished=key in job.finished
        )

    async def _on_put_chunk(self, site, request):
        have = self._job(request.object.job_id).objects[self._key(request.object, site)]
        chunk = request.chunk
        if have.get(chunk.index, chunk.data) != chunk.data:
            raise StateError(f"chunk {chunk.index} is stored with another content")
        have[chunk.index] = chunk.data
        return federation.Receipt()

    async def _on_finish_upload(self, site, request):
        ref, job = request.object, self._job(request.object.job_id)
        have = job.objects[self._key(ref, site)]
        missing = [index for index in range(request.chunks) if index not in have]
        if missing:
            raise StateError(f"chunks {missing} are missing")
        digest = digest_of_digests([digest_of(have[index]) for index in range(request.chunks)])
        if digest != request.digest:
            raise StateError("the upload's digest differs")
        self._store(job, self._key(ref, site), [have[index] for index in range(request.chunks)])
        if ref.kind == federation.OBJECT_KIND_UPDATE:
            self.feed(job, UploadFinished(site, ref.number, ref.attempt, digest, time.time()))
        else:
            self.feed(job, CheckpointFinished(site, ref.number, time.time()))
        return federation.Receipt()

    async def _on_describe_object(self, site, request):
        key = self._key(request, site)
        if key not in self._job(request.job_id).finished:
            raise NotFoundError(f"there is no object {key}")
        return self.jobs[request.job_id].finished[key]

    async def _on_get_chunk(self, site, request):
        data = self._job(request.object.job_id).objects[self._key(request.object, site)][request.index]
        return federation.Chunk(index=request.index, data=data, digest=digest_of(data))

    async def _on_applied(self, site, request):
        job = self._job(request.job_id)
        self.feed(job, SiteApplied(site, request.version, request.model_fingerprint, time.time()))
        job.entries[site, request.version] = request
        return federation.Receipt()

    async def _on_report(self, site, request):
        self.reports.append((site, request))
        event = SiteProblem(
            site, PROBLEMS[request.problem], request.round, request.attempt, request.message, time.time()
        )
        self.feed(self._job(request.job_id), event)
        return federation.Receipt()

    async def _on_push_log(self, site, request):
        self.lines += [(site, line) for line in request.lines]
        return federation.Receipt()


def _method(name):
    async def call(self, request, context):
        site = context.auth_context()["x509_common_name"][0].decode()
        self.calls.append((site, name))
        self.payload.append(request.SerializeToString())
        try:
            if name in self.before:
                await self.before[name](site, request)
            reply = await getattr(self, "_on" + re.sub("([A-Z])", r"_\1", name).lower())(site, request)
            if name in self.after:
                reply = await self.after[name](site, request, reply) or reply
        except FedheError as error:
            code, message, metadata = abort_arguments(error)
            await context.abort(code, message, metadata)
        return reply

    return call


for _name in (
    "Join", "Poll", "Ready", "UploadStatus", "PutChunk", "FinishUpload", "DescribeObject", "GetChunk", "Applied",
    "Report", "PushLog",
):  # fmt: skip
    setattr(SmallServer, _name, _method(_name))


@dataclass
class Agents:
    """Runs agents of installed sites in this process."""

    project: object
    home: Path
    process: object
    running: dict = field(default_factory=dict)
    logs: dict = field(default_factory=lambda: defaultdict(io.StringIO))

    def folder(self, site):
        return self.home / "sites" / site

    def policy(self, site, text="", **environment):
        installed = self.project.installed_site(self.home, site)
        environment = {"DATA_ROOT": f"/data/{site}", "SAMPLES": 10 + ord(site) % 7, **environment}
        lines = [f"  {name}: {json.dumps(value)}" for name, value in environment.items()]
        text = f"job_code: allow\nmin_sites: 2\n{text}\n" if "job_code" not in text else text
        (installed.folder / "policy.yml").write_text(text + "\nenvironment:\n" + "\n".join(lines) + "\n")
        return installed

    def start(self, *sites):
        for site in sites or "ABC":
            if not (self.folder(site) / "policy.yml").exists():
                self.policy(site)
            installation = self.project.installed_site(self.home, site)
            log = LogBook(self.folder(site) / "logs", stream=self.logs[site])
            self.running[site] = asyncio.create_task(serve(installation, log, process=self.process))

    async def stop(self, *sites):
        tasks = [self.running.pop(site) for site in sites or list(self.running)]
        for task in tasks:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    def status(self, site):
        return json.loads((self.folder(site) / "status.json").read_text())

    def model(self, site, version, job_id="j1"):
        return load_file(self.folder(site) / "jobs" / job_id / f"model-{version}.safetensors")

    def same_model(self, version, sites="ABC", job_id="j1"):
        models = [self.model(site, version, job_id) for site in sites]
        return all((models[0][name] == other[name]).all() for other in models for name in models[0])

    def record(self, site, round_, name, job_id="j1"):
        return np.load(self.folder(site) / "jobs" / job_id / "record" / f"round-{round_}" / f"{name}.npy")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test here cuts the power, so none needs to wait for the disk's platters."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)


@pytest.fixture
def federate(tmp_path, make_project, quick_training):
    """An async context manager: a project, its server and its agents, all ended at the end."""

    @contextlib.asynccontextmanager
    async def open_federation(*, project=None, home=None):
        project = project or make_project()
        server = await SmallServer(project).start()
        project.port = server.port
        agents = Agents(project, home or tmp_path / "home", quick_training)
        try:
            yield server, agents
        finally:
            await agents.stop()
            await server.stop()

    return open_federation


@pytest.fixture
def phase():
    return Phase
