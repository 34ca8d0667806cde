"""A provisioned project, an Admin service that follows a script over real TLS, and `fedhe-admin` as it is called."""

import hashlib
import io
import json
import shutil
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from fedhe.cli import admin as admin_command
from fedhe.cli import provision as provision_command
from fedhe.client.checkpoint import CheckpointSealer, plain_checkpoint
from fedhe.client.note import Note, seal_applied_note
from fedhe.client.vector_file import vector_digest
from fedhe.config.job_archive import read_job
from fedhe.errors import FedheError, NotFoundError, StateError, TrustError
from fedhe.model.layout import Layout, TensorSpec
from fedhe.provisioning.unpack import unpack_kit
from fedhe.trust.certificates import identity_of
from fedhe.trust.installation import Installation
from fedhe.trust.roster import read_roster
from fedhe.trust.sealed import NoteContext, model_fingerprint, seal_note
from fedhe.trust.signatures import JOB_LABEL, verify
from fedhe.trust.site_keys import read_site_keys
from fedhe.wire import AdminServicer, add_AdminServicer_to_server, admin, federation
from fedhe.wire.chunking import digest_of_digests
from fedhe.wire.errors import abort_arguments

PROJECT = """
project: {{name: trial}}
server: {{host: localhost, port: {port}}}
sites: [hospitalA, hospitalB, hospitalC]
admins:
  - {{name: lead, role: lead, holds_key: true}}
  - {{name: deputy, role: lead}}
  - {{name: watcher, role: observer}}
"""
SITES = ["hospitalA", "hospitalB", "hospitalC"]
LEAD_ONLY = {"SetSite", "UpdateRoster", "SubmitJob", "StartJob", "AbortJob", "DeleteJob", "Shutdown"}
LEAD_ONLY |= {"PauseJob", "ResumeJob", "ChangeJob", "SetDrain"}
NOW = 1_700_000_000.0


def call(monkeypatch, main, program, *arguments):
    """Runs a command's entry point with these arguments; returns its exit code."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [program, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
    return caught.value.code


@dataclass(frozen=True)
class Provisioned:
    """The coordinator's folder, and a home in which the server and all admins have installed their kits."""

    out: object
    home: object
    passphrases: dict
    port: int
    server: Installation
    lead: Installation

    def home_of(self, folder, *names):
        """A home with only these admins."""
        for name in names:
            shutil.copytree(self.home / "admins" / name, folder / "admins" / name)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
        return folder


