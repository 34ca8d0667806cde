"""Writes docs/benchmarks.md from a report: tables, ratios against targets, charts, and how it was measured."""

from datetime import UTC, datetime
from typing import Any

from bench_charts import CHARTS, NAMES
from bench_report import MEGABYTE, TARGETS, find
from round_federation import PLAIN

_BINDS_AT = 25_000_000
_METHOD = """\
## How it is measured

`make bench` does all of it in one go; `make bench-quick` takes three minutes. Contenders take turns, so that what else
the computer does meets all of them. The programs are the real ones: a server, an agent for each site, a job from the
admin's command, TLS between them, all on one computer. Training is replaced by a process that adds noise to the model.

- **round**: from its start to the moment when the last site has applied the sum, by the server's record; the start of
  the training process is part of it. **exchange**: from the moment when the last site was ready.
- **bytes**: payload of one site in a round. NVFlare's are those of its TCP connections.
- **memory**: the sum of the peaks (VmHWM) of a program's processes, over the whole job. The server's workers share its
  libraries' pages, which that counts again in each; the first number counts them once (PSS, sampled).
- **CPU**: of the server, its workers and all agents in a round; training processes are left out.
- **plain**: float32 values through the same programs, with encryption, sums and checks replaced by those for float32 in
  the benchmark's own launchers. The product has no such mode.
- **NVFlare**: release 2.9.0, its own provisioning and programs, three clients. *mended*: one debug line that formats
  every payload is changed, which makes its encrypted rounds twice as fast; the fairer peer.
- **steps**: CPU time on one core, three sites, on a model of 20 tensors, by the functions that client and server call.
  NVFlare's way is one CKKS vector a tensor (ring degree 8192, primes 60, 40, 40, scale 2^40), each sent with its
  context. Medians.
"""


def page(report: dict[str, Any]) -> str:
    """The whole page as Markdown."""
    machine = report["machine"]
    day = datetime.fromtimestamp(report["date"], tz=UTC).strftime("%Y-%m-%d")
    memory = machine["memory_bytes"] / 2**30
    head = (
        "# Benchmarks\n\nWhat encryption costs, beside the same rounds without it and beside NVFlare. Written by "
        f"`make bench` on {day}: {machine['cpu']}, {machine['cores']} cores, {memory:.0f} GiB, {machine['system']}, "
        f"Python {machine['python']}; load before it began {machine['load_before']:.1f}.\n"
    )
    parts = [head, _targets(report), _binds(report)]
    parts += [_rounds(report), _sites(report), _steps(report), _failures(report), _METHOD]
    return "\n".join(part for part in parts if part)


def _targets(report: dict[str, Any]) -> str:
    engines = list(report["micro"]) or list(dict.fromkeys(one["engine"] for one in report["rounds"]))
    rows = []
    for target in TARGETS:
        cells = []
        for engine in engines:
            value = target.value(report, engine)
            bound = target.bounds.get(engine)
            goal = "" if bound is None else f"{'at least' if target.at_least else 'at most'} {bound:g} {target.unit}"
            measured = "not measured" if value is None else f"{_number(value)} {target.unit}".strip()
            missed = value is not None and bound is not None and not target.reached(engine, value)
            cells += [goal.strip(), measured + (" (missed)" if missed else "")]
        rows.append([target.what, *cells])
    header = ["", *(cell for engine in engines for cell in (f"{engine}: target", f"{engine}: measured"))]
    return "## Targets\n\n" + _table(header, rows)


def _binds(report: dict[str, Any]) -> str:
    """Why the missed targets are missed, as far as the numbers tell."""
    lines = []
    if parts := report.get("seal_parts"):
        encrypt, decrypt = parts["encrypt"], parts["decrypt"]
        lines.append(
            f"- **SEAL's steps**: {encrypt['binding_ns'] / encrypt['total_ns']:.0%} of encrypting and "
            f"{decrypt['binding_ns'] / decrypt['total_ns']:.0%} of decrypting is the way of bytes in and out of "
            "SEAL's Python binding, which saves by way of a file and compresses what it saves "
            "(`benchmarks/seal_parts.py`); "
            f"the rest takes {encrypt['rest_ns']:.0f} and {decrypt['rest_ns']:.0f} ns a value. "
            "The server's sum passes through the same."
        )
    fast, plain = (find(report, name, _BINDS_AT, 3) for name in ("fast", PLAIN))
    if fast is not None and plain is not None and "fast" in report["micro"]:
        steps, cores = report["micro"]["fast"], report["machine"]["cores"]
        own = (steps["encrypt_ns"] + steps["decrypt_ns"]) * _BINDS_AT / 1e9
        lines.append(
            f"- **Rounds of the fast engine**: with {_millions(_BINDS_AT)} parameters a client takes "
            f"{fast['client_cpu_seconds']:.1f} s of CPU in a round, {own:.2f} s of it to encrypt and decrypt; "
            f"the plain round's takes {plain['client_cpu_seconds']:.1f} s. What is left is common to both: gRPC, "
            "TLS, digests, models and chunks on the disk. The server and three clients take "
            f"{fast['cpu_seconds']:.1f} s of the {cores} cores together, so a round takes "
            f"{fast['cpu_seconds'] / cores:.1f} s at least on this computer; on computers of their own they wait "
            "for each other less."
        )
    return "## What binds\n\n" + "\n".join(lines) + "\n" if lines else ""


