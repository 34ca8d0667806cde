"""Plain float32 FedAvg through the real server, as the floor that encryption is measured against. Benchmarks only.

    python benchmarks/plain_server.py start --home DIR

The check of a chunk's ciphertexts and the sum are replaced by those for float32; everything else stays: TLS, permits,
digests, blobs, database, and the thread in which the fast engine's ciphertexts are added as well.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fedhe.server import aggregator, summing, transfers


def sum_floats(task: summing.SumTask, _index: int, read: Callable[[str], bytes], _expand: object) -> bytes:
    """The sum of one chunk of all sites, float32."""
    total: np.ndarray | None = None
    for site in task.sites:
        values = np.frombuffer(read(site), dtype="<f4")
        if total is None:
            total = values.copy()
        else:
            total += values
    return b"" if total is None else total.tobytes()


def _check_floats(data: bytes, **_: Any) -> None:
    if len(data) % 4:
        raise ValueError(f"expected float32 values, got {len(data)} bytes")


def main() -> None:
    """Runs the server."""
    transfers.read_chunk = _check_floats
    aggregator.sum_chunk = sum_floats
    from fedhe.cli.server import main as serve  # noqa: PLC0415 - what is replaced must be so before

    sys.argv[0] = "fedhe-server"
    serve()


if __name__ == "__main__":
    main()
