"""Runs many sites against one real server, and says how much of the server's memory each of them takes.

    python benchmarks/load.py [--sites 200] [--few 20] [--rounds 5] [--flood]     writes build/load/report.json

The sites are the product's own agents, in this process, each with its own certificate and connection; the server is a
process of its own. `rss_per_site_bytes` is what the server's peak memory grows by from a run with `--few` sites to one
with `--sites`, for each site more. With `--flood` both runs go on under a flood of bad requests (flood.py).
"""

import argparse
import asyncio
import contextlib
import io
import json
import platform
import re
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from flood import Flood
from load_sites import agents
from round_federation import BenchmarkError, Federation
from round_usage import Sampler, Tree

from fedhe.trust.installation import load_installation

REPORT = Path(__file__).parents[1] / "build" / "load" / "report.json"
PARAMETERS = 20_000
MANY_SITES_HE = {"scale_bits": 14, "field_bits": 15}
"""The noise of up to 390 sites rounds away under this scale."""
LEAST_SECONDS = 120.0
SECONDS_PER_SITE_AND_ROUND = 2.0  # a bound, to end what hangs
POLL_SECONDS = 0.5
ROGUE = "mallory"
ERROR = re.compile(r"^\S+ error |\[error *\]|Traceback")


@dataclass
class ManySites(Federation):
    """A federation whose sites are no processes; see `load_sites.agents`."""

    def __post_init__(self) -> None:
        self.he = MANY_SITES_HE

    def _start_sites(self) -> None:
        """The sites are started by `run`."""

    @property
    def server_log(self) -> str:
        """What the server wrote to its terminal."""
        return self._log("server").read_text(encoding="utf-8", errors="replace")

    def site_folder(self, name: str) -> Path:
        """Where a site's kit is installed."""
        return self._site_folder(name)

    @property
    def site_folders(self) -> list[Path]:
        """Those of the sites that have agents."""
        return [self.site_folder(name) for name in self.names]


@dataclass(frozen=True)
class Run:
    """What a run of a number of sites came to.

    Attributes:
        peak_rss_bytes: largest resident memory of the server and its workers.
        connections: most connections that the server had at a time.
        rounds_seconds: of each round, by the server's record.
        errors: lines of level error in the logs of sites and server.
    """

    sites: int
    peak_rss_bytes: int
    connections: int
    rounds_seconds: list[float]
    errors: list[str]


async def run(folder: Path, sites: int, rounds: int, *, parameters: int = PARAMETERS, flood: bool = False) -> Run:
    """Runs one job of `rounds` rounds in an empty folder, under a flood of bad requests if that is wanted.

    Raises:
        BenchmarkError: the job failed or hung, or not all sites ended with the same model.
    """
    with ManySites(folder, "fast", sites, parameters, others=(ROGUE,) if flood else ()) as federation:
        server = psutil.Process(federation.server.pid)
        with Sampler({"server": Tree(server.pid)}) as sampler:
            async with agents(federation.site_folders) as logs, _flood(federation) as bad:
                connections = 0
                allowed = LEAST_SECONDS + SECONDS_PER_SITE_AND_ROUND * sites
                await _until("the sites to connect", partial(_all_connected, logs), allowed)
                job_id = await asyncio.to_thread(federation.submit, rounds)
                ends = time.monotonic() + allowed * rounds
                while not (job := await asyncio.to_thread(federation.job, job_id))["ended_at"]:
                    connections = max(connections, sum(c.status == "ESTABLISHED" for c in server.net_connections()))
                    if time.monotonic() > ends or federation.server.poll() is not None:
                        raise BenchmarkError(f"the job is {job['phase']} in round {job['round']}: {job['message']}")
                    await asyncio.sleep(POLL_SECONDS)
                if job["phase"] != "finished":
                    raise BenchmarkError(f"the job ended as {job['phase']}: {job['message']}")
                lines = [line for log in logs.values() for line in log.getvalue().splitlines()]
        lines += federation.server_log.splitlines()
        seconds = _read_rounds(federation, job_id, rounds)
        if flood and min(bad.values()) == 0:
            raise BenchmarkError(f"expected a flood of each kind, got {dict(bad)}")
        errors = [line for line in lines if ERROR.search(line)]
        return Run(sites, sampler.peak_bytes("server"), connections, seconds, errors)


@contextlib.asynccontextmanager
async def _flood(federation: ManySites):
    """Floods the server if the federation has a site for it; yields how often each kind of bad request was made."""
    if not federation.others:
        yield {}
        return
    kit = load_installation(federation.site_folder(ROGUE), role_prefix="site", now=time.time())
    with Flood(kit) as flood:
        yield flood.counts


def _all_connected(logs: dict[str, io.StringIO]) -> bool:
    return all("connected to" in log.getvalue() for log in logs.values())


async def _until(what: str, reached, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > ends:
            raise BenchmarkError(f"waited {seconds:.0f} s for {what}, in vain")
        await asyncio.sleep(POLL_SECONDS)


def _read_rounds(federation: Federation, job_id: str, rounds: int) -> list[float]:
    """Seconds of each round, after a look whether all sites took part in each and hold the same model after it."""
    rows, parts = federation.rounds(job_id)
    if len(rows) != rounds:
        raise BenchmarkError(f"expected {rounds} rounds, got {len(rows)}")
    return [max(part.applied_at for part in parts if part.round == row.round) - row.started_at for row in rows]


def report(few: Run, many: Run) -> dict[str, Any]:
    """The figures of both runs."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, "
        f"Python {platform.python_version()}",
        "sites": many.sites,
        "rounds": len(many.rounds_seconds),
        "server_peak_rss_bytes": many.peak_rss_bytes,
        "rss_per_site_bytes": (many.peak_rss_bytes - few.peak_rss_bytes) // (many.sites - few.sites),
        "round_seconds_median": statistics.median(many.rounds_seconds),
        "errors": len(few.errors) + len(many.errors),
        "connections": many.connections,
        "few": {"sites": few.sites, "server_peak_rss_bytes": few.peak_rss_bytes},
    }


def _in_new_folder(sites: int, options: argparse.Namespace) -> Run:
    folder = Path(tempfile.mkdtemp(prefix="fedhe-load-"))
    try:
        return asyncio.run(run(folder, sites, options.rounds, parameters=options.parameters, flood=options.flood))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--few", type=int, default=20, help="sites of the run that is compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parameters", type=int, default=PARAMETERS, help="values of the model")
    parser.add_argument("--flood", action="store_true", help="bad requests all the while")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args()
    if not 2 <= options.few < options.sites:
        parser.error(f"expected 2 <= few < sites, got {options.few} and {options.sites}")
    few, many = (_in_new_folder(sites, options) for sites in (options.few, options.sites))
    made = report(few, many)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=1))
    for line in [*few.errors, *many.errors][:20]:
        print(line)


if __name__ == "__main__":
    main()
