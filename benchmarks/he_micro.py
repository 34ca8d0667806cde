"""Nanoseconds and bytes per value of encrypting, summing and decrypting, by each engine and by NVFlare's way.

All take turns on one core, on a model of the same tensors, three sites; medians over the turns, and ratios. Times are
CPU times, which other work on the computer disturbs least. NVFlare's way is he_micro_peer.py, a process of its own, in
NVFlare's environment where there is one, else in this one, which has the same library.

    python benchmarks/he_micro.py [--turns 5] [--values 2400000] [--engines seal ...] [--peer-python FILE] [--json]
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from engines import engine_names, make_engine
from he_micro_peer import SITES, WEIGHTS, timed
from round_model import model_shapes

from fedhe.client.note import Note
from fedhe.client.round_codec import UpdateEncoder, agree_on_grid
from fedhe.he.ciphertext import ChunkKind, Expectation, read_chunk
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS as PARAMS
from fedhe.he.plan import decode_chunk, plan_update
from fedhe.he.streams import expand_seed
from fedhe.he.sums import add_chunks
from fedhe.model.flatten import max_changes
from fedhe.model.layout import Layout, TensorSpec

STEPS = ("encrypt", "decrypt", "sum", "check", "expand")
PEER_STEPS = STEPS[:3]
PEER = "nvflare"
CONTEXT = bytes(32)


class Ours:
    """One engine's way through a whole update, by the functions that client and server call."""

    def __init__(self, engine: str, values: int) -> None:
        shapes = model_shapes(values)
        layout = Layout(tuple(TensorSpec(name, shape, "float32", False, 16) for name, shape in shapes.items()))
        self.values, self.plan = values, plan_update(layout, PARAMS)
        self.engine = make_engine(engine, PARAMS, SecretKey.generate(PARAMS))
        rng = np.random.default_rng(0)
        changes = [rng.standard_normal(values, dtype=np.float32) * np.float32(0.01) for _ in range(SITES)]
        notes = {
            f"site{number}": Note(int(WEIGHTS[number]), max_changes(change, layout), {}, None)
            for number, change in enumerate(changes)
        }
        grid = agree_on_grid(notes, layout, PARAMS)
        self.encoders = [
            UpdateEncoder(self.plan, grid, change, grid.weights[site], seed=0, site=site, round=1)
            for site, change in zip(notes, changes, strict=True)
        ]
        self.sent = [self.encrypt(site) for site in range(SITES)]
        self.down = self.sum()
        self._check_sum()

    def encrypt(self, site: int = 0) -> list[bytes]:
        """A site's update: quantised, packed, encrypted, written."""
        return [
            self.engine.encrypt(self.encoders[site].coefficients(chunk), CONTEXT, chunk)
            for chunk in range(self.plan.chunks)
        ]

    def check(self) -> None:
        """What the server does when a chunk arrives."""
        for chunk, data in enumerate(self.sent[0]):
            read_chunk(data, expect=self._expect(ChunkKind.UPLOAD, chunk), params=PARAMS)

    def expand(self) -> None:
        """What one more seed in a sum costs whoever expands it; SEAL's sums carry none."""
        for chunk in range(self.plan.chunks):
            count = self.plan.ciphertexts_in(chunk)
            expand_seed(CONTEXT, count, PARAMS)

    def sum(self) -> list[bytes]:
        """What the server does with three updates of a round."""
        return [
            add_chunks(parts, PARAMS, self._expect(ChunkKind.UPLOAD, chunk))
            for chunk, parts in enumerate(zip(*self.sent, strict=True))
        ]

    def decrypt(self) -> None:
        """A site's way back: read, decrypted, unpacked; each chunk is given up for the next one, as a site does."""
        for _ in self.decrypted():
            pass

    def decrypted(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The summed fields with their places."""
        for chunk, data in enumerate(self.down):
            coefficients = self.engine.decrypt(data, self._expect(ChunkKind.SUM, chunk, SITES))
            yield from decode_chunk(self.plan, chunk, coefficients)

    def sizes(self) -> dict[str, float]:
        """Bytes per value, up and down."""
        up, down = sum(map(len, self.sent[0])), sum(map(len, self.down))
        return {"bytes_up": up / self.values, "bytes_down": down / self.values}

    def _expect(self, kind: ChunkKind, chunk: int, sites: int | None = None) -> Expectation:
        count = self.plan.ciphertexts_in(chunk)
        return Expectation(kind, self.engine.key_id, PARAMS.params_id, CONTEXT, chunk, count, sites)

    def _check_sum(self) -> None:
        plain = np.zeros(self.values, dtype=np.int64)
        for encoder in self.encoders:
            fields = np.zeros_like(plain)
            for chunk in range(self.plan.chunks):
                encoder.coefficients(chunk, fields)
            plain += fields
        if not all(np.array_equal(fields, plain[part]) for part, fields in self.decrypted()):
            raise SystemExit("the decrypted sum is not the plain sum")


class PeerProcess:
    """NVFlare's way, asked step by step."""

    def __init__(self, python: str, values: int) -> None:
        sizes = [str(math.prod(shape)) for shape in model_shapes(values).values()]
        script = Path(__file__).with_name("he_micro_peer.py")
        self._process = subprocess.Popen(
            [python, str(script), *sizes],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, what: str) -> dict[str, float]:
        """Has it do one step."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("it was started with pipes")
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # tenseal prints warnings, too
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"NVFlare's way ended with {self._process.wait()}")

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def measure(engines: Sequence[str], values: int, turns: int, python: str = sys.executable) -> dict[str, Any]:
    """Takes turns; returns an entry for each engine, and one for NVFlare's way."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by the peer: one core for all
    ours = {name: Ours(name, values) for name in engines}
    peer = PeerProcess(python, values)
    spent: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(turns):
            for step in STEPS:
                for name, one in ours.items():
                    spent.setdefault((name, step), []).append(timed(getattr(one, step), values)["ns_per_value"])
                if step in PEER_STEPS:
                    spent.setdefault((PEER, step), []).append(peer.ask(step)["ns_per_value"])
        sizes = {name: one.sizes() for name, one in ours.items()} | {PEER: peer.ask("bytes")}
    finally:
        peer.close()
    return {name: _entry({step: spent[name, step] for step in STEPS if (name, step) in spent}) | size
            for name, size in sizes.items()}  # fmt: skip


def _entry(spent: dict[str, list[float]]) -> dict[str, float]:
    entry = {
        "encrypt_ns": statistics.median(spent["encrypt"]),
        "decrypt_ns": statistics.median(spent["decrypt"]),
        "sum_ns_per_site": statistics.median(spent["sum"]) / SITES,
    }
    names = {"check": "check_ns_per_site", "expand": "expand_ns_per_seed"}
    return entry | {name: statistics.median(spent[step]) for step, name in names.items() if step in spent}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--values", type=int, default=2_400_000)
    parser.add_argument("--engines", nargs="+", default=engine_names())
    parser.add_argument("--peer-python", default=sys.executable, help="Python of an environment with NVFlare's tenseal")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.engines, options.values, options.turns, options.peer_python)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"per value, {options.values:,} values, {SITES} sites, one core, median of {options.turns}")
    print(f"{'':18}" + "".join(f"{name:>12}" for name in report) + "".join(f"{'x ' + n:>10}" for n in options.engines))
    for what, theirs in report[PEER].items():
        row = "".join(f"{entry[what]:12.2f}" for entry in report.values())
        print(f"{what:18}{row}" + "".join(f"{theirs / report[name][what]:10.1f}" for name in options.engines))
    for what in sorted(set(report[options.engines[0]]) - set(report[PEER])):
        print(f"{what:18}" + "".join(f"{report[name][what]:12.2f}" for name in options.engines))


if __name__ == "__main__":
    main()
