"""From updates to encrypted chunks and back: the sum equals fixed-point FedAvg, whatever happened on the way."""

import numpy as np
import pytest

from fedhe.client.note import Note
from fedhe.client.round_codec import UpdateEncoder, agree_on_grid, apply_chunk, rounding_words
from fedhe.errors import TrainingError
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.plan import plan_update
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks
from fedhe.model.flatten import max_changes
from fedhe.model.layout import Layout, TensorSpec

LAYOUT = Layout(
    (
        TensorSpec(name="w", shape=(300, 700), dtype="float32", statistic=False, field_bits=16),
        TensorSpec(name="bn.running_var", shape=(70,), dtype="float32", statistic=True, field_bits=24),
        TensorSpec(name="still", shape=(5,), dtype="float32", statistic=False, field_bits=16),
        TensorSpec(name="empty", shape=(0,), dtype="float32", statistic=False, field_bits=16),
        TensorSpec(name="scalar", shape=(), dtype="float32", statistic=False, field_bits=16),
    )
)
CONTEXT = bytes(range(32))


def change_of(site):
    rng = np.random.default_rng(ord(site))
    change = rng.normal(scale=0.01, size=LAYOUT.n_values).astype(np.float32)
    change[LAYOUT.slices()[2]] = 0
    return change


def notes_of(samples):
    return {site: Note(n, max_changes(change_of(site), LAYOUT), {}, None) for site, n in samples.items()}


@pytest.fixture(scope="module")
def engine(project):
    return SealEngine(project.params, project.secret_key)


def test_the_decrypted_sum_is_fixed_point_fedavg_bit_for_bit_and_close_to_float_fedavg(project, engine):
    samples = {"A": 10, "B": 25, "C": 3}
    params, plan = project.params, plan_update(LAYOUT, project.params)
    assert plan.chunks == 2
    grid = agree_on_grid(notes_of(samples), LAYOUT, params)
    assert sum(grid.weights.values()) == pytest.approx(1)
    encoders = {site: UpdateEncoder(plan, grid, change_of(site), grid.weights[site], 7, site, 1) for site in samples}
    plain = np.zeros(LAYOUT.n_values, np.int64)
    total = np.zeros(LAYOUT.n_values, np.int64)
    before = np.random.default_rng(0).normal(size=LAYOUT.n_values).astype(np.float32)
    after = before.copy()
    for chunk in range(plan.chunks):
        own = {site: np.zeros(LAYOUT.n_values, np.int64) for site in samples}
        sent = [
            engine.encrypt(encoder.coefficients(chunk, keep=own[site]), CONTEXT, chunk)
            for site, encoder in encoders.items()
        ]
        plain += sum(own.values())
        seeded = Expectation(
            ChunkKind.UPLOAD, engine.key_id, params.params_id, CONTEXT, chunk, plan.ciphertexts_in(chunk)
        )
        summed = add_chunks(sent, params, seeded)
        expect = Expectation(
            ChunkKind.SUM, engine.key_id, params.params_id, CONTEXT, chunk, plan.ciphertexts_in(chunk), len(samples)
        )
        for part, fields in apply_chunk(plan, chunk, engine.decrypt(summed, expect), grid, after):
            total[part] = fields
    assert (total == plain).all()
    step = np.repeat(grid.steps, [tensor.size for tensor in LAYOUT.tensors])
    whole = (before.astype(np.float64) + total * step).astype(np.float32)
    assert after.tobytes() == whole.tobytes(), "chunk by chunk gives the same bytes as all at once"
    ideal = before.astype(np.float64) + sum(grid.weights[s] * change_of(s).astype(np.float64) for s in samples)
    tolerance = np.maximum(len(samples) * step, 0) + np.spacing(np.abs(ideal).astype(np.float32))
    assert (np.abs(after - ideal) <= tolerance).all()
    assert (after[LAYOUT.slices()[2]] == before[LAYOUT.slices()[2]]).all()


def test_a_site_that_starts_over_encodes_the_same_and_other_sites_rounds_and_chunks_round_otherwise(project):
    plan = plan_update(LAYOUT, project.params)
    grid = agree_on_grid(notes_of({"A": 1, "B": 1}), LAYOUT, project.params)
    one, two = (UpdateEncoder(plan, grid, change_of("A"), 0.5, 7, "A", 1) for _ in range(2))
    two.coefficients(0)
    assert (one.coefficients(1) == two.coefficients(1)).all()
    drawn = {
        rounding_words(*place, 4).tobytes()
        for place in [(7, "A", 1, 0), (8, "A", 1, 0), (7, "B", 1, 0), (7, "A", 2, 0), (7, "A", 1, 1)]
    }
    assert len(drawn) == 5


def test_a_site_alone_on_the_golden_rounding_rounds_as_it_always_did():
    """The rounding is part of the protocol's determinism: runs of different versions must agree."""
    assert rounding_words(7, "hospitalA", 3, 2, 3).tolist() == GOLDEN


GOLDEN = [3805700578, 517244976, 3854791847]


def test_an_update_that_is_not_its_notes_is_refused(project):
    plan = plan_update(LAYOUT, project.params)
    grid = agree_on_grid(notes_of({"A": 1, "B": 1}), LAYOUT, project.params)
    change = change_of("A")
    change[LAYOUT.slices()[2]] = 1
    with pytest.raises(TrainingError, match="step 0"):
        UpdateEncoder(plan, grid, change, 0.5, 7, "A", 1).coefficients(1)
    change = change_of("A")
    change[3] = np.nan
    with pytest.raises(TrainingError, match="finite"):
        UpdateEncoder(plan, grid, change, 0.5, 7, "A", 1).coefficients(0)
