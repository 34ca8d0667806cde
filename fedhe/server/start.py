"""Starts the server, keeps it going, and stops it so that everything is where it was when it starts again."""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import grpc
from grpc import aio

from fedhe import __version__
from fedhe.allocator import share_heaps
from fedhe.config.federation import FederationConfig
from fedhe.errors import ConfigError, FedheError, ResourceError
from fedhe.he.ciphertext import MAX_FORWARDED_SEEDS
from fedhe.server import records
from fedhe.server.access import Gate
from fedhe.server.admin_service import AdminService
from fedhe.server.audit import Audit
from fedhe.server.blobs import BlobStore
from fedhe.server.database import bind_to_folder, database_url
from fedhe.server.disk_budget import DiskBudget
from fedhe.server.federation_service import FederationService
from fedhe.server.health import Health
from fedhe.server.jobs import Job, key_of, read_state
from fedhe.server.lock_file import Holder, LockFile
from fedhe.server.log_book import LogBook
from fedhe.server.memory import allow_many_connections
from fedhe.server.parts import Parts
from fedhe.server.presence import Presence
from fedhe.server.project_sites import ProjectSites, read_followed
from fedhe.server.roster_file import RosterFile
from fedhe.server.runner import Runner
from fedhe.server.server_log import ServerLog
from fedhe.server.spare_checkpoints import BudgetKeeper
from fedhe.server.store import open_store
from fedhe.server.transfers import Transfers
from fedhe.trust.audit_log import AUDIT_FILE
from fedhe.trust.installation import ROSTER_FILE, Installation, assert_no_key_material, load_installation
from fedhe.trust.private_files import file_error
from fedhe.wire import add_AdminServicer_to_server, add_FederationServicer_to_server
from fedhe.wire.channel import server_options

LOCK_FILE = "server.lock"
BLOBS_FOLDER = "blobs"
LOGS_FOLDER = "logs"

TICK_SECONDS = 1.0
SAVE_PRESENCE_SECONDS = 30.0
"""How often last seen times go to the disk; a crash loses no more of them."""
EXPIRY_WARNING_SECONDS = 30 * 86400.0
"""From when on the server says at its start that its certificate expires."""
IO_THREADS = 32
"""Threads that wait for the disk."""
GRACE_SECONDS = 5.0
"""How long calls under way may take to end when the server stops."""
MAX_WORKERS = 4


class Ended(Enum):
    """How a server ended."""

    STOPPED = "stopped"
    RESTART = "restart"


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads `ADDR:PORT`, such as `0.0.0.0:8443` or `[::]:8443`.

    Raises:
        ConfigError: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen: expected ADDR:PORT, such as 0.0.0.0:8443 or [::]:8443, got {text!r}")
    return Address(host, int(port))


def serve(
    folder: Path,
    *,
    listen: str | None = None,
    json_logs: bool = False,
    max_forwarded: int = MAX_FORWARDED_SEEDS,
    disk_budget: int | None = None,
) -> Ended:
    """Runs the server of a folder until SIGTERM, SIGINT or an admin's `shutdown`.

    Prints `fedhe-server ready on ADDR:PORT` to standard output once sites can connect.

    Args:
        folder: HOME/server.
        listen: `ADDR:PORT`; by default all addresses and the port of the project file.
        json_logs: log JSON lines.
        max_forwarded: for how many sites, at most, a sum carries their seeds (he/sums.py).
        disk_budget: bytes that blobs may take; None for as many as the disk takes.

    Raises:
        TrustError: the kit is not to be trusted, has expired, or a key that decrypts is in the folder.
        NotFoundError: no kit is installed.
        StateError: another server runs in the folder, or a newer fedhe wrote its database.
        ResourceError: the port is in use, or the disk fails.
        ConfigError: `listen` is not an address.
    """
    share_heaps()
    allow_many_connections()
    installation = load_installation(folder, role_prefix="server", now=time.time())
    assert_no_key_material(folder)
    address = _default_address(installation) if listen is None else parse_address(listen)
    holder = Holder(os.getpid(), "", time.time(), __version__)
    lock = LockFile.acquire(folder / LOCK_FILE, holder)
    try:
        budget = DiskBudget(disk_budget)
        with _parts(installation, budget, json_logs=json_logs, max_forwarded=max_forwarded) as (parts, jobs):

            def ready(listening: Address) -> None:
                lock.describe(replace(holder, address=str(listening)))
                sys.stdout.write(f"fedhe-server ready on {listening}\n")
                sys.stdout.flush()

            return asyncio.run(_serve(installation, parts, jobs, address, ready))
    finally:
        lock.release()


def _default_address(installation: Installation) -> Address:
    """All addresses of the family that the sites know the server by; mutual TLS guards the port."""
    return Address("::" if ":" in installation.server_host else "0.0.0.0", installation.server_port)  # noqa: S104 -- sites come from anywhere


@contextmanager
def _parts(
    installation: Installation, budget: DiskBudget, *, json_logs: bool, max_forwarded: int
) -> Iterator[tuple[Parts, list[Job]]]:
    folder = installation.folder
    try:
        book = LogBook(folder / LOGS_FOLDER)
        blobs = BlobStore(folder / BLOBS_FOLDER)
        blobs.sweep()
    except OSError as error:
        raise file_error(error, folder) from error
    url = database_url(folder)
    store = open_store(url)
    try:
        if url.get_backend_name() != "sqlite":
            bind_to_folder(store, folder)
        roster = RosterFile(
            installation.kit / ROSTER_FILE,
            installation.ca_pem,
            project=installation.project,
            at_least_version=read_followed(store).version,
        )
        with store.read() as connection:
            rows, sites, objects = records.jobs(connection), records.sites(connection), records.objects(connection)
        jobs = [_job(row, installation, [one for one in objects if one.job_id == row.job_id]) for row in rows]
        parts = Parts(
            project=installation.project,
            params=installation.params,
            store=store,
            blobs=blobs,
            audit=Audit(folder / AUDIT_FILE, store),
            presence=Presence(sites),
            roster=roster,
            book=book,
            log=ServerLog(book, as_json=json_logs),
            max_forwarded=max_forwarded,
            budget=budget,
            started_at=time.time(),
        )
        yield parts, jobs
    finally:
        store.close()


