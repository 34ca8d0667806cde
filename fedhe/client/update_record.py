"""The site's own record of a round, in plaintext, where its policy keeps one: what went in and what came back."""

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhe.client.durable import make_folder, write_durably
from fedhe.client.roster_check import CheckedRoster
from fedhe.client.round_codec import Grid, UpdateEncoder
from fedhe.client.work import Work


def record_sent(work: Work, roster: CheckedRoster, encoder: UpdateEncoder) -> None:
    """Keeps what this site put into the round: its fields, its change and its weight."""
    fields = np.zeros(work.known_layout().n_values, dtype=np.int64)
    for chunk in range(encoder.plan.chunks):
        encoder.coefficients(chunk, keep=fields)
    folder = make_folder(work.folder.record(roster.round))
    _write_array(folder / "fields.npy", fields)
    _write_array(folder / "change.npy", encoder.change)
    _write_array(folder / "steps.npy", encoder.grid.steps)


def record_sum(work: Work, roster: CheckedRoster, fields: NDArray[np.int64], grid: Grid) -> None:
    """Keeps what came back, and from whom."""
    folder = make_folder(work.folder.record(roster.round))
    _write_array(folder / "sum_fields.npy", fields)
    _write_array(folder / "steps.npy", grid.steps)
    described = {
        "job": work.job_id,
        "round": roster.round,
        "attempt": roster.attempt,
        "context": roster.context.hex(),
        "site": work.site.name,
        "sites": list(roster.sites),
        "weights": grid.weights,
        "weight": grid.weights.get(work.site.name, 0.0),
        "samples": {name: note.samples for name, note in roster.notes.items()},
        "tensors": [tensor.name for tensor in work.known_layout().tensors],
    }
    write_durably(folder / "record.json", json.dumps(described, indent=1).encode())


def _write_array(path: Path, array: NDArray[np.generic]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_durably(path, buffer.getvalue(), sync=False)
