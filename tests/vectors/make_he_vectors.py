"""Makes the golden vectors of the encryption (README.md). Run it only when a format's version changes."""

import hashlib
import json
from pathlib import Path

import numpy as np

from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks
from fedhe.model.layout import Layout, TensorSpec

FOLDER = Path(__file__).parent
CONTEXT, INDEX = hashlib.sha256(b"golden").digest(), 5


def coefficients(site: int) -> np.ndarray:
    places = np.arange(4096, dtype=np.int64)
    return ((-1) ** places * site * (places + 1) * 8_000_000_000).reshape(1, 4096)


def main() -> None:
    key = SecretKey.generate(DEFAULT_PARAMS)
    engine = SealEngine(DEFAULT_PARAMS, key)
    uploads = [engine.encrypt(coefficients(site), CONTEXT, INDEX) for site in (1, 2)]
    expect = Expectation(ChunkKind.UPLOAD, key.key_id, DEFAULT_PARAMS.params_id, CONTEXT, INDEX, 1)
    total = add_chunks(uploads, DEFAULT_PARAMS, expect)
    layout = Layout(
        (
            TensorSpec("conv.weight", (8, 1, 3, 3, 3), "float32", False, 16),
            TensorSpec("bn.running_var", (8,), "float32", True, 24),
            TensorSpec("temperature", (), "float16", False, 16),
        )
    )
    (FOLDER / "insecure_test_key.bin").write_bytes(key.to_bytes())
    for number, upload in enumerate(uploads, start=1):
        (FOLDER / f"upload_{number}.fhct").write_bytes(upload)
    (FOLDER / "sum.fhct").write_bytes(total)
    document = {
        "key_id": key.key_id.hex(),
        "ring_id": DEFAULT_PARAMS.ring_id.hex(),
        "params_id": DEFAULT_PARAMS.params_id.hex(),
        "params": DEFAULT_PARAMS.to_dict(),
        "coefficients_sha256": hashlib.sha256((coefficients(1) + coefficients(2)).astype("<i8").tobytes()).hexdigest(),
        "sum_sha256": hashlib.sha256(total).hexdigest(),
        "layout": json.loads(layout.to_json()),
        "layout_digest": layout.digest.hex(),
    }
    (FOLDER / "he_v1.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
