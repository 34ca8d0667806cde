"""From float updates to the next model: the encrypted sum is fixed-point FedAvg, bit for bit."""

import numpy as np
import pytest

from fedhe.he.plan import decode_chunk, encode_chunk, plan_update
from fedhe.he.quantise import add_fields, quantise, steps
from fedhe.he.sums import add_chunks
from fedhe.model.flatten import max_changes


@pytest.mark.parametrize("sites", [2, 3, 7])
def test_the_decrypted_sum_is_the_sum_of_the_fields_and_close_to_float_fedavg(sites, make_layout, params, expect):
    engine = expect.engine
    layout = make_layout(("conv", (40, 700), 16), ("bn.mean", (300,), 24), ("scalar", (), 16), ("still", (5,), 16))
    plan = plan_update(layout, params)
    rng = np.random.default_rng(sites)
    changes = [rng.normal(scale=10.0 ** -(site % 4), size=layout.n_values).astype(np.float32) for site in range(sites)]
    for change in changes:
        change[layout.slices()[3]] = 0
    samples = rng.integers(1, 100, sites)
    weights = [int(count) / int(samples.sum()) for count in samples]
    per_tensor = steps([max_changes(change, layout) for change in changes], layout, params, sites)
    step = np.repeat(per_tensor, [tensor.size for tensor in layout.tensors])
    pieces = list(zip(layout.slices(), per_tensor, strict=True))

    plain = np.zeros(layout.n_values, dtype=np.int64)
    found = np.zeros(layout.n_values, dtype=np.int64)
    for chunk in range(plan.chunks):
        uploads = []
        for change, weight in zip(changes, weights, strict=True):

            def fields_of(part, change=change, weight=weight):
                fields = np.zeros(part.stop - part.start, dtype=np.int64)
                for tensor, unit in pieces:
                    low, high = max(part.start, tensor.start), min(part.stop, tensor.stop)
                    if low < high:
                        drawn = rng.integers(0, 2**32, high - low, dtype=np.uint32)
                        found = quantise(change[low:high], weight, float(unit), drawn)
                        fields[low - part.start : high - part.start] = found
                plain[part] += fields
                return fields

            uploads.append(engine.encrypt(encode_chunk(plan, chunk, fields_of), expect.context, chunk))
        total = add_chunks(uploads, params, expect.upload(chunk))
        count = plan.ciphertexts_in(chunk)
        for part, fields in decode_chunk(plan, chunk, engine.decrypt(total, expect.sum(sites, chunk, count))):
            found[part] = fields
    assert np.array_equal(found, plain)

    averaged = found * step
    mean = sum(weight * change.astype(np.float64) for change, weight in zip(changes, weights, strict=True))
    assert (np.abs(averaged - mean) <= sites * step * (1 + 1e-9)).all()
    before = rng.normal(size=layout.n_values).astype(np.float32)
    after = before.copy()
    for tensor, unit in pieces:
        add_fields(after[tensor], found[tensor], float(unit))
    assert np.array_equal(after, (before + averaged).astype(np.float32))
    assert np.array_equal(after[layout.slices()[3]], before[layout.slices()[3]])
