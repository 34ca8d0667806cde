"""A federation in one process: the job's own training at every site, and two ways to average, float32 and fedhe's.

Training is `fedhe.training.tasks.run_task`, what a site's training process runs. The average of fedhe is the clients'
and the server's own code, chunk by chunk: round, pack, encrypt, add, decrypt, unpack, apply. Only transport, notes and
signatures are left out, which carry bytes and change none.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fedhe.client.note import Note
from fedhe.client.round_codec import UpdateEncoder, agree_on_grid, apply_chunk
from fedhe.config.document import load_document
from fedhe.config.federation import FederationConfig, federation_config
from fedhe.config.job_archive import pack_job
from fedhe.config.trainer import MODEL_FILE, RESULT_FILE, TrainRequest, TrainResult, read_result, write_result
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.fast_engine import FastEngine
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS, CkksParams
from fedhe.he.plan import plan_update
from fedhe.he.sums import add_chunks
from fedhe.model.flatten import flatten, max_changes, unflatten
from fedhe.model.layout import Layout, TensorSpec
from fedhe.training.tasks import run_task

SITES = ("site-1", "site-2", "site-3")
FLOAT = 0
"""Stands for float32 FedAvg in the place of a number of field bits."""
STATE_FILE = "local_state.safetensors"

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Study:
    """What all runs have in common.

    Attributes:
        job: the job's folder.
        data: a Decathlon folder; each site takes its share.
        work: folder for models and results.
        rounds: number of rounds.
        local_epochs: that each site trains in a round.
        settings: `key=value` changes to the job, as `fedhe-train --set` takes them.
    """

    job: Path
    data: Path
    work: Path
    rounds: int
    local_epochs: int
    settings: tuple[str, ...] = ()

    @property
    def federation(self) -> FederationConfig:
        """The job's `config_fed.yml`."""
        return federation_config(load_document(self.job / "config" / "config_fed.yml"))

    def folder(self, seed: int, bits: int | None = None) -> Path:
        """Where a seed's runs, or one of them, are kept; another one if the job, the data or the settings change."""
        conditions = json.dumps([self.local_epochs, self.settings, SITES]).encode()
        parts = (conditions, pack_job(self.job), (self.data / "dataset.json").read_bytes())
        mark = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:8]
        folder = self.work / mark / f"seed-{seed}"
        return folder if bits is None else folder / f"bits-{bits}"


@dataclass(frozen=True)
class Averaged:
    """One round's average.

    Attributes:
        model: (n_values,) float32, the next global model.
        bytes_up: of one site's upload.
        bytes_down: of the sum.
    """

    model: Vector
    bytes_up: int
    bytes_down: int


def average_float32(before: Vector, changes: dict[str, Vector], samples: dict[str, int]) -> Averaged:
    """Plain FedAvg, in float32 throughout; nothing is encrypted, so this is nowhere but here."""
    total = np.zeros_like(before)
    for site, change in changes.items():
        total += np.float32(samples[site] / sum(samples.values())) * change
    return Averaged(before + total, before.nbytes, before.nbytes)


def average_encrypted(
    before: Vector, changes: dict[str, Vector], samples: dict[str, int], layout: Layout, engine: FastEngine, *,
    seed: int, round_: int,
) -> Averaged:  # fmt: skip
    """A round as fedhe makes it; what is decrypted must be the sum of what was encrypted, to the last bit."""
    params = engine.params
    notes = {site: Note(samples[site], max_changes(changes[site], layout), {}, None) for site in sorted(changes)}
    grid, plan = agree_on_grid(notes, layout, params), plan_update(layout, params)
    encoders = [UpdateEncoder(plan, grid, changes[site], grid.weights[site], seed, site, round_) for site in notes]
    model, up, down, context = before.copy(), 0, 0, bytes(32)
    for chunk in range(plan.chunks):
        coefficients = [encoder.coefficients(chunk) for encoder in encoders]
        uploads = [engine.encrypt(part, context, chunk) for part in coefficients]
        upload = Expectation(ChunkKind.UPLOAD, engine.key_id, params.params_id, context, chunk)
        total = add_chunks(uploads, params, upload)
        count = plan.ciphertexts_in(chunk)
        whole = Expectation(ChunkKind.SUM, engine.key_id, params.params_id, context, chunk, count, len(notes))
        decrypted = engine.decrypt(total, whole)
        if not np.array_equal(decrypted, sum(coefficients)):
            raise SystemExit(f"round {round_}, chunk {chunk}: the decrypted sum is not the sum of the fields")
        apply_chunk(plan, chunk, decrypted, grid, model)
        up, down = up + len(uploads[0]), down + len(total)
    return Averaged(model, up, down)


