"""Runs one job of a few rounds through a real federation, and says what each round cost, by the server's own record.

    python benchmarks/round_measure.py --engine seal --parameters 5700000 [--sites 3] [--rounds 3] [--keep DIR]

The first round warms up and the last one validates; neither counts. `--engine plain` leaves encryption out
(plain_client.py, plain_server.py).
"""

import argparse
import json
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import engine_names
from round_federation import PLAIN, BenchmarkError, Federation
from round_usage import Sampler, Tree

from fedhe.server import records

UNCOUNTED_ROUNDS = 2
SECONDS_PER_MILLION = 8.0  # a bound on a round's time for each million values and site, to end what hangs
LEAST_SECONDS = 120.0


@dataclass(frozen=True)
class Round:
    """One counted round.

    Attributes:
        seconds: from its start until the last site has applied the sum.
        exchange_seconds: of these, from the moment when the last site was ready; training is left out.
        upload_seconds: of these, until the last upload was complete.
        bytes_up: payload of one site, mean.
        bytes_down: payload of one site, mean.
        server_cpu_seconds: of the server and its workers.
        client_cpu_seconds: of one site's agent, mean.
    """

    seconds: float
    exchange_seconds: float
    upload_seconds: float
    bytes_up: float
    bytes_down: float
    server_cpu_seconds: float
    client_cpu_seconds: float


def measure(folder: Path, engine: str, parameters: int, sites: int, rounds: int) -> dict[str, Any]:
    """Runs `rounds` counted rounds in an empty folder; returns an entry of the report.

    Raises:
        BenchmarkError: the job failed, hung, or the sites ended with different models.
    """
    with Federation(folder, engine, sites, parameters) as federation:
        trees = {name: Tree(process.pid) for name, process in federation.agents.items()}
        if federation.server is not None:
            trees["server"] = Tree(federation.server.pid, shares=True)
        with Sampler(trees) as sampler:
            job_id = federation.submit(rounds + UNCOUNTED_ROUNDS)
            allowed = (rounds + UNCOUNTED_ROUNDS) * (LEAST_SECONDS + SECONDS_PER_MILLION * parameters / 1e6 * sites)
            federation.wait_for("the job to end", lambda: federation.job(job_id)["ended_at"] is not None, allowed)
            ended = federation.job(job_id)
            if ended["phase"] != "finished":
                raise BenchmarkError(f"the job ended as {ended['phase']}: {ended['message']}")
        measured = _read_rounds(federation, sampler, job_id)
        return _entry(federation, sampler, measured)


def _read_rounds(federation: Federation, sampler: Sampler, job_id: str) -> list[Round]:
    rows, parts = federation.rounds(job_id)
    # the first one warms up, the last one validates
    return [_round(row, [part for part in parts if part.round == row.round], sampler) for row in rows[1:-1]]


def _round(row: records.RoundRow, parts: list[records.ContributionRow], sampler: Sampler) -> Round:
    ready, end = max(part.ready_at for part in parts), max(part.applied_at for part in parts)
    return Round(
        seconds=end - row.started_at,
        exchange_seconds=end - ready,
        upload_seconds=max(part.uploaded_at for part in parts) - ready,
        bytes_up=statistics.mean(part.bytes_up for part in parts),
        bytes_down=statistics.mean(part.bytes_down for part in parts),
        server_cpu_seconds=sampler.cpu_between("server", row.started_at, end),
        client_cpu_seconds=statistics.mean(sampler.cpu_between(part.site, row.started_at, end) for part in parts),
    )


def _entry(federation: Federation, sampler: Sampler, rounds: list[Round]) -> dict[str, Any]:
    def median(name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in rounds))

    server, client = median("server_cpu_seconds"), median("client_cpu_seconds")
    return {
        "engine": federation.engine,
        "parameters": federation.parameters,
        "sites": federation.sites,
        "seconds": median("seconds"),
        "bytes_up": median("bytes_up"),
        "bytes_down": median("bytes_down"),
        "server_peak_rss": sampler.peak_bytes("server"),
        "client_peak_rss": max(sampler.peak_bytes(name) for name in federation.names),
        "cpu_seconds": server + federation.sites * client,
        "exchange_seconds": median("exchange_seconds"),
        "upload_seconds": median("upload_seconds"),
        "server_peak_pss": sampler.shared_bytes("server"),
        "server_processes_rss": sampler.trees["server"].peaks(),
        "server_cpu_seconds": server,
        "client_cpu_seconds": client,
        "rounds_seconds": [one.seconds for one in rounds],
    }


def main() -> None:
    """Command line; see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="seal", choices=[*engine_names(), PLAIN], help="as in the project file")
    parser.add_argument("--parameters", type=int, default=1_200_000)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="an empty folder that stays afterwards")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fedhe-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        entry = measure(folder, options.engine, options.parameters, options.sites, options.rounds)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
