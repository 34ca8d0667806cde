"""Where SEAL's time goes: its own arithmetic, the way of bytes into and out of its Python binding, and the rest.

The binding saves by way of a file and compresses what it saves, which cannot be switched off; this tells what that
costs, and so what binds the SEAL engine. CPU time on one core, medians.

    python benchmarks/seal_parts.py [--turns 20] [--json]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS as PARAMS
from fedhe.he.seal_core import SealCore
from fedhe.he.seal_stream import SealStream

COUNT = 16  # ciphertexts of a full chunk
VALUES = COUNT * PARAMS.poly_modulus_degree * PARAMS.fields_per_coefficient(16)
BINDING = ("save", "load")


def measure(turns: int) -> dict[str, dict[str, float]]:
    """For encrypting and decrypting: nanoseconds per value in all, in the binding's bytes, and the rest."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    core = SealCore(PARAMS, SecretKey.generate(PARAMS))
    rng = np.random.default_rng(0)
    coefficients = rng.integers(-(1 << 40), 1 << 40, (COUNT, PARAMS.poly_modulus_degree))
    primes = np.array(PARAMS.primes).reshape(2, 1)
    c0, c1 = (rng.integers(0, primes, (COUNT, 2, PARAMS.poly_modulus_degree)).astype(np.uint32) for _ in range(2))
    return {
        "encrypt": _parts(lambda: core.encrypt(coefficients), turns),
        "decrypt": _parts(lambda: core.decrypt(c0, c1), turns),
    }


def _parts(step: Callable[[], object], turns: int) -> dict[str, float]:
    step()
    whole, inside = [], []
    for _ in range(turns):
        with _timed_binding() as spent:
            begin = time.process_time()
            step()
            whole.append(time.process_time() - begin)
        inside.append(sum(spent))
    total, binding = (1e9 * statistics.median(seconds) / VALUES for seconds in (whole, inside))
    return {"total_ns": total, "binding_ns": binding, "rest_ns": total - binding}


@contextmanager
def _timed_binding() -> Iterator[list[float]]:
    """Counts the seconds that objects take to and from bytes."""
    spent: list[float] = []
    kept = {name: getattr(SealStream, name) for name in BINDING}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            begin = time.process_time()
            try:
                return method(*arguments)
            finally:
                spent.append(time.process_time() - begin)

        return call

    for name, method in kept.items():
        setattr(SealStream, name, timed(method))
    try:
        yield spent
    finally:
        for name, method in kept.items():
            setattr(SealStream, name, method)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.turns)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for step, parts in found.items():
        share = parts["binding_ns"] / parts["total_ns"]
        print(f"{step}: {parts['total_ns']:.1f} ns a value, of which bytes in and out of the binding {share:.0%}")


if __name__ == "__main__":
    main()