def run_seed(study: Study, seed: int) -> None:
    """What a seed's runs share: the first model, and each site's first training, which no precision has touched yet."""
    folder = study.folder(seed)
    if not (folder / "init" / RESULT_FILE).exists():
        _task(study, seed, "init", folder / "init")
    for index in range(len(SITES)):
        _train(study, seed, round_=1, index=index, model=folder / "init" / MODEL_FILE, folder=folder / "first")


def run_arm(study: Study, seed: int, bits: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """All rounds of one seed at one precision.

    Args:
        study: what all runs have in common; `run_seed` was called for the seed.
        seed: the job's seed.
        bits: of a weight's field; `FLOAT` for float32 FedAvg.
        tell: receives a line a round.

    Returns:
        `dice`, for each model version from 0 each site's Dice, and `rounds`, each round's errors and bytes.
    """
    folder = study.folder(seed, bits)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "run.json"
    init = read_result(study.folder(seed) / "init")
    layout = layout_of(init, study.federation, bits)
    run = {"seed": seed, "bits": bits, "values": layout.n_values, "samples": [], "dice": [], "rounds": []}
    if kept.exists():
        run = json.loads(kept.read_text())
    engine = _engine(study.federation, bits) if bits != FLOAT else None
    for round_ in range(len(run["rounds"]) + 1, study.rounds + 1):
        start = time.monotonic()
        results, tensors = _train_everywhere(study, seed, bits, round_)
        before = flatten(load_file(_model_file(study, seed, bits, round_ - 1)), layout)
        changes = {site: flatten(tensors[site], layout) - before for site in SITES}
        samples = {site: results[site].samples for site in SITES}
        plain = done = average_float32(before, changes, samples)
        if engine is not None:
            done = average_encrypted(before, changes, samples, layout, engine, seed=seed, round_=round_)
        save_file(unflatten(done.model, layout), _model_file(study, seed, bits, round_))
        run["samples"] = list(samples.values())
        run["dice"][round_ - 1 :] = [[_dice(results[site]) for site in SITES]]
        run["rounds"].append(_compare(before, done, plain, layout) | {"seconds": time.monotonic() - start})
        kept.write_text(json.dumps(run, indent=1))
        dice = np.mean(run["dice"][-1])
        tell(f"seed {seed}, {label(bits)}: round {round_} of {study.rounds}, started from Dice {dice:.4f}")
    if len(run["dice"]) == study.rounds:
        model = _model_file(study, seed, bits, study.rounds)
        results = [_task(study, seed, "validate", folder / site, index=i, model=model) for i, site in enumerate(SITES)]
        run["dice"].append([_dice(result) for result in results])
        kept.write_text(json.dumps(run, indent=1))
    return run | {"dice": run["dice"][: study.rounds + 1], "rounds": run["rounds"][: study.rounds]}


def label(bits: int) -> str:
    """A precision's name."""
    return "float32" if bits == FLOAT else f"{bits} bits"


def final_model(study: Study, seed: int, bits: int) -> dict[str, Vector]:
    """The last global model of a run, by tensor."""
    return load_file(_model_file(study, seed, bits, study.rounds))


def layout_of(result: TrainResult, federation: FederationConfig, bits: int) -> Layout:
    """The model's layout with weights in `bits` bits, and statistics in as many as the job says."""
    width = bits if bits != FLOAT else federation.precision.field_bits
    return Layout(
        tuple(
            TensorSpec(
                name=tensor.name,
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                statistic=tensor.statistic,
                field_bits=federation.precision.statistics_bits if tensor.statistic else width,
            )
            for tensor in result.layout
        )
    )


def _engine(federation: FederationConfig, bits: int) -> FastEngine:
    params: CkksParams = DEFAULT_PARAMS.with_precision(bits, federation.precision.statistics_bits)
    return FastEngine(params, SecretKey.generate(params))


def _compare(before: Vector, done: Averaged, plain: Averaged, layout: Layout) -> dict[str, float]:
    """How far one round's model is from float32 FedAvg of the same updates, weights and statistics apart."""
    weights = np.concatenate([np.full(tensor.size, not tensor.statistic) for tensor in layout.tensors])
    error = np.abs(done.model.astype(np.float64) - plain.model)
    moved = plain.model.astype(np.float64) - before
    return {
        "max_error": float(error[weights].max()),
        "max_error_statistics": float(error[~weights].max(initial=0.0)),
        "rms_error": float(np.sqrt(np.mean(error[weights] ** 2))),
        "rms_change": float(np.sqrt(np.mean(moved[weights] ** 2))),
        "bytes_up": done.bytes_up,
        "bytes_down": done.bytes_down,
    }


def _model_file(study: Study, seed: int, bits: int, version: int) -> Path:
    """The global model after so many rounds; the first one is shared."""
    if version == 0:
        return study.folder(seed) / "init" / MODEL_FILE
    return study.folder(seed, bits) / f"version-{version}.safetensors"


def _dice(result: TrainResult) -> float:
    return result.metrics[str(result.main_metric)]


def _train_everywhere(
    study: Study, seed: int, bits: int, round_: int
) -> tuple[dict[str, TrainResult], dict[str, dict[str, Vector]]]:
    """One round's training, by site: results, with the Dice of the model before, and weights after."""
    folder, model = study.folder(seed, bits), _model_file(study, seed, bits, round_ - 1)
    results, tensors = {}, {}
    for index, site in enumerate(SITES):
        if round_ == 1:
            output = study.folder(seed) / "first" / site
            shutil.copy(output / STATE_FILE, folder / f"{site}-{STATE_FILE}")
        else:
            output = _train(study, seed, round_=round_, index=index, model=model, folder=folder)
        results[site], tensors[site] = read_result(output), load_file(output / MODEL_FILE)
    return results, tensors


def _train(study: Study, seed: int, *, round_: int, index: int, model: Path, folder: Path) -> Path:
    """Validates the model at a site, then trains it there; returns the folder of the result."""
    output = folder / SITES[index]
    if round_ == 1 and (output / RESULT_FILE).exists():
        return output
    state = output / STATE_FILE if round_ == 1 else folder / f"{SITES[index]}-{STATE_FILE}"
    _task(study, seed, "train", output, index=index, model=model, round_=round_, local_state=state)
    return output


def _task(
    study: Study, seed: int, task: Any, output: Path, *,
    index: int = 0, model: Path | None = None, round_: int = 0, local_state: Path | None = None,
) -> TrainResult:  # fmt: skip
    federation = study.federation
    request = TrainRequest(
        task=task,
        mmar=study.job,
        overrides={"DATA_ROOT": str(study.data), "SITE_INDEX": index, "SITE_COUNT": len(SITES)},
        settings=study.settings,
        model_in=model,
        output=output,
        seed=seed,
        round=round_,
        epochs=study.local_epochs,
        gpus=(),
        exclude=tuple(federation.exclude),
        share_statistics=federation.statistics == "share",
        local_state=local_state,
    )
    torch.set_num_threads(1)  # one run a core
    output.mkdir(parents=True, exist_ok=True)
    result = run_task(request, lambda _report: None, time.monotonic)
    write_result(result, output)
    return result


def conditions_of(study: Study) -> dict[str, Any]:
    """The study for its report, without folders."""
    told = {name: value for name, value in asdict(study).items() if name not in {"job", "data", "work"}}
    return told | {"job": study.job.name, "job_rounds": study.federation.rounds, "sites": len(SITES)}
