"""Nanoseconds per value of the compiled kernel on one core, and of the GPU engine on each device that torch sees.

All in turn in one process, the same chunks; medians over the turns. `encrypt` is coefficients to bytes and `decrypt`
bytes to coefficients, `whole` the same for a sum with c1 whole. `change` is a float32 change to bytes: rounded and
packed where it lies, on the host or on the device.

    python benchmarks/gpu_micro.py [--turns 9] [--threads 1] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.engine import Engine
from fedhe.he.fast_engine import FastEngine
from fedhe.he.gpu_engine import GpuEngine
from fedhe.he.gpu_kernel import pack_tensor, quantise_tensor
from fedhe.he.keys import SecretKey
from fedhe.he.pack import pack
from fedhe.he.params import DEFAULT_PARAMS as PARAMS
from fedhe.he.quantise import quantise
from fedhe.he.sums import add_chunks

SITES = 3
BITS = 16
PER_COEFFICIENT = PARAMS.fields_per_coefficient(BITS)
SHAPE = (PARAMS.CIPHERTEXTS_PER_CHUNK, PARAMS.poly_modulus_degree)
VALUES = SHAPE[0] * SHAPE[1] * PER_COEFFICIENT
CONTEXT = bytes(32)
LEAST_TURNS = 5


def steps_of(engine: Engine, fields: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is measured of an engine; what it decrypts is checked first."""
    coefficients = pack(fields, BITS, PER_COEFFICIENT).reshape(SHAPE)
    up = Expectation(ChunkKind.UPLOAD, engine.key_id, PARAMS.params_id, CONTEXT, 0)
    down = Expectation(ChunkKind.SUM, engine.key_id, PARAMS.params_id, CONTEXT, 0, sites=SITES)
    chunks = [engine.encrypt(coefficients, CONTEXT, 0) for _ in range(SITES)]
    seeded, whole = (add_chunks(chunks, PARAMS, up, max_forwarded=most) for most in (SITES, 0))
    for total in (seeded, whole):
        if not np.array_equal(engine.decrypt(total, down), SITES * coefficients):
            raise SystemExit("the decrypted sum is not the plain sum")
    return {
        "encrypt": lambda: engine.encrypt(coefficients, CONTEXT, 0),
        "decrypt": lambda: engine.decrypt(seeded, down),
        "whole": lambda: engine.decrypt(whole, down),
    }


def on_host(engine: FastEngine, change: np.ndarray, step: float, words: np.ndarray) -> Callable[[], bytes]:
    """A change on the host to bytes."""

    def run() -> bytes:
        packed = pack(quantise(change, 1.0, step, words), BITS, PER_COEFFICIENT)
        return engine.encrypt(packed.reshape(SHAPE), CONTEXT, 0)

    return run


def on_device(engine: GpuEngine, change: np.ndarray, step: float, words: np.ndarray) -> Callable[[], bytes]:
    """A change on the device to bytes."""
    there = torch.tensor(change, device=engine.device)

    def run() -> bytes:
        packed = pack_tensor(quantise_tensor(there, 1.0, step, words), BITS, PER_COEFFICIENT)
        return engine.encrypt_tensor(packed.view(SHAPE), CONTEXT, 0)

    return run


def measure(turns: int) -> dict[str, dict[str, float]]:
    """Medians by engine and step; the engines take turns."""
    rng = np.random.default_rng(0)
    limit = PARAMS.grid_max(BITS, SITES) // SITES
    change = rng.uniform(-1, 1, VALUES).astype(np.float32)
    words, step = rng.integers(0, 2**32, VALUES, dtype=np.uint32), 1 / limit
    fields = quantise(change, 1.0, step, words)
    key = SecretKey.generate(PARAMS)
    fast = FastEngine(PARAMS, key)
    measured = {"fast": steps_of(fast, fields) | {"change": on_host(fast, change, step, words)}}
    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    for name in devices:
        engine = GpuEngine(PARAMS, key, torch.device(name))
        measured[f"gpu on {name}"] = steps_of(engine, fields) | {"change": on_device(engine, change, step, words)}
    spent: dict[tuple[str, str], list[float]] = {}
    for turn in range(turns + 1):
        for name, steps in measured.items():
            for what, work in steps.items():
                start = time.perf_counter()
                work()  # ends with bytes or an array on the host, so nothing is left running on a device
                if turn > 0:  # the first one warms up
                    spent.setdefault((name, what), []).append((time.perf_counter() - start) / VALUES * 1e9)
    return {name: {what: statistics.median(spent[name, what]) for what in steps} for name, steps in measured.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help=f"at least {LEAST_TURNS}")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    turns = max(LEAST_TURNS, arguments.turns)
    torch.set_num_threads(arguments.threads)
    report = measure(turns)
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if arguments.json:
        print(json.dumps({"values": VALUES, "sites": SITES, "turns": turns, "gpus": names, "ns": report}, indent=1))
        return
    print(f"ns per value, {VALUES:,} values, sums of {SITES} sites, median of {turns}; GPUs: {names or 'none'}")
    print(f"{'':14}" + "".join(f"{what:>10}" for what in report["fast"]))
    for name, figures in report.items():
        print(f"{name:14}" + "".join(f"{figure:10.2f}" for figure in figures.values()))


if __name__ == "__main__":
    main()
