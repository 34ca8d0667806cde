"""The report of a benchmark run: its schema, how runs come together in it, and how it stands to the targets.

machine   what it ran on
micro     {engine: {encrypt_ns, decrypt_ns, sum_ns_per_site, check_ns_per_site, expand_ns_per_seed, bytes_up,
          bytes_down}}, per value
seal_parts  {encrypt, decrypt: {total_ns, binding_ns, rest_ns}}, per value
nvflare   micro without check and expand, and rounds: entries like those below
rounds    entries of the engines: {engine, parameters, sites, seconds, bytes_up, bytes_down, server_peak_rss,
          client_peak_rss, cpu_seconds, ...}; bytes of one site; seconds of one round, CPU seconds of all processes
plain     the same of float32 without encryption
failures  what did not end
"""

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from round_federation import PLAIN

_PEAKS = ("server_peak_rss", "server_peak_pss", "client_peak_rss")
_KEY = ("engine", "parameters", "sites")
MEGABYTE = 1e6


def empty_report(now: float) -> dict[str, Any]:
    """A report before anything was measured; `now` in seconds since 1970."""
    return {
        "date": now,
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "load_before": os.getloadavg()[0],
        },
        "micro": {},
        "seal_parts": {},
        "nvflare": {"rounds": []},
        "rounds": [],
        "plain": [],
        "failures": [],
    }


def add_run(report: dict[str, Any], entry: dict[str, Any]) -> None:
    """Takes one federation's entry into the report, together with those of earlier turns.

    The rounds of all turns give the median of seconds; of other numbers it is the median of the turns, of memory the
    largest.
    """
    section = _section(report, entry["engine"])
    place = next((number for number, one in enumerate(section) if _same(one, entry)), None)
    turns = [entry]
    if place is not None:
        turns = [*section.pop(place)["turns"], entry]
    numbers = [name for name, value in entry.items() if name not in _KEY and isinstance(value, int | float)]
    merged = {name: entry[name] for name in _KEY}
    for name in numbers:
        values = [turn[name] for turn in turns]
        merged[name] = max(values) if name in _PEAKS else statistics.median(values)
    merged["seconds"] = statistics.median(seconds for turn in turns for seconds in turn["rounds_seconds"])
    section.append(merged | {"turns": turns})


def find(report: dict[str, Any], engine: str, parameters: int, sites: int) -> dict[str, Any] | None:
    """The entry of an engine, PLAIN or one of NVFlare's, if it was measured."""
    wanted = {"engine": engine, "parameters": parameters, "sites": sites}
    return next((one for one in _section(report, engine) if _same(one, wanted)), None)


def _section(report: dict[str, Any], engine: str) -> list[dict[str, Any]]:
    if engine.startswith("nvflare-"):
        return report["nvflare"]["rounds"]
    return report["plain"] if engine == PLAIN else report["rounds"]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in _KEY)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


# ---- targets ----


@dataclass(frozen=True)
class Target:
    """One number to reach.

    Attributes:
        what: says what is compared.
        unit: of the number: "x" for a ratio.
        at_least: whether more is better.
        bounds: by engine.
        value: finds the number of an engine in a report; None if it was not measured.
    """

    what: str
    unit: str
    at_least: bool
    bounds: dict[str, float]
    value: Callable[[dict[str, Any], str], float | None]

    def reached(self, engine: str, value: float) -> bool:
        """Whether the engine's number is good enough."""
        bound = self.bounds[engine]
        return value >= bound if self.at_least else value <= bound


def _micro(name: str) -> Callable[[dict[str, Any], str], float | None]:
    return lambda report, engine: report["micro"].get(engine, {}).get(name)


def _bytes_per_value(report: dict[str, Any], engine: str) -> float | None:
    entry = report["micro"].get(engine)
    return None if entry is None else entry["bytes_up"] + entry["bytes_down"]


def _faster_than_peer(name: str) -> Callable[[dict[str, Any], str], float | None]:
    def value(report: dict[str, Any], engine: str) -> float | None:
        ours, theirs = report["micro"].get(engine, {}).get(name), report["nvflare"].get(name)
        return None if ours is None or theirs is None else theirs / ours

    return value


def _round_ratio(
    upper: str | None, lower: str | None, parameters: int, name: str = "seconds"
) -> Callable[[dict[str, Any], str], float | None]:
    """Ratio of two rounds' numbers at three sites; None stands for the engine itself."""

    def value(report: dict[str, Any], engine: str) -> float | None:
        above, below = find(report, upper or engine, parameters, 3), find(report, lower or engine, parameters, 3)
        return None if above is None or below is None else above[name] / below[name]

    return value


def _server_memory(parameters: int, sites: int) -> Callable[[dict[str, Any], str], float | None]:
    def value(report: dict[str, Any], engine: str) -> float | None:
        entry = find(report, engine, parameters, sites)
        return None if entry is None else entry.get("server_peak_pss", entry["server_peak_rss"]) / MEGABYTE

    return value


def _client_memory(parameters: int) -> Callable[[dict[str, Any], str], float | None]:
    def value(report: dict[str, Any], engine: str) -> float | None:
        ours, plain = find(report, engine, parameters, 3), find(report, PLAIN, parameters, 3)
        if ours is None or plain is None:
            return None
        return float(ours["client_peak_rss"] - plain["client_peak_rss"]) / MEGABYTE

    return value


def _both(seal: float, fast: float) -> dict[str, float]:
    return {"seal": seal, "fast": fast}


TARGETS = (
    Target("bytes up + down per value", "", False, _both(8.1, 5.6), _bytes_per_value),
    Target("encrypt + serialise against NVFlare's way", "x", True, _both(8, 80), _faster_than_peer("encrypt_ns")),
    Target("load + decrypt against NVFlare's way", "x", True, _both(4, 25), _faster_than_peer("decrypt_ns")),
    Target("server per value and site", "ns", False, _both(25, 3), _micro("sum_ns_per_site")),
    Target("encrypted round / plain round, 25 M", "x", False, _both(4, 1.5), _round_ratio(None, PLAIN, 25_000_000)),
    Target(
        "NVFlare's mended HE round / encrypted round, 5.7 M", "x", True, _both(8, 20),
        _round_ratio("nvflare-he-mended", None, 5_700_000),
    ),
    Target(
        "encrypted round / NVFlare's plain round, 25 M", "x", False, _both(1.1, 0.5),
        _round_ratio(None, "nvflare-plain", 25_000_000),
    ),
    Target("server's peak memory, 100 M, 3 sites", "MB", False, _both(400, 400), _server_memory(100_000_000, 3)),
    Target("server's peak memory, 1.2 M, 30 sites", "MB", False, _both(400, 400), _server_memory(1_200_000, 30)),
    Target("client's peak memory above plain, 100 M", "MB", False, _both(300, 300), _client_memory(100_000_000)),
)  # fmt: skip
