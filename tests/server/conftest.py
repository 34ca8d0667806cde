"""A real project, a real server process, and scripted sites and admins that talk to it over gRPC with mutual TLS."""

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from fedhe.cli.server import main
from fedhe.config.document import parse_document, validate
from fedhe.config.job_archive import pack_job
from fedhe.config.project import Project
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.keys import SecretKey
from fedhe.he.seal_engine import SealEngine
from fedhe.provisioning.carry_out import carry_out
from fedhe.provisioning.issue import Issued, issue_certificate
from fedhe.provisioning.reconcile import Wishes, reconcile
from fedhe.provisioning.unpack import unpack_kit
from fedhe.trust import audit_log
from fedhe.trust.installation import load_installation
from fedhe.trust.signatures import JOB_LABEL, READY_LABEL, sign
from fedhe.wire import AdminStub, FederationStub, admin, federation
from fedhe.wire.channel import channel_options
from fedhe.wire.chunking import digest_of_digests
from fedhe.wire.errors import from_status
from fedhe.wire.limits import PROTOCOL_VERSION
from fedhe.wire.messages import ReadyStatement, job_pieces, write_ready

SITES = ("hospitalA", "hospitalB", "hospitalC")
PROJECT = """
project: {{name: {name}}}
min_sites: 2
server: {{host: localhost, port: 8443}}
sites: [{sites}]
admins:
  - {{name: lead@x, role: lead, holds_key: true}}
  - {{name: eve@x, role: observer}}
"""
LAST_CIPHERTEXTS = 3
CHUNKS = 2
READY_SECONDS = 60


def project_of(name="brain", sites=SITES):
    return validate(Project, parse_document(PROJECT.format(name=name, sites=", ".join(sites)), Path("project.yml")))


class Provisioned:
    """What the coordinator holds, and the kits installed below one home."""

    def __init__(self, home, project, now):
        self.home = home
        self.state = None
        self.change(project, now=now)

    def change(self, project, *, wishes=None, now=None):
        """Provisions again; installs new kits; returns the signed roster."""
        now = time.time() if now is None else now
        plan = reconcile(project, self.state, wishes or Wishes(), now)
        outcome = carry_out(project, self.state, plan, now)
        self.state = outcome.state.model_copy(update={"pending": ()})
        for kit in outcome.kits:
            path = self.home / f"{kit.name}.kit"
            path.write_bytes(kit.data)
            unpack_kit(path, kit.passphrase, self.home, expected_role=kit.role.split("-")[0], replace=True)
        return self.state.signed_roster

    def copy(self, home):
        shutil.copytree(self.home, home)
        twin = object.__new__(Provisioned)
        twin.home, twin.state = home, self.state
        return twin

    def installation(self, name, now=None):
        for folder, role in (("sites", "site"), ("admins", "admin")):
            if (self.home / folder / name).exists():
                return load_installation(self.home / folder / name, role_prefix=role, now=now or time.time())
        raise LookupError(name)


@pytest.fixture(scope="session")
def _provisioned_once(tmp_path_factory):
    home = tmp_path_factory.mktemp("project")
    return Provisioned(home, project_of(), time.time())


@pytest.fixture
def provisioned(_provisioned_once, tmp_path):
    """A fresh copy of one provisioned project."""
    return _provisioned_once.copy(tmp_path / "h")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """Another project whose sites have the same names."""
    return Provisioned(tmp_path_factory.mktemp("foreign"), project_of("other"), time.time())


@pytest.fixture
def make_project():
    return project_of


class Server:
    """The real `fedhe-server start`, as a process."""

    def __init__(self, home, environment=None):
        self.home = home
        self.folder = home / "server"
        self.process = None
        self.port = 0
        self.environment = environment or {}

    def start(self, *options):
        command = [sys.executable, "-m", "fedhe.cli.server", "start", "--home", str(self.home)]
        command += ["--listen", f"127.0.0.1:{self.port}", *options]
        self.log = (self.home / "server.stderr").open("ab")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, **self.environment}
        )
        line = self.process.stdout.readline()
        if not line.startswith("fedhe-server ready on 127.0.0.1:"):
            self.process.wait(READY_SECONDS)
            raise AssertionError(f"server did not start: {line!r}\n{self.stderr()}")
        self.port = int(line.rpartition(":")[2])
        return self

    def stderr(self):
        return (self.home / "server.stderr").read_text()

    def end(self, number=signal.SIGTERM):
        """Ends the process; returns its exit code."""
        if self.process is None:
            return None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.log.close()
        self.process = None
        return code

    def restart(self, number=signal.SIGTERM, *options):
        self.end(number)
        return self.start(*options)

    def command(self, *arguments, check=True):
        """Runs another `fedhe-server` command on the same home, in this process."""
        done = run_command(*arguments, "--home", str(self.home))
        assert done.returncode == 0 or not check, done.stderr
        return done


