"""A project with a server, three sites and a lead admin, kits laid out on disk, jobs, and a small training process."""

import asyncio
import inspect
import json
import runpy
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedhe.client.trainer import TrainingProcess
from fedhe.config.project import HeSection
from fedhe.config.trainer import read_result
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.provisioning.issue import Issued, issue_certificate, make_authority, server_hosts
from fedhe.trust.certificates import load_certificate
from fedhe.trust.installation import KitDocument, load_installation
from fedhe.trust.roster import Participant, Revocation, Roster, sign_roster
from fedhe.trust.sealed import GroupKey
from fedhe.trust.signatures import JOB_LABEL, parse_private_key, sign

PROJECT = "brain-mri"
SITES = ("A", "B", "C")


@dataclass
class Project:
    """The coordinator of a project, in memory, and everybody's certificates."""

    now: float = field(default_factory=time.time)
    host: str = "localhost"
    port: int = 1
    members: dict[str, tuple[str, Issued]] = field(default_factory=dict)
    version: int = 1
    revoked: list[str] = field(default_factory=list)
    min_sites: int = 2

    def __post_init__(self):
        self.authority = make_authority(PROJECT, days=3650, now=self.now)
        self.params = CkksParams.from_literal(CkksParamsLiteral())
        self.secret_key = SecretKey.generate(self.params)
        self.group_key = GroupKey.generate()
        self.issue("server", "server", hosts=server_hosts(self.host))
        self.issue("admin-lead", "lead")
        for site in SITES:
            self.issue("site", site)

    def issue(self, role, name, *, hosts=(), now=None, days=365, listed=True):
        issued = issue_certificate(
            self.authority, project=PROJECT, role=role, name=name, hosts=hosts, days=days, now=now or self.now
        )
        if listed:
            self.members[name] = (role, issued)
        return issued

    @property
    def ca(self):
        return self.authority.certificate_pem

    def key_of(self, name):
        return parse_private_key(self.members[name][1].key_pem)

    def der_of(self, name):
        from cryptography.hazmat.primitives.serialization import Encoding

        return load_certificate(self.members[name][1].certificate_pem).public_bytes(Encoding.DER)

    def roster(self):
        listed = tuple(
            Participant(name, role, issued.serial, issued.not_after)
            for name, (role, issued) in sorted(self.members.items())
            if name not in self.revoked
        )
        gone = tuple(Revocation(name, self.members[name][1].serial, self.now, "stolen") for name in self.revoked)
        return Roster(PROJECT, self.version, self.now, self.secret_key.key_id, self.min_sites, listed, gone)

    def signed_roster(self):
        return sign_roster(self.roster(), parse_private_key(self.authority.key_pem))

    def kit_files(self, name: str):
        """What a participant's kit holds, by file name."""
        role, issued = self.members[name]
        secrets = role == "site"
        document = KitDocument(
            project=PROJECT, project_version="1", name=name, role=role, host=self.host, port=self.port,
            he=HeSection(), engine="seal", key_id=self.secret_key.key_id.hex() if secrets else None,
        )  # fmt: skip
        files = {
            "kit.json": document.model_dump_json().encode(),
            "ca.pem": self.ca,
            "cert.pem": issued.certificate_pem,
            "key.pem": issued.key_pem,
            "roster.signed": self.signed_roster(),
        }
        if secrets:
            files |= {"he.key": self.secret_key.to_bytes(), "group.key": self.group_key.to_bytes()}
        return files

    def install(self, folder: Path, name: str):
        """Lays a kit out as an installation would; returns the participant's folder."""
        kit = folder / "kit"
        kit.mkdir(parents=True)
        folder.chmod(0o700)
        kit.chmod(0o700)
        for file, data in self.kit_files(name).items():
            (kit / file).write_bytes(data)
            (kit / file).chmod(0o600)
        return folder

    def installed_site(self, home: Path, name: str):
        folder = home / "sites" / name
        if not folder.exists():
            self.install(folder, name)
        return load_installation(folder, role_prefix="site", now=time.time())

    def sign_job(self, archive: bytes, name="lead"):
        """A signed job as the server hands it out."""
        from fedhe.wire import admin

        return admin.SubmitJobRequest(
            archive=archive, signature=sign(JOB_LABEL, archive, self.key_of(name)), certificate=self.der_of(name)
        ).SerializeToString()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def project():
    return Project()


@pytest.fixture
def make_project():
    return Project


SMALL_TRAINER = Path(__file__).with_name("small_trainer.py")


class QuickTraining(TrainingProcess):
    """Does what the small trainer does within this process, unless a test wants what only a process can do."""

    async def run(self, request, *, work, log, policy, told):
        if not {"SLEEP", "SLOW", "FAIL", "KILLED_ONCE", "SPY"}.isdisjoint(request.overrides):
            return await super().run(request, work=work, log=log, policy=policy, told=told)
        request.output.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(runpy.run_path(str(SMALL_TRAINER))["perform"], request.model_dump(mode="json"))
        return read_result(request.output)


@pytest.fixture(scope="session")
def training_process():
    """Real small processes."""
    return TrainingProcess((sys.executable, str(SMALL_TRAINER)))


@pytest.fixture(scope="session")
def quick_training(training_process):
    return QuickTraining(training_process.command)


@pytest.fixture
def make_job(tmp_path):
    """Packs a small job folder; returns the archive's bytes."""
    from fedhe.config.job_archive import pack_job

    def make(name="tiny", *, rounds=2, code="WIDTH = 3\n", extra=None, **federation):
        folder = tmp_path / f"mmar-{name}"
        files = {
            "config/config_train.json": json.dumps({"epochs": 1, "train": {}, "validate": {}}),
            "config/environment.json": "{}",
            "config/config_fed.yml": json.dumps({"name": name, "rounds": rounds, "min_sites": 2, **federation}),
        } | ({"BYOC/net.py": code} if code else {})
        for file, text in {**files, **(extra or {})}.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return pack_job(folder)

    return make