def _job(row: records.JobRow, installation: Installation, objects: list[records.ObjectRow]) -> Job:
    federation = FederationConfig.model_validate_json(row.federation)
    precision = federation.precision
    params = installation.params.with_precision(precision.field_bits, precision.statistics_bits)
    return Job(row, federation, params, read_state(row.job_id, row.state), {key_of(one): one for one in objects})


async def _serve(
    installation: Installation, parts: Parts, jobs: list[Job], address: Address, ready: Callable[[Address], None]
) -> Ended:
    ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def stop(how: Ended) -> None:
        if not ended.done():
            ended.set_result(how)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(IO_THREADS, thread_name_prefix="io"))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, Ended.STOPPED)
    runner = Runner(parts, jobs, workers=min(MAX_WORKERS, os.cpu_count() or 1))
    sites = ProjectSites(parts, runner)
    gate = Gate(installation.ca_pem, parts.roster, parts.audit, parts.log, parts.clock)
    transfers = Transfers(parts, runner)
    federation = FederationService(parts, runner, transfers, gate)
    admin = AdminService(
        parts, runner, transfers, gate, sites, stop=lambda again: stop(Ended.RESTART if again else Ended.STOPPED)
    )
    health = Health()
    server = aio.server(interceptors=[gate], options=server_options())
    add_FederationServicer_to_server(federation, server)  # type: ignore[no-untyped-call]  # generated code
    add_AdminServicer_to_server(admin, server)  # type: ignore[no-untyped-call]  # generated code
    health.add_to(server)
    port = _bind(server, address, installation)
    try:
        await runner.resume()
        await sites.follow_roster()
        await admin.steering.follow_drain()
        await server.start()
        if not await health.listen(installation.folder):
            parts.log.write("warning", f"{installation.folder} takes no socket, so fedhe-server health will not work")
        await health.set_serving(True)
        _say_started(parts, replace(address, port=port), installation.identity.not_after)
        gc.freeze()  # what is there now stays: looking through it for garbage again and again takes time
        ready(replace(address, port=port))
        async with _ticking(parts, runner, sites):
            how = await ended
        parts.log.write("info", "stopping; jobs go on at the next start")
    finally:
        await health.set_serving(False)
        federation.close()
        admin.close()
        await server.stop(GRACE_SECONDS)
        await health.close()
        await runner.close()
        await _save_presence(parts)
    parts.log.write("info", "stopped")
    return how


def _say_started(parts: Parts, address: Address, expires: float) -> None:
    roster = parts.roster.current
    said = {"version": __version__, "roster": roster.version, "address": str(address)}
    parts.audit.note(parts.clock(), "server-started", said)
    parts.log.write(
        "info",
        f"fedhe-server {__version__} of project {parts.project} with {len(roster.sites)} sites listens on {address}",
    )
    if (left := expires - parts.clock()) < EXPIRY_WARNING_SECONDS:
        days = int(left // 86400)
        parts.log.write("warning", f"the server's certificate expires in {days} days: fedhe-provision --renew server")


def _bind(server: aio.Server, address: Address, installation: Installation) -> int:
    # gRPC says only that binding failed; the socket says why.
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise ResourceError(
            f"cannot listen on {address}: {error.strerror or error}",
            "another program has the port: stop it, or choose another with --listen ADDR:PORT"
            if in_use
            else "name an address of this computer and a port that you may use with --listen ADDR:PORT",
        ) from error
    credentials = grpc.ssl_server_credentials(
        [(installation.private_key_pem, installation.certificate_pem)],
        root_certificates=installation.ca_pem,
        require_client_auth=True,
    )
    try:
        port = server.add_secure_port(str(address), credentials)
    except RuntimeError as error:
        raise ResourceError(f"cannot listen on {address}: {error}", "choose another with --listen ADDR:PORT") from error
    return port


@asynccontextmanager
async def _ticking(parts: Parts, runner: Runner, sites: ProjectSites) -> AsyncIterator[None]:
    task = asyncio.create_task(_tick_for_ever(parts, runner, sites))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _tick_for_ever(parts: Parts, runner: Runner, sites: ProjectSites) -> None:
    saved = parts.clock()
    keeper = BudgetKeeper(parts, runner)
    while True:
        try:
            await sites.follow_roster()
            await runner.tick()
            await keeper.look(now=parts.clock())
            if parts.clock() - saved >= SAVE_PRESENCE_SECONDS:
                saved = parts.clock()
                await _save_presence(parts)
        except FedheError as error:
            parts.log.write("warning", f"{error.message}; trying again")
        except Exception as error:  # noqa: BLE001 -- a bug in one tick must not stop all later ones
            parts.log.write("error", f"bug in a tick: {type(error).__name__}", error=error)
        await asyncio.sleep(TICK_SECONDS)


async def _save_presence(parts: Parts) -> None:
    rows = parts.presence.unsaved()

    def write() -> None:
        with parts.store.write() as connection:
            for row in rows:
                records.put_seen(connection, row)

    try:
        if rows:
            await asyncio.to_thread(write)
    except ResourceError as error:
        parts.log.write("warning", f"cannot store when sites were seen: {error.message}")