def run_command(*arguments):
    """`fedhe-server` with these arguments, as its entry point runs it."""
    out, err, mask = io.StringIO(), io.StringIO(), os.umask(0o022)
    before, sys.argv = sys.argv, ["fedhe-server", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        return subprocess.CompletedProcess(arguments, ended.code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
        os.umask(mask)
    raise AssertionError("the entry point of a command exits")


@pytest.fixture
def fedhe_server():
    return run_command


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL that the tests may do anything to."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'fedhe[postgresql]'")
    sys.path.insert(0, str(Path(__file__).parent))
    from postgresql_server import PostgreSQL, programs

    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    running = PostgreSQL(folder)
    yield running
    running.close()


@pytest.fixture
def idle_server(provisioned):
    """A server that is not started yet; ended at the test's end."""
    server = Server(provisioned.home)
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.end(signal.SIGKILL)


@pytest.fixture
def server(idle_server):
    return idle_server.start()


class Caller:
    """A participant's stubs; errors come as the FedheError that a client of fedhe meets."""

    def __init__(self, installation, port):
        credentials = grpc.ssl_channel_credentials(
            installation.ca_pem, installation.private_key_pem, installation.certificate_pem
        )
        self.installation = installation
        self.name = installation.name
        self.channel = grpc.secure_channel(f"localhost:{port}", credentials, options=channel_options())
        self.federation = FederationStub(self.channel)
        self.admin = AdminStub(self.channel)
        self.last_code = None

    def call(self, method, request, timeout=30):
        try:
            return method(request, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            self.last_code = error.code()
            raise from_status(error) from error

    def close(self):
        self.channel.close()


class Admin(Caller):
    """Submits and looks at jobs."""

    def submit(self, folder, *, start=True):
        archive = pack_job(folder)
        request = admin.SubmitJobRequest(
            archive=archive,
            signature=sign(JOB_LABEL, archive, self.installation.signing_key),
            certificate=self.installation.certificate_der,
            start=start,
        )
        return self.call(self.admin.SubmitJob, job_pieces(request)).job_id

    def show(self, job_id):
        return self.call(self.admin.ShowJob, admin.JobRef(job_id=job_id))

    def phase(self, job_id):
        return self.show(job_id).job.phase

    def wait_for(self, job_id, *phases, seconds=60):
        ends = time.monotonic() + seconds
        while (phase := self.phase(job_id)) not in phases:
            assert time.monotonic() < ends, f"{phase}, waited for {phases}: {self.show(job_id)}"
            time.sleep(0.05)
        return phase

    def rounds(self, job_id):
        return list(self.call(self.admin.ListRounds, admin.JobRef(job_id=job_id)).rounds)


class Site(Caller):
    """A site that does what it is told with a made-up model; its updates are real ciphertexts."""

    def __init__(self, installation, port):
        super().__init__(installation, port)
        self.secret_key = SecretKey.from_bytes((installation.kit / "he.key").read_bytes())
        self.engine = SealEngine(installation.params, self.secret_key)
        self.version = {}
        self.sums = {}
        self.spool = {}
        self.chunks = CHUNKS
        self.report = {}

    def join(self, **changes):
        request = federation.JoinRequest(
            protocol_version=PROTOCOL_VERSION,
            software_version="test",
            project=self.installation.project,
            key_id=self.secret_key.key_id,
            roster_version=self.installation.roster.version,
        )
        for name, value in changes.items():
            setattr(request, name, value)
        return self.call(self.federation.Join, request)

    def request(self, *jobs, wait=0.0, roster_version=10**6, working_on=""):
        progress = [
            federation.JobProgress(job_id=job, model_version=self.version.get(job, -1), working_on=working_on)
            for job in jobs
        ]
        return federation.PollRequest(jobs=progress, wait_seconds=wait, roster_version=roster_version)

    def poll(self, *jobs, **options):
        return self.call(self.federation.Poll, self.request(*jobs, **options), timeout=60)

    def instruction(self, job):
        """The present instruction of one job; None if it is not named."""
        return next((one for one in self.poll(job).instructions if one.job_id == job), None)

    def fingerprint(self, version):
        return hashlib.sha256(f"model {version}".encode()).digest()

    def coefficients(self, round_, chunk):
        """This site's update: (ciphertexts, 4096) int64, different in every site, round and chunk."""
        seed = int.from_bytes(hashlib.sha256(f"{self.name} {round_} {chunk}".encode()).digest()[:8], "big")
        count = 16 if chunk < self.chunks - 1 else LAST_CIPHERTEXTS
        return np.random.default_rng(seed).integers(-(2**43), 2**43, (count, 4096), dtype=np.int64)

    def ready(self, job, round_, attempt, **changes):
        """Builds a signed READY."""
        values = {
            "project": self.installation.project,
            "job_id": job,
            "round": round_,
            "attempt": attempt,
            "site": self.name,
            "nonce": secrets.token_bytes(16),
            "model_fingerprint": self.fingerprint(round_ - 1),
            "layout_digest": hashlib.sha256(b"layout").digest(),
            "key_id": self.secret_key.key_id,
            "params_id": self.installation.params.params_id,
            "chunks": self.chunks,
            "sealed_note": b"sealed note of " + self.name.encode(),
        }
        body = write_ready(ReadyStatement(**{**values, **changes}))
        return federation.SignedReady(
            body=body,
            signature=sign(READY_LABEL, body, self.installation.signing_key),
            certificate=self.installation.certificate_der,
        )

    def encrypted(self, roster, chunk):
        """The chunk's bytes, the same whenever they are sent again."""
        place = (roster.job_id, roster.round, roster.attempt, chunk)
        if place not in self.spool:
            self.spool[place] = self.engine.encrypt(self.coefficients(roster.round, chunk), roster.context, chunk)
        return self.spool[place]

    def put(self, ref, index, data, digest=None):
        chunk = federation.Chunk(index=index, data=data, digest=digest or hashlib.sha256(data).digest())
        return self.call(self.federation.PutChunk, federation.PutChunkRequest(object=ref, chunk=chunk))

    def finish(self, ref, pieces):
        digest = digest_of_digests([hashlib.sha256(piece).digest() for piece in pieces])
        request = federation.FinishUploadRequest(object=ref, chunks=len(pieces), digest=digest)
        return self.call(self.federation.FinishUpload, request)

    def upload(self, ref, pieces):
        for index, piece in enumerate(pieces):
            self.put(ref, index, piece)
        self.finish(ref, pieces)

    def update_ref(self, roster):
        return federation.ObjectRef(
            job_id=roster.job_id, kind=federation.OBJECT_KIND_UPDATE, number=roster.round, attempt=roster.attempt
        )

    def checkpoint_ref(self, job, version):
        return federation.ObjectRef(job_id=job, kind=federation.OBJECT_KIND_CHECKPOINT, number=version)

    def fetch(self, ref):
        """All chunks of an object, checked against its description."""
        info = self.call(self.federation.DescribeObject, ref)
        pieces = [
            self.call(self.federation.GetChunk, federation.GetChunkRequest(object=ref, index=index)).data
            for index in range(info.chunks)
        ]
        assert digest_of_digests([hashlib.sha256(piece).digest() for piece in pieces]) == info.digest
        assert sum(len(piece) for piece in pieces) == info.size
        return pieces

    def applied(self, job, version, fingerprint=None, note=b""):
        self.version[job] = version
        request = federation.AppliedRequest(
            job_id=job,
            version=version,
            model_fingerprint=fingerprint or self.fingerprint(version),
            sealed_note=note,
        )
        return self.call(self.federation.Applied, request)

    def problem(self, job, problem, message, *, round_=0, attempt=0, lines=()):
        request = federation.ReportRequest(
            job_id=job, problem=problem, round=round_, attempt=attempt, message=message, lines=lines
        )
        return self.call(self.federation.Report, request)

    def work(self, job, until=()):
        """Does the present instruction; returns its kind. Kinds in `until` are returned and not done."""
        instruction = self.instruction(job)
        kind = instruction.WhichOneof("work") if instruction is not None else None
        if kind in until or kind in {None, "wait", "stop"}:
            return kind
        getattr(self, f"_do_{kind}")(job, getattr(instruction, kind))
        return kind

    def _do_seed(self, job, _seed):
        self._seal(job, 0)
        self.applied(job, 0)

    def _do_load_checkpoint(self, job, load):
        pieces = self.fetch(self.checkpoint_ref(job, load.version))
        assert pieces == self._pieces(job, load.version)
        self.applied(job, load.version)

    def _do_train(self, job, train):
        self.call(self.federation.Ready, self.ready(job, train.round, train.attempt))

    def _do_upload(self, _job, upload):
        pieces = [self.encrypted(upload.roster, chunk) for chunk in range(self.chunks)]
        self.upload(self.update_ref(upload.roster), pieces)

    def _do_apply(self, job, apply):
        roster = apply.roster
        ref = federation.ObjectRef(job_id=job, kind=federation.OBJECT_KIND_SUM, number=roster.round)
        self.sums[roster.round] = [
            self.engine.decrypt(
                piece,
                Expectation(
                    ChunkKind.SUM,
                    self.secret_key.key_id,
                    self.installation.params.params_id,
                    roster.context,
                    index,
                    sites=len(roster.ready),
                ),
            )
            for index, piece in enumerate(self.fetch(ref))
        ]
        self.applied(job, roster.round, note=b"sealed metrics" if apply.validate else b"")

    def _do_seal(self, job, seal):
        self._seal(job, seal.version)

    def _seal(self, job, version):
        self.upload(self.checkpoint_ref(job, version), self._pieces(job, version))

    def _pieces(self, job, version):
        return [f"sealed {job} {version} {index}".encode() * 100 for index in range(3)]


class World:
    """A running server and whoever talks to it."""

    def __init__(self, server, provisioned, folder):
        self.server = server
        self.provisioned = provisioned
        self._folder = folder
        self._callers = {}
        self._extra = []

    def caller(self, name, *, kind=None, source=None):
        """Connects a participant by name."""
        installation = (source or self.provisioned).installation(name)
        chosen = kind or (Site if installation.role == "site" else Admin)
        caller = chosen(installation, self.server.port)
        self._extra.append(caller)
        return caller

    def _known(self, name):
        if name not in self._callers:
            self._callers[name] = self.caller(name)
        return self._callers[name]

    @property
    def lead(self):
        return self._known("lead@x")

    @property
    def observer(self):
        return self._known("eve@x")

    @property
    def sites(self):
        """All three sites, joined."""
        missing = [name for name in SITES if name not in self._callers]
        sites = [self._known(name) for name in SITES]
        for site in sites:
            if site.name in missing:
                site.join()
        return sites

    def job_folder(self, **keys):
        """Writes a job folder; keyword arguments are keys of config_fed.yml."""
        folder = self._folder / "demo-job"
        (folder / "config").mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{key}: {value}\n" for key, value in {"rounds": 2, **keys}.items())
        (folder / "config" / "config_fed.yml").write_text(lines)
        (folder / "config" / "config_train.json").write_text("{}")
        return folder

    def submit(self, *, start=True, **keys):
        return self.lead.submit(self.job_folder(**keys), start=start)

    def run(self, job, until=(), *, sites=None, seconds=60):
        """Lets sites work in turn until all have an instruction out of `until`, or all were told to stop."""
        sites = self.sites if sites is None else sites
        ends = time.monotonic() + seconds
        while True:
            kinds = [site.work(job, until) for site in sites]
            if all(kind in (until or {"stop"}) for kind in kinds):
                return kinds
            assert time.monotonic() < ends, f"stuck at {kinds}, {self.lead.show(job)}"
            if all(kind in {"wait", "stop", None, *until} for kind in kinds):
                time.sleep(0.02)

    def expected_sum(self, sites, round_):
        """The plain sum of the sites' updates of a round, by chunk."""
        return [sum(site.coefficients(round_, chunk) for site in sites) for chunk in range(CHUNKS)]

    def audit(self, job=None):
        """Kind and fields of all audit lines, or of those about one job."""
        lines = [(line["kind"], line["fields"]) for line in audit_log.read(self.server.folder / "audit.log")]
        return [line for line in lines if job in (None, line[1].get("job"))]

    def close(self):
        for one in self._extra:
            one.close()


@pytest.fixture
def world(server, provisioned, tmp_path):
    """A running server, with sites and admins that connect when they are asked for."""
    world = World(server, provisioned, tmp_path)
    yield world
    world.close()


@contextlib.contextmanager
def _world_in(folder, provisioned_once):
    provisioned = provisioned_once.copy(folder / "h")
    server = Server(provisioned.home).start()
    world = World(server, provisioned, folder)
    try:
        yield world
    finally:
        world.close()
        server.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def shared_world(_provisioned_once, tmp_path_factory):
    """One server for all tests that leave roster and server as they found them; each makes jobs of its own."""
    with _world_in(tmp_path_factory.mktemp("shared"), _provisioned_once) as world:
        yield world


@pytest.fixture(scope="module")
def module_world(_provisioned_once, tmp_path_factory):
    """One server for the tests of a module."""
    with _world_in(tmp_path_factory.mktemp("module"), _provisioned_once) as world:
        yield world


@pytest.fixture
def bare_certificate(provisioned):
    """Issues certificates that no kit holds: for any time, listed on no roster."""

    def issue(name, role="site", *, now=None, authority=None):
        state = (authority or provisioned).state
        issuer = Issued(state.ca_pem, state.ca_key_pem, state.ca_serial, state.ca_not_after)
        now = time.time() if now is None else now
        return issue_certificate(issuer, project=state.project, role=role, name=name, hosts=(), days=365, now=now)

    return issue
