"""The benchmarks are scripts, not a package: their folder is put on the path, as `python benchmarks/...` does."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(scope="session")
def benchmarks():
    return BENCHMARKS


@pytest.fixture
def entry():
    """Makes an entry of a report."""

    def make(engine, seconds, *, parameters=1_200_000, sites=3, **changes):
        return {
            "engine": engine,
            "parameters": parameters,
            "sites": sites,
            "seconds": seconds,
            "bytes_up": 3e6,
            "bytes_down": 6e6,
            "server_peak_rss": 300_000_000,
            "client_peak_rss": 200_000_000,
            "cpu_seconds": 2.0,
            "exchange_seconds": 1.0,
            "rounds_seconds": [seconds],
            **changes,
        }

    return make