@pytest.fixture(scope="session")
def provisioned(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("project")
    project, out, home, secrets = (folder / name for name in ("project.yml", "out", "home", "passphrases.json"))
    project.write_text(PROJECT.format(port=port))
    with pytest.MonkeyPatch.context() as monkeypatch:
        code = call(
            monkeypatch,
            provision_command.main,
            "fedhe-provision",
            *(project, "--out", out, "--yes", "--passphrases", secrets),
        )
    assert code == 0
    passphrases = json.loads(secrets.read_text())
    installed = {
        name: unpack_kit(out / "kits" / f"{name}.kit", passphrases[name], home, expected_role=role)
        for name, role in [("server", "server"), ("lead", "admin"), ("deputy", "admin"), ("watcher", "admin")]
    }
    return Provisioned(out, home, passphrases, port, installed["server"], installed["lead"])


@pytest.fixture(scope="session")
def group_key(provisioned):
    return read_site_keys(provisioned.lead)[1]


@dataclass
class Script(AdminServicer):
    """What the server knows and answers; tests change it as they like."""

    ca_pem: bytes
    jobs: dict = field(default_factory=dict)
    archives: dict = field(default_factory=dict)
    rounds: list = field(default_factory=list)
    checkpoints: dict = field(default_factory=dict)
    watched: list = field(default_factory=list)
    log: list = field(default_factory=list)
    enabled: dict = field(default_factory=lambda: dict.fromkeys(SITES, True))
    calls: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    roster: object = None
    hold: threading.Event = None
    draining: bool = False
    busy: list = field(default_factory=list)
    damage: object = staticmethod(lambda data: data)

    def _check(self, method, context):
        identity = identity_of(context.auth_context()["x509_pem_cert"][0])
        self.calls.append((method, identity.name))
        if self.failures and self.failures[0][0] == method:
            raise self.failures.pop(0)[1]
        if self.hold is not None:
            self.hold.wait(20)
        if method in LEAD_ONLY and identity.role != "admin-lead":
            raise TrustError(f"{method}: expected role lead, got {identity}", "ask a lead admin")

    def _job(self, job_id):
        if job_id not in self.jobs:
            raise NotFoundError(f"no job '{job_id}'")
        return self.jobs[job_id]

    def get_status(self, _):
        return admin.ServerStatus(
            project="trial",
            software_version="0.1.0",
            started_at=NOW,
            server_time=NOW + 3725,
            sites_online=2,
            sites_known=3,
            jobs_running=1,
            disk_used_bytes=1_234_567,
            disk_free_bytes=5_000_000_000,
            peak_rss_bytes=120_000_000,
            roster_version=1,
            key_id=bytes(range(16)),
            draining=self.draining,
            jobs_busy=self.busy.pop(0) if self.busy else 0,
        )

    def list_sites(self, _):
        sites = [
            admin.Site(
                name=name,
                enabled=self.enabled[name],
                online=name != "hospitalC",
                last_seen=0 if name == "hospitalC" else NOW,
                software_version="" if name == "hospitalC" else "0.1.0",
                certificate_expires=NOW + 86400,
            )
            for name in SITES
        ]
        return admin.ListSitesReply(sites=[*sites, admin.Site(name="hospitalX", revoked=True)])

    def set_site(self, request):
        self.enabled[request.name] = request.enabled
        return federation.Receipt()

    def update_roster(self, request):
        self.roster = read_roster(request.roster, self.ca_pem, project="trial", at_least_version=2)
        return federation.Receipt()

    def submit_job(self, pieces):
        request = admin.SubmitJobRequest()
        for piece in pieces:
            archive = request.archive + piece.archive
            request.MergeFrom(piece)
            request.archive = archive
        verify(JOB_LABEL, request.archive, request.signature, request.certificate)
        archive = read_job(request.archive)
        job_id = f"{archive.digest.hex()[:8]}{len(self.jobs)}"
        self.archives[job_id] = archive
        self.jobs[job_id] = admin.Job(
            job_id=job_id,
            name=archive.name,
            submitted_by=identity_of(request.certificate).name,
            submitted_at=NOW,
            phase="seeding" if request.start else "submitted",
            rounds=2,
        )
        return admin.SubmitJobReply(job_id=job_id)

    def list_jobs(self, _):
        return admin.ListJobsReply(jobs=list(self.jobs.values()))

    def show_job(self, request):
        return admin.JobDetail(
            job=self._job(request.job_id),
            sites=[
                admin.SiteProgress(
                    site="hospitalA", online=True, state="training", fraction=0.5, detail="epoch 1 of 2"
                ),
                admin.SiteProgress(site="hospitalB", state="waiting", model_version=-1),
            ],
            deadline=NOW + 3600,
            attempt=1,
            min_sites=2,
            checkpoints=sorted(version for job, version in self.checkpoints if job == request.job_id),
            archive_digest="ab" * 32,
        )

    def start_job(self, request):
        job = self._job(request.job_id)
        if job.phase != "submitted":
            raise StateError(f"job {job.job_id}: expected phase submitted, got {job.phase}")
        job.phase = "seeding"
        return federation.Receipt()

    def abort_job(self, request):
        job = self._job(request.job_id)
        job.phase, job.message = "aborted", request.reason
        return federation.Receipt()

    def delete_job(self, request):
        self._job(request.job_id)
        del self.jobs[request.job_id]
        return federation.Receipt()

    def list_rounds(self, request):
        self._job(request.job_id)
        return admin.ListRoundsReply(rounds=self.rounds)

    def shutdown(self, _):
        return federation.Receipt()

    def describe_object(self, request):
        chunks = self.checkpoints[request.job_id, request.number]
        digests = [_sha256(chunk) for chunk in chunks]
        size = sum(map(len, chunks))
        return federation.ObjectInfo(chunks=len(chunks), size=size, digest=digest_of_digests(digests))

    def get_chunk(self, request):
        data = self.checkpoints[request.object.job_id, request.object.number][request.index]
        return federation.Chunk(index=request.index, data=self.damage(data), digest=_sha256(data))

    def watch_job(self, request):
        self._job(request.job_id)
        while self.watched:
            entry = self.watched.pop(0)
            if entry is None:
                return
            if isinstance(entry, FedheError):
                raise entry
            if isinstance(entry, threading.Event):
                entry.wait(20)
                continue
            self.jobs[request.job_id] = entry.job
            yield entry

    def pause_job(self, request):
        job = self._job(request.job_id)
        job.pause_reason, job.pause_due = request.reason, request.after_round
        job.paused_at = 0 if request.after_round else NOW
        return federation.Receipt()

    def resume_job(self, request):
        job = self._job(request.job_id)
        job.paused_at, job.pause_due, job.pause_reason = 0, False, ""
        return federation.Receipt()

    def change_job(self, request):
        self._job(request.job_id)
        self.calls.append(("request", request))
        return federation.Receipt()

    def set_drain(self, request):
        self.draining = request.on
        return federation.Receipt()

    def read_log(self, request):
        self.calls.append(("request", request))
        while self.log:
            entry = self.log.pop(0)
            if entry is None:
                return
            if isinstance(entry, FedheError):
                raise entry
            yield entry


def _sha256(data):
    return hashlib.sha256(data).digest()


def _serve(name, inner):
    def unary(self, request, context):
        try:
            self._check(name, context)
            return inner(self, request)
        except FedheError as error:
            _abort(context, error)

    return unary


def _stream(name, inner):
    def stream(self, request, context):
        try:
            self._check(name, context)
            yield from inner(self, request)
        except FedheError as error:
            _abort(context, error)

    return stream


def _abort(context, error):
    code, details, trailing = abort_arguments(error)
    context.set_trailing_metadata(trailing)
    context.abort(code, details)


for _method in [
    *("GetStatus", "ListSites", "SetSite", "UpdateRoster", "SubmitJob", "ListJobs", "ShowJob", "StartJob", "AbortJob"),
    *("PauseJob", "ResumeJob", "ChangeJob", "SetDrain"),
    *("DeleteJob", "ListRounds", "DescribeObject", "GetChunk", "Shutdown"),
]:
    _snake = "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in _method).removeprefix("_")
    setattr(Script, _method, _serve(_method, getattr(Script, _snake)))
Script.WatchJob = _stream("WatchJob", Script.watch_job)
Script.ReadLog = _stream("ReadLog", Script.read_log)


def start_server(installation, script, port):
    """A gRPC server with the server's kit that demands certificates of the project."""
    server = grpc.server(ThreadPoolExecutor(4))
    credentials = grpc.ssl_server_credentials(
        [(installation.private_key_pem, installation.certificate_pem)],
        root_certificates=installation.ca_pem,
        require_client_auth=True,
    )
    add_AdminServicer_to_server(script, server)
    assert server.add_secure_port(f"localhost:{port}", credentials) == port
    server.start()
    return server


class _Present(AdminServicer):
    """Hands each call to the script of the test that runs now, so that one server serves them all."""

    def __init__(self):
        self.script = None
        for name in [name for name in dir(AdminServicer) if name[0].isupper()]:
            setattr(self, name, self._now(name))

    def _now(self, name):
        def call_present(request, context):
            return getattr(self.script, name)(request, context)

        return call_present


@pytest.fixture(scope="session")
def _present(provisioned):
    present = _Present()
    server = start_server(provisioned.server, present, provisioned.port)
    yield present
    server.stop(None).wait()


@pytest.fixture
def script(_present, provisioned):
    """The script that the server follows in this test."""
    _present.script = Script(provisioned.server.ca_pem)
    return _present.script


@pytest.fixture
def fedhe_admin(provisioned, monkeypatch, capsys):
    """Runs `fedhe-admin` as the lead with the keys (or as another); returns exit code, output and errors."""

    def run(*arguments, name="lead", home=provisioned.home):
        who = ["--as", name] if name else []
        code = call(monkeypatch, admin_command.main, "fedhe-admin", "--home", home, *who, *arguments)
        return code, *capsys.readouterr()

    return run


class Terminal(io.StringIO):
    """Takes itself for a terminal; what is in it is what somebody types."""

    def isatty(self):
        return True


@pytest.fixture
def terminal():
    return Terminal


@pytest.fixture
def types(monkeypatch):
    """Somebody sits at the keyboard and types a line."""
    return lambda line: monkeypatch.setattr(sys, "stdin", Terminal(line + "\n"))


@pytest.fixture
def as_json(fedhe_admin):
    """Runs `fedhe-admin ... --json`, which must work, and returns what it prints."""

    def run(*arguments, **options):
        code, out, err = fedhe_admin(*arguments, "--json", **options)
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def job_folder(tmp_path):
    """A job folder in the shape of an MMAR; nobody trains it here."""
    folder = tmp_path / "tiny"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config_fed.yml").write_text("rounds: 2\nmin_sites: 2\n")
    train = {
        "model": {"name": "UNet"},
        "loss": {"name": "DiceLoss"},
        "optimizer": {"name": "Adam"},
        "dataset": {"name": "Dataset", "data_list": {"file": "{DATA_ROOT}/dataset.json"}},
    }
    (folder / "config" / "config_train.json").write_text(json.dumps({"epochs": 1, "train": train}, indent=1))
    (folder / "config" / "environment.json").write_text("{}")
    return folder


@dataclass(frozen=True)
class Trained:
    """A job of two rounds that has ended; its final model is known."""

    job_id: str
    layout: Layout
    vector: np.ndarray
    fingerprint: bytes


@pytest.fixture
def trained(script, provisioned, group_key):
    """Puts a finished job with sealed notes and checkpoints 0 and 2 on the scripted server."""
    job_id = "a1b2c3d4"
    layout = Layout(
        (
            TensorSpec("conv.weight", (300, 1000), "float32", statistic=False, field_bits=16),
            TensorSpec("norm.running_mean", (7,), "float32", statistic=True, field_bits=24),
            TensorSpec("scale", (), "float32", statistic=False, field_bits=16),
        )
    )
    vector = np.random.default_rng(5).normal(size=layout.n_values).astype(np.float32)
    fingerprint = model_fingerprint(group_key, job_id, 2, vector_digest(vector))
    script.jobs[job_id] = admin.Job(
        job_id=job_id, name="tiny", phase="finished", round=2, rounds=2, model_version=2, submitted_at=NOW
    )
    for version, values in [(0, vector * 0), (2, vector)]:
        sealer = CheckpointSealer(group_key, job_id, version, plain_checkpoint(layout, values))
        script.checkpoints[job_id, version] = [sealer.seal(index) for index in range(sealer.chunks)]
    for number in (1, 2):
        entry = admin.Round(
            round=number,
            attempts=number,
            started_at=NOW + number * 100,
            ended_at=NOW + number * 100 + 42.5,
            context=bytes([number]) * 32,
            sum_digest=bytes([16 + number]) * 32,
            sum_bytes=1_500_000,
        )
        for place, site in enumerate(SITES):
            quality = {"val_mean_dice": 0.4 + 0.1 * number + 0.01 * place, "val_loss": 1.0 / number}
            entry.contributions.append(
                admin.Contribution(
                    site=site,
                    bytes_up=750_000,
                    bytes_down=1_500_000,
                    model_fingerprint=fingerprint if number == 2 else b"\x07" * 32,
                    ready=_ready(
                        group_key, job_id, number, site, Note(10 + place, {"scale": 0.5}, quality, "val_mean_dice")
                    ),
                )
            )
            if number == 2:
                after = {"val_mean_dice": 0.7 + 0.01 * place, "val_loss": 0.25}
                entry.contributions[-1].applied_note = seal_applied_note(
                    group_key, "trial", job_id, 2, site, Note(0, {}, after, "val_mean_dice")
                )
        script.rounds.append(entry)
    return Trained(job_id, layout, vector, fingerprint)


def _ready(key, job_id, number, site, note):
    nonce = site.encode().ljust(16, b"\0")[:16]
    context = NoteContext(project="trial", job_id=job_id, round=number, attempt=number, site=site, nonce=nonce)
    body = federation.ReadyBody(
        project="trial",
        job_id=job_id,
        round=number,
        attempt=number,
        site=site,
        nonce=nonce,
        model_fingerprint=b"\x07" * 32,
        layout_digest=b"\x08" * 32,
        key_id=b"\x09" * 16,
        params_id=b"\x0a" * 16,
        chunks=1,
        sealed_note=seal_note(key, context=context, note=note.to_json()),
    )
    return federation.SignedReady(body=body.SerializeToString(), signature=b"s", certificate=b"c")


@pytest.fixture
def detail():
    """Makes a job's detail as the server would stream it."""

    def make(phase="train", number=1, version=0, *, attempt=1, message="", deadline=NOW + 3600, sites=None):
        states = sites or [(name, "training", 0.0) for name in SITES]
        return admin.JobDetail(
            job=admin.Job(
                job_id="a1b2c3d4",
                name="tiny",
                phase=phase,
                round=number,
                rounds=2,
                model_version=version,
                message=message,
            ),
            sites=[
                admin.SiteProgress(site=site, online=True, state=state, fraction=fraction, model_version=version)
                for site, state, fraction in states
            ],
            deadline=deadline,
            attempt=attempt,
            min_sites=2,
        )

    return make


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def serve(provisioned):
    """Starts a server of a test's own with a script; ends all of them with the test."""
    running = []

    def start(script, port, installation=provisioned.server):
        running.append(start_server(installation, script, port))
        return running[-1]

    yield start
    for server in running:
        server.stop(None).wait()
