"""A program that does what the training process does, in 0.2 s; the site's `environment` decides how it behaves."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def tell(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def perform(request):
    """The task itself."""
    wish, out = request["overrides"], Path(request["output"])
    if "COUNT" in wish:
        with Path(wish["COUNT"]).open("a") as file:
            file.write(f"{request['task']} {request['round']}\n")
    channels, size = int(wish.get("CHANNELS", 3)), int(wish.get("SIZE", 40))
    shapes = {"net.weight": (channels, size), "net.bias": (channels,), "bn.running_mean": (channels,), "scale": ()}
    seed = hashlib.sha256(f"{request['seed']} {request['round']} {wish.get('DATA_ROOT', '')}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    if request["task"] == "init":
        first = np.random.default_rng(request["seed"])
        tensors = {name: first.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    else:
        tensors = load_file(request["model_in"])
        tensors = {name: tensors.get(name, np.zeros(shapes[name], "f4")) for name in shapes}
    if request["task"] == "train":
        for name, shape in shapes.items():
            tensors[name] = np.resize(tensors[name], shape) + rng.normal(scale=0.01, size=shape).astype("f4")
        if wish.get("NAN"):
            tensors["net.bias"][1] = np.nan
    if request["task"] != "validate":
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, out / "model.safetensors")
    layout = [
        {"name": name, "shape": list(np.shape(tensor)), "dtype": "float32", "statistic": name.startswith("bn")}
        for name, tensor in tensors.items()
    ]
    result = {
        "samples": int(wish.get("SAMPLES", 10)) if request["task"] == "train" else 0,
        "metrics": {"val_mean_dice": 0.5 + 0.01 * request["round"]} if request["task"] != "init" else {},
        "main_metric": "val_mean_dice" if request["task"] != "init" else None,
        "train_loss": 0.25,
        "seconds": 0.1,
        "layout": layout,
    }
    (out / "result.json").write_text(json.dumps(result))


def behave(request):
    """What only a process can do: print, sleep, fail, die."""
    wish = request["overrides"]
    if wish.get("SPY"):
        code = (Path(request["mmar"]) / "BYOC" / "net.py").read_text()
        spied = {"environment": dict(os.environ), "cwd": str(Path.cwd()), "request": request, "code": code}
        Path(wish["SPY"]).write_text(json.dumps(spied))
    progress = {"event": "progress", "activity": "training", "fraction": 0.5, "epoch": 1, "epochs": 2, "loss": 0.25}
    tell(json.dumps(progress))
    tell("chatter of job code")
    tell("x" * 100_000)
    if wish.get("SLEEP") and request["task"] == "train":
        Path(wish["SLEEP"]).write_text(str(os.getpid()))
        time.sleep(600)
    if wish.get("SLOW") and request["task"] == wish.get("SLOW_TASK", "train"):
        time.sleep(float(wish["SLOW"]))
    if wish.get("FAIL") and request["task"] == "train":
        sys.stderr.write("reading patient 17\n")
        sys.stderr.write(f"error: data folder is empty: expected images below {wish['FAIL']}\n")
        sys.exit(9)
    if wish.get("KILLED_ONCE") and not Path(wish["KILLED_ONCE"]).exists():
        Path(wish["KILLED_ONCE"]).write_text("")
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    behave(asked)
    perform(asked)
