"""Nanoseconds and bytes per value of encrypting, summing and decrypting, beside the way NVFlare does it.

Both run in turn in one process on one core, the same number of values each; medians over the turns, and the ratio. The
peer's way: `tenseal.ckks_vector` with ring degree 8192, primes [60, 40, 40], scale 2^40; sites' vectors are added and
multiplied by one over their number. NVFlare also sends the context with each vector (`app_opt/he/decomposers.py`);
here it is sent once, which favours the peer.

    python benchmarks/he_micro.py [--turns 7] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import tenseal

from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.keys import SecretKey
from fedhe.he.pack import pack, unpack
from fedhe.he.params import DEFAULT_PARAMS as PARAMS
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks

SITES = 3
BITS = 16
PER_COEFFICIENT = PARAMS.fields_per_coefficient(BITS)
COEFFICIENTS = PARAMS.CIPHERTEXTS_PER_CHUNK * PARAMS.poly_modulus_degree
VALUES = COEFFICIENTS * PER_COEFFICIENT


def ours() -> dict[str, Callable[[], object]]:
    """One chunk through fedhe; the sum is checked against the plain one."""
    key = SecretKey.generate(PARAMS)
    engine, context = SealEngine(PARAMS, key), bytes(32)
    limit = PARAMS.grid_max(BITS, SITES) // SITES
    fields = [np.random.default_rng(site).integers(-limit, limit, VALUES) for site in range(SITES)]

    def encrypt(site: int = 0) -> bytes:
        packed = pack(fields[site], BITS, PER_COEFFICIENT)
        return engine.encrypt(packed.reshape(-1, PARAMS.poly_modulus_degree), context, 0)

    chunks = [encrypt(site) for site in range(SITES)]
    up = Expectation(ChunkKind.UPLOAD, engine.key_id, PARAMS.params_id, context, 0)
    down = Expectation(ChunkKind.SUM, engine.key_id, PARAMS.params_id, context, 0, sites=SITES)
    total = add_chunks(chunks, PARAMS, up)

    def decrypt() -> np.ndarray:
        return unpack(engine.decrypt(total, down).reshape(-1), BITS, PER_COEFFICIENT, VALUES)

    if not np.array_equal(decrypt(), sum(fields)):
        raise SystemExit("the decrypted sum is not the plain sum")
    return {
        "up": lambda: chunks[0],
        "down": lambda: total,
        "encrypt": encrypt,
        "decrypt": decrypt,
        "sum": lambda: add_chunks(chunks, PARAMS, up),
    }


def peer() -> dict[str, Callable[[], object]]:
    """The same number of values as CKKS vectors of one ciphertext each."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1)
    context.global_scale = 2**40
    public = context.serialize(save_secret_key=False)
    slots = 4096
    values = np.random.default_rng(0).normal(size=(VALUES // slots, slots)).tolist()

    def encrypt() -> list[bytes]:
        return [tenseal.ckks_vector(context, part).serialize() for part in values]

    sent = [encrypt() for _ in range(SITES)]

    def add() -> list[bytes]:
        sums = []
        for parts in zip(*sent, strict=True):
            total = tenseal.ckks_vector_from(context, parts[0])
            for other in parts[1:]:
                total += tenseal.ckks_vector_from(context, other)
            sums.append((total * (1 / SITES)).serialize())
        return sums

    total = add()
    return {
        "up": lambda: public + b"".join(sent[0]),
        "down": lambda: b"".join(total),
        "encrypt": encrypt,
        "decrypt": lambda: [tenseal.ckks_vector_from(context, part).decrypt() for part in total],
        "sum": add,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    engines = {"fedhe": ours(), "ckks_vector": peer()}
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.turns):
        for name, steps in engines.items():
            for step in ("encrypt", "decrypt", "sum"):
                start = time.perf_counter()
                steps[step]()
                spent.setdefault((name, step), []).append((time.perf_counter() - start) / VALUES * 1e9)
    report = {
        name: {
            "encrypt_ns": statistics.median(spent[name, "encrypt"]),
            "decrypt_ns": statistics.median(spent[name, "decrypt"]),
            "sum_ns_per_site": statistics.median(spent[name, "sum"]) / SITES,
            "bytes_up": len(steps["up"]()) / VALUES,
            "bytes_down": len(steps["down"]()) / VALUES,
        }
        for name, steps in engines.items()
    }
    if arguments.json:
        print(json.dumps({"values": VALUES, "sites": SITES, **report}, indent=1))
        return
    print(f"per value, {VALUES:,} values, {SITES} sites, median of {arguments.turns}")
    print(f"{'':18}{'fedhe':>12}{'ckks_vector':>14}{'ratio':>9}")
    for what, mine in report["fedhe"].items():
        theirs = report["ckks_vector"][what]
        print(f"{what:18}{mine:12.2f}{theirs:14.2f}{theirs / mine:9.1f}")


if __name__ == "__main__":
    main()
