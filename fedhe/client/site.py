"""What all jobs of an agent share: who this site is, its keys, its connection, its log and its policy file."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fedhe.client.log_book import LogBook
from fedhe.client.roster_check import Anchors
from fedhe.client.session import Session
from fedhe.client.status import Status
from fedhe.client.trainer import TrainingProcess
from fedhe.config.federation import Precision
from fedhe.config.policy import POLICY_FILE, SitePolicy, load_policy
from fedhe.config.project import EngineName
from fedhe.errors import ConfigError
from fedhe.he.engine import Engine
from fedhe.he.fast_engine import FastEngine
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams
from fedhe.he.seal_engine import SealEngine
from fedhe.trust import audit_log
from fedhe.trust.installation import Installation, store_roster
from fedhe.trust.roster import Roster
from fedhe.trust.sealed import GroupKey

MAX_CRYPTO_THREADS = 4  # as many chunks as are under way at a time (transfer.py)
EngineMaker = Callable[[CkksParams, SecretKey], Engine]
ResultT = TypeVar("ResultT")


@dataclass
class Site:
    """The site's side of the federation, shared by its jobs.

    Attributes:
        roster: the newest signed list of participants that this site has seen; it only ever gets newer.
        crypto: the threads that encrypt and decrypt, `crypto_threads` of them.
        training: lets one training process run at a time, so that two jobs do not share a GPU's memory.

    Raises:
        ConfigError: the policy file is not well-formed, or wants encryption on a GPU that cannot be had.
        ResourceError: that GPU lacks memory.
    """

    installation: Installation
    secret_key: SecretKey
    group_key: GroupKey
    session: Session
    log: LogBook
    status: Status
    process: TrainingProcess
    clock: Callable[[], float] = time.time
    crypto: ThreadPoolExecutor = field(init=False)
    training: asyncio.Lock = field(default_factory=asyncio.Lock)
    _make_engine: EngineMaker = field(init=False)
    _engines: dict[bytes, Engine] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        policy = self.policy()
        threads = crypto_threads(policy)
        self.crypto = ThreadPoolExecutor(threads, "crypto")
        self._make_engine = engine_maker(self.installation.engine, policy, threads)
        if policy.encryption_gpu is not None:
            self.engine(self.installation.params)  # what a GPU lacks is told before a job comes

    @property
    def folder(self) -> Path:
        """HOME/sites/NAME."""
        return self.installation.folder

    @property
    def name(self) -> str:
        """The site's name."""
        return self.installation.name

    @property
    def project(self) -> str:
        """The project's name."""
        return self.installation.project

    @property
    def roster(self) -> Roster:
        """The newest signed list of participants; it only ever gets newer."""
        return self.installation.roster

    def anchors(self) -> Anchors:
        """What trust rests on, now."""
        return Anchors(self.installation.ca_pem, self.roster, self.group_key, self.clock())

    def policy(self) -> SitePolicy:
        """The policy file as it is now.

        Raises:
            ConfigError: it is not well-formed.
        """
        return load_policy(self.folder / POLICY_FILE)

    def audit(self, kind: str, **fields: Any) -> None:
        """Adds a line to the site's audit log.

        Raises:
            ResourceError: disk full or read-only.
        """
        audit_log.append(self.folder / audit_log.AUDIT_FILE, kind, fields, self.clock())

    def params(self, precision: Precision) -> CkksParams:
        """The project's HE parameters with the job's field widths.

        Raises:
            CapacityError: the fields do not fit.
        """
        return self.installation.params.with_precision(precision.field_bits, precision.statistics_bits)

    def engine(self, params: CkksParams) -> Engine:
        """The engine for these parameters, made once; to be called in a crypto thread."""
        with self._making:
            if params.params_id not in self._engines:
                self._engines[params.params_id] = self._make_engine(params, self.secret_key)
            return self._engines[params.params_id]

    def close(self) -> None:
        """Ends threads and processes that encrypt."""
        self.crypto.shutdown(wait=True, cancel_futures=True)
        self._engines.clear()

    async def in_crypto_thread(self, work: Callable[[], ResultT]) -> ResultT:
        """Runs `work` beside the event loop, as many at a time as there are crypto threads."""
        return await asyncio.get_running_loop().run_in_executor(self.crypto, work)

    def take_roster(self, signed: bytes) -> None:
        """Takes a newer signed list of participants that the server sent, and keeps it.

        Raises:
            TrustError: not signed by the project's CA, of another project, or older than the present one.
            ResourceError: disk full or read-only.
        """
        before = self.roster.version
        self.installation = store_roster(self.installation, signed)
        if self.roster.version > before:
            self.status.roster_version = self.roster.version
            self.audit("roster-taken", version=self.roster.version, sites=list(self.roster.sites))
            self.log.write("info", f"took version {self.roster.version} of the signed list of participants")

    def check_standing(self) -> None:
        """Makes sure that this site's own certificate is still good.

        Raises:
            TrustError: revoked, expired or no longer listed.
        """
        self.roster.check(self.installation.identity, self.clock())


def crypto_threads(policy: SitePolicy) -> int:
    """How many threads encrypt: one for each core that this process may use, but one for a GPU."""
    return 1 if policy.encryption_gpu is not None else min(MAX_CRYPTO_THREADS, len(os.sched_getaffinity(0)))


def engine_maker(name: EngineName, policy: SitePolicy, threads: int) -> EngineMaker:
    """What makes the engines of a site: the project's engine, or on a GPU the one that writes the same ciphertexts.

    SEAL's binding keeps Python's lock, so for several threads it runs in as many processes.

    Raises:
        ConfigError: the policy wants a GPU, and the project another engine than `fast`, or torch sees no such GPU.
    """
    if policy.encryption_gpu is None:
        return FastEngine if name == "fast" else partial(SealEngine, processes=threads)
    if name != "fast":
        raise ConfigError(
            f"encrypt_on: gpu: expected a project with engine: fast, got engine: {name}",
            "set encrypt_on: cpu in policy.yml",
        )
    try:
        from fedhe.he.gpu_engine import GpuEngine, find_gpu  # noqa: PLC0415 - torch, which no other part of it needs
    except ImportError as error:
        raise ConfigError(f"encrypt_on: gpu: expected torch to be installed, got: {error}") from error
    gpu = find_gpu(policy.encryption_gpu)
    return lambda params, secret_key: GpuEngine(params, secret_key, gpu)
