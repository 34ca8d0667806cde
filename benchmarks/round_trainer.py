"""A training process that takes no time: adds the same small noise to a model, block by block. Needs NumPy only.

Started by the site's agent in place of `fedhe.training.process`: it gets the path of a request as its last argument,
and leaves `model.safetensors` and `result.json` in the request's output folder. The noise is drawn once and used for
all blocks, so that the time of a round is that of the exchange.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # agents keep training processes from doing so by themselves
from round_model import model_shapes

BLOCK_VALUES = 1 << 20
INITIAL_SCALE = 0.1
CHANGE_SCALE = 0.01


def perform(request: dict[str, Any]) -> None:
    """Carries out one task."""
    values, out = request["overrides"], Path(request["output"])
    shapes = model_shapes(int(values["PARAMETERS"]))
    if request["task"] == "init":
        header = _header(shapes)
        with (out / "model.safetensors").open("wb") as target:
            target.write(header)
            _copy(None, target, sum(map(math.prod, shapes.values())), _noise(request, INITIAL_SCALE))
    elif request["task"] == "train":
        with Path(request["model_in"]).open("rb") as source, (out / "model.safetensors").open("wb") as target:
            target.write(_read_header(source))
            _copy(source, target, sum(map(math.prod, shapes.values())), _noise(request, CHANGE_SCALE))
    layout = [{"name": name, "shape": shape, "dtype": "float32", "statistic": False} for name, shape in shapes.items()]
    samples = int(values["SAMPLES"]) if request["task"] == "train" else 0
    (out / "result.json").write_text(json.dumps({"samples": samples, "seconds": 0.0, "layout": layout}))


def _noise(request: dict[str, Any], scale: float) -> np.ndarray:
    """One block of noise, decided by the job's seed, the round and, but for the first model, the site."""
    site = request["overrides"]["SAMPLES"] if request["task"] == "train" else ""
    seed = hashlib.sha256(f"{request['seed']} {request['round']} {site}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(seed[:8], "little")).standard_normal(BLOCK_VALUES, dtype=np.float32)
    noise *= np.float32(scale)
    return noise


def _copy(source: BinaryIO | None, target: BinaryIO, values: int, noise: np.ndarray) -> None:
    """Writes `values` float32 values: the source's, or zeros, plus the noise."""
    for begin in range(0, values, BLOCK_VALUES):
        block = noise[: min(BLOCK_VALUES, values - begin)]
        if source is not None:
            block = block + np.fromfile(source, dtype="<f4", count=block.size)
        target.write(block.data)


def _header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The head of a safetensors file: length of a JSON text, the text padded to 8 bytes."""
    entries, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(source: BinaryIO) -> bytes:
    length = source.read(8)
    return length + source.read(int.from_bytes(length, "little"))


if __name__ == "__main__":
    perform(json.loads(Path(sys.argv[1]).read_text()))
