"""NVFlare's way with ciphertexts, step by step, as a process of its own in an environment of its own.

What NVFlare 2.9 does: one `ckks_vector` for each tensor (`app_opt/he/model_encryptor.py`), ring degree 8192, primes
[60, 40, 40], scale 2^40; each vector travels with its context (`decomposers.py`); the server loads both, adds the
sites' vectors, divides by the total weight, adds the global model, which is encrypted, too, and serialises; the client
decrypts to a list and makes an array of it. Needs tenseal and NumPy only.

    python benchmarks/he_micro_peer.py SIZES...      then one step's name a line on standard input

Answers each line with one JSON line: `{"ns_per_value": CPU time, "wall_ns_per_value": ...}`; `bytes` gives sizes.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import tenseal

SITES = 3
WEIGHTS = (10.0, 20.0, 30.0)


class Peer:
    """Three sites and a server with one model between them.

    Args:
        sizes: values of each tensor.
    """

    def __init__(self, sizes: list[int]) -> None:
        made = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=8192,
            coeff_mod_bit_sizes=[60, 40, 40],
            encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
            n_threads=1,
        )
        made.generate_relin_keys()
        made.global_scale = 2**40
        # What provisioning gives to a client: with the secret key, without rotation keys.
        self.client = tenseal.context_from(made.serialize(save_secret_key=True, save_galois_keys=False))
        rng = np.random.default_rng(0)
        self.values = sum(sizes)
        self.changes = [
            [rng.standard_normal(size, dtype=np.float32) * np.float32(0.01) for size in sizes] for _ in range(SITES)
        ]
        self.sent = [self.encrypt(site) for site in range(SITES)]
        self.model: list[tenseal.CKKSVector] = [1.0] * len(sizes)  # so that the first sum becomes the encrypted model
        self.down = self.sum()
        self.check()

    def encrypt(self, site: int = 0) -> list[tuple[bytes, bytes]]:
        """A site's update: values times steps, encoded, encrypted, serialised with its context."""
        vectors = [
            tenseal.ckks_vector(self.client, change * np.float64(WEIGHTS[site])) for change in self.changes[site]
        ]
        return [(vector.serialize(), vector.context().serialize()) for vector in vectors]

    def sum(self) -> list[bytes]:
        """What the server does with three updates of a round."""
        totals = list(map(_load, self.sent[0]))
        for update in self.sent[1:]:
            totals = [total + _load(one) for total, one in zip(totals, update, strict=True)]
        means = [total * (1.0 / sum(WEIGHTS)) for total in totals]
        models = [mean + before for mean, before in zip(means, self.model, strict=True)]
        if isinstance(self.model[0], float):
            self.model = means
        return [model.serialize() for model in models]

    def decrypt(self) -> None:
        """What a client does with the new model; each tensor is given up for the next one."""
        for _ in self.decrypted():
            pass

    def decrypted(self) -> Iterator[np.ndarray]:
        """The model's tensors."""
        key = self.client.secret_key()
        for data in self.down:
            yield np.array(tenseal.ckks_vector_from(self.client, data).decrypt(secret_key=key))

    def check(self) -> None:
        """Stops if the sum is not what it must be."""
        for number, got in enumerate(self.decrypted()):
            mean = sum(w * part[number].astype(np.float64) for w, part in zip(WEIGHTS, self.changes, strict=True))
            if np.abs(got - (1.0 + mean / sum(WEIGHTS))).max() > 1e-4:
                raise SystemExit("the peer's decrypted sum is not the plain one")

    def sizes(self) -> dict[str, float]:
        """Bytes per value, up and down, contexts included."""
        up = sum(len(data) + len(context) for data, context in self.sent[0])
        return {"bytes_up": up / self.values, "bytes_down": sum(map(len, self.down)) / self.values}


def _load(serialised: tuple[bytes, bytes]) -> tenseal.CKKSVector:
    data, context = serialised
    return tenseal.ckks_vector_from(tenseal.context_from(context), data)


def timed(step: Callable[[], object], values: int) -> dict[str, float]:
    """CPU and wall time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"ns_per_value": 1e9 * cpu / values, "wall_ns_per_value": 1e9 * wall / values}


def main() -> None:
    """Answers one line after the other."""
    peer = Peer([int(size) for size in sys.argv[1:]])
    steps = {"encrypt": peer.encrypt, "decrypt": peer.decrypt, "sum": peer.sum}
    for line in sys.stdin:
        name = line.strip()
        answer = peer.sizes() if name == "bytes" else timed(steps[name], peer.values)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