def _rounds(report: dict[str, Any]) -> str:
    measured = [*report["rounds"], *report["plain"], *report["nvflare"]["rounds"]]
    entries = sorted(
        (one for one in measured if one["sites"] == 3), key=lambda one: (one["parameters"], _place(one["engine"]))
    )
    if not entries:
        return ""
    return (
        "## Rounds of three sites\n\n"
        + _table(_ROUND_HEADER, [[_millions(one["parameters"]), *_round_cells(report, one)] for one in entries])
        + "\n"
        + "\n\n".join(f"![{title}](images/{file})" for file, title in CHARTS.items())
        + "\n"
    )


def _sites(report: dict[str, Any]) -> str:
    measured = [*report["rounds"], *report["plain"]]
    least = min((one["parameters"] for one in measured), default=0)
    entries = [one for one in measured if one["parameters"] == least]
    if len({one["sites"] for one in entries}) < 2:
        return ""
    entries.sort(key=lambda one: (one["sites"], _place(one["engine"])))
    header = ["sites", *_ROUND_HEADER[1:]]
    rows = [[str(one["sites"]), *_round_cells(report, one)] for one in entries]
    return f"## More sites, {_millions(least)} parameters\n\n" + _table(header, rows)


_ROUND_HEADER = [
    "parameters", "", "round, s", "against plain", "exchange, s", "bytes per value, up + down", "server memory, MB",
    "client memory, MB", "CPU, s",
]  # fmt: skip


def _round_cells(report: dict[str, Any], one: dict[str, Any]) -> list[str]:
    plain = find(report, PLAIN, one["parameters"], one["sites"])
    up, down = one["bytes_up"] / one["parameters"], one["bytes_down"] / one["parameters"]
    return [
        NAMES.get(one["engine"], one["engine"]),
        _number(one["seconds"]),
        "" if plain is None else f"{one['seconds'] / plain['seconds']:.2f} x",
        _number(one["exchange_seconds"]) if "exchange_seconds" in one else "",
        f"{up:.2f} + {down:.2f}",
        _memory(one),
        f"{one['client_peak_rss'] / MEGABYTE:.0f}",
        _number(one["cpu_seconds"]),
    ]


def _memory(one: dict[str, Any]) -> str:
    whole = f"{one['server_peak_rss'] / MEGABYTE:.0f}"
    return f"{one['server_peak_pss'] / MEGABYTE:.0f} ({whole})" if "server_peak_pss" in one else whole


def _steps(report: dict[str, Any]) -> str:
    if not report["micro"]:
        return ""
    names = {
        "encrypt_ns": "quantise, pack, encrypt, serialise, ns",
        "decrypt_ns": "load, decrypt, unpack, ns",
        "sum_ns_per_site": "server: load, add, serialise, ns per site",
        "check_ns_per_site": "server: check at arrival, ns per site",
        "expand_ns_per_seed": "expand one seed that a sum carries, ns",
        "bytes_up": "bytes up",
        "bytes_down": "bytes down",
    }
    engines = report["micro"]
    rows = []
    for key, what in names.items():
        theirs = report["nvflare"].get(key)
        cells = [what]
        for entry in engines.values():
            ratio = f" ({theirs / entry[key]:.1f} x)" if theirs else ""
            cells.append(f"{entry[key]:.2f}{ratio}")
        rows.append([*cells, "" if theirs is None else f"{theirs:.2f}"])
    text = "## Steps, per value, on one core\n\nIn brackets: how many times less than NVFlare.\n\n"
    return text + _table(["", *engines, "NVFlare"], rows)


def _failures(report: dict[str, Any]) -> str:
    lines = [
        f"- {NAMES.get(one['engine'], one['engine'])}, {_millions(one['parameters'])} parameters, {one['sites']} sites"
        for one in report["failures"]
    ]
    return "## What did not end\n\n" + "\n".join(lines) + "\n" if lines else ""


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _place(engine: str) -> int:
    known = list(NAMES)
    return known.index(engine) if engine in known else -1


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:g} M"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
