"""The engine on torch: bit for bit what SEAL and the compiled kernel compute, on every device that is there."""

import dataclasses
import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import CapacityError, ConfigError, RemoteProtocolError, ResourceError, TrainingError, TrustError
from fedhe.he import fast_kernel, gpu_engine
from fedhe.he.ciphertext import HEADER_BYTES, C1Form, read_chunk, write_chunk
from fedhe.he.engine import largest_coefficient
from fedhe.he.gpu_engine import GpuEngine, find_gpu
from fedhe.he.gpu_kernel import (
    add_residues,
    decrypt_chunk,
    device_key,
    encrypt_chunk,
    from_ntt,
    pack_tensor,
    quantise_tensor,
    to_ntt,
)
from fedhe.he.keys import SecretKey
from fedhe.he.ntt import forward, ring_tables
from fedhe.he.pack import pack, unpack
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.quantise import quantise
from fedhe.he.residues import add_residues as add_on_host
from fedhe.he.streams import expand_seed, fresh_errors
from fedhe.he.sums import add_chunks

LARGEST = 1 << 46  # below what the default modulus holds
EXTREMES = [0, 1, -1, LARGEST, -LARGEST, LARGEST - 1, 4095, -4096, 1 << 29, -(1 << 30)]


@pytest.fixture(
    scope="session",
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")),
    ],
)
def device(request):
    return torch.device(request.param)


@pytest.fixture(scope="session")
def engine(params, key, device):
    """Which the fixtures of conftest.py then work on."""
    return GpuEngine(params, key, device)


def params_of(bits):
    return CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(bits, bits), field_bits=12))


def on(device, array):
    return torch.tensor(array.view(np.int32) if array.dtype == np.uint32 else array, device=device)


# ---- the kernel against the compiled one ----


@pytest.mark.parametrize("bits", [24, 25, 28, 30])
@pytest.mark.parametrize("kind", ["random", "largest", "zero but one", "alternating", "widest", "widest of both signs"])
def test_the_transform_is_the_compiled_one_and_goes_back(bits, kind, device):
    """And that one is SEAL's (test_ntt.py)."""
    params = params_of(bits)
    top = np.array(params.primes).reshape(1, 2, 1) - 1
    places = np.zeros((3, 2, 4096), dtype=np.int64)
    values = {
        "random": np.random.default_rng(7).integers(0, top, places.shape, endpoint=True),
        "largest": places + top,
        "zero but one": places + np.where(np.arange(4096) == 4095, top, 0),
        "alternating": places + np.where(np.arange(4096) % 2, top, 0),
        "widest": places + top // 2,
        "widest of both signs": places + top // 2 + np.random.default_rng(8).integers(0, 2, places.shape),
    }[kind]
    expected, scratch = values.astype(np.uint32), np.empty((64, 64), dtype=np.uint32)
    for polynomial, k in itertools.product(expected, range(2)):
        forward(polynomial[k], k, ring_tables(params.primes), scratch)
    key = device_key(SecretKey.generate(params), params, device)
    centred = values - (top + 1) * (values > top // 2)
    rows = torch.tensor(
        centred.reshape(3, 2, 64, 64).transpose(1, 2, 0, 3).astype(np.float64, order="C"), device=device
    )
    found = to_ntt(rows, key)
    back = from_ntt(found.clone(), key)
    residues = found.long().numpy(force=True).transpose(2, 0, 1, 3).reshape(3, 2, 4096)
    assert np.array_equal(residues % (top + 1), expected)
    assert (2 * np.abs(residues) <= top).all()
    assert torch.equal(back, rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(EXTREMES), min_size=1), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_the_same_words_encrypt_to_the_same_bytes(params, key, engine, fast_engine, values, count, seed):
    rng = np.random.default_rng(seed)
    message = np.resize(np.array(values, dtype=np.int64), (count, 4096))
    message[:, ::7] = rng.integers(-LARGEST, LARGEST, message[:, ::7].shape)
    errors, c1 = fresh_errors(count, params), expand_seed(rng.bytes(32), count, params)
    expected = np.empty_like(c1)
    fast_kernel.encrypt_chunk(message, errors, c1, fast_engine._key, expected)
    device = engine.device
    found = encrypt_chunk(on(device, message), on(device, errors), on(device, c1), engine._key)
    assert np.array_equal(found.numpy(force=True).view(np.uint32), expected)


@pytest.mark.parametrize("kind", ["zero", "largest", "widest", "random"])
@pytest.mark.parametrize("bits", [24, 30])
def test_any_residues_decrypt_as_with_seals_arithmetic(kind, bits, device):
    """Also such as no honest site makes: the centre, the borders of the modulus, and anything between."""
    params = params_of(bits)
    key = SecretKey.generate(params)
    top = np.array(params.primes).reshape(1, 2, 1) - 1
    c0, c1 = {
        "zero": np.zeros((2, 3, 2, 4096)),
        "largest": np.zeros((2, 3, 2, 4096)) + top,
        "widest": np.zeros((2, 3, 2, 4096)) + top // 2,
        "random": np.random.default_rng(3).integers(0, top, (2, 3, 2, 4096), endpoint=True),
    }[kind].astype(np.uint32)
    expected = np.empty((3, 4096), dtype=np.int64)
    fast_kernel.decrypt_chunk(c0, c1, fast_kernel.ring_key(key, params), expected)
    found = decrypt_chunk(on(device, c0), on(device, c1), device_key(key, params, device))
    assert np.array_equal(found.numpy(force=True), expected)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_the_middle_of_the_modulus_is_where_it_wraps_around(offset, params, key, engine):
    """A constant polynomial is constant in NTT form too, and c1 = 0 leaves the key out."""
    value = (params.modulus - 1) // 2 + offset
    c0 = np.zeros((1, 2, 4096), dtype=np.uint32)
    c0[0] = np.array([value % prime for prime in params.primes]).reshape(2, 1)
    device = engine.device
    found = decrypt_chunk(on(device, c0), on(device, np.zeros_like(c0)), engine._key)
    expected = np.zeros((1, 4096), dtype=np.int64)
    expected[0, 0] = value - (params.modulus if offset > 0 else 0)
    assert np.array_equal(found.numpy(force=True), expected)


@pytest.mark.parametrize("bits", [24, 30])
def test_sums_of_residues_are_modular(bits, device):
    params = params_of(bits)
    top = np.array(params.primes).reshape(2, 1) - 1
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, top, (2, 3, 2, 4096), endpoint=True).astype(np.uint32)
    one[0], other[0] = top, top
    one[1], other[1] = top, 1
    found = add_residues(on(device, one), on(device, other), params.primes)
    add_on_host(one, other, params.primes)
    assert np.array_equal(found.numpy(force=True).view(np.uint32), one)


# ---- the engine among the others ----


def test_the_engine_fulfils_the_interface(engine, fast_engine):
    wanted = {name for name in dir(fast_engine) if not name.startswith("_")}
    assert wanted <= set(dir(engine))
    assert engine.key_id == fast_engine.key_id


@pytest.mark.parametrize(
    "uploads",
    [parts for parts in itertools.product(("seal", "fast", "gpu"), repeat=3) if "gpu" in parts],
    ids="-".join,
)
@pytest.mark.parametrize("max_forwarded", [0, 32])
def test_engines_read_each_other(uploads, max_forwarded, engine, seal_engine, fast_engine, expect, messages):
    """Whoever encrypts each part of a sum, all decrypt it, whether the server expands seeds or hands them on."""
    engines = {"seal": seal_engine, "fast": fast_engine, "gpu": engine}
    sites = messages(3, 2)
    chunks = [engines[one].encrypt(message, expect.context, 0) for one, message in zip(uploads, sites, strict=True)]
    total = add_chunks(chunks, engine.params, expect.upload(), max_forwarded=max_forwarded)
    for one in engines.values():
        assert np.array_equal(one.decrypt(total, expect.sum(3)), sum(sites))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(EXTREMES), min_size=1), st.integers(1, 16), st.integers(0, 2**32 - 1))
def test_all_decrypt_what_it_encrypts(seal_engine, fast_engine, engine, expect_of, values, count, seed):
    message = np.resize(np.array(values, dtype=np.int64), (count, 4096))
    message[:, ::7] = np.random.default_rng(seed).integers(-LARGEST, LARGEST, message[:, ::7].shape)
    expect = expect_of(engine)
    upload = engine.encrypt(message, expect.context, 0)
    for one, max_forwarded in itertools.product((seal_engine, fast_engine, engine), (0, 1)):
        total = add_chunks([upload], engine.params, expect.upload(), max_forwarded=max_forwarded)
        assert np.array_equal(one.decrypt(total, expect.sum(1)), message)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_97_sites_may_have_comes_back(sign, engine, seal_engine, expect):
    params = engine.params
    limit = largest_coefficient(params)
    parts = np.full((97, 1, 4096), sign * (limit // 97))
    parts[0] += sign * (limit - 97 * (limit // 97))
    total = add_chunks(
        [engine.encrypt(part, expect.context, 0) for part in parts], params, expect.upload(), max_forwarded=97
    )
    for one in (engine, seal_engine):
        assert np.array_equal(one.decrypt(total, expect.sum(97)), np.full((1, 4096), sign * limit))


@pytest.mark.parametrize("bits", [24, 27, 29])
def test_smaller_primes_are_exact_too(bits, expect, messages, device):
    params = params_of(bits)
    small = GpuEngine(params, SecretKey.generate(params), device)
    expect = dataclasses.replace(expect, engine=small)
    message = messages(1)[0] >> 2 * (30 - bits) + 2
    total = add_chunks([small.encrypt(message, expect.context, 0) for _ in range(2)], params, expect.upload())
    assert np.array_equal(small.decrypt(total, expect.sum(2)), 2 * message)


def test_encryption_is_fresh_every_time_and_uniform(engine, context):
    message = np.full((4, 4096), largest_coefficient(engine.params))
    one, other = (np.frombuffer(engine.encrypt(message, context, 0)[HEADER_BYTES:], dtype=np.uint8) for _ in range(2))
    assert (one == other).mean() < 1 / 128  # 1 in 256 by chance
    counts = np.bincount(one, minlength=256)
    assert abs(counts - one.size / 256).max() < 8 * np.sqrt(one.size / 256)


def test_noise_has_seals_distribution_and_is_wiped(engine, seal_engine, context, expect, monkeypatch):
    drawn = []

    def keep(*arguments):
        drawn.append(fresh_errors(*arguments))
        return drawn[-1]

    monkeypatch.setattr(gpu_engine, "fresh_errors", keep)
    zero = np.zeros((16, 4096), dtype=np.int64)
    chunk = add_chunks([engine.encrypt(zero, context, 0)], engine.params, expect.upload(), max_forwarded=0)
    polynomials = read_chunk(chunk, expect=expect.sum(1), params=engine.params).polynomials
    noise = seal_engine._core.decrypt(polynomials[:, 0], polynomials[:, 1])
    assert np.abs(noise).max() <= 21
    assert 3.1 < noise.std() < 3.4
    assert not drawn[0].any()


def test_threads_may_share_an_engine(engine, context, expect, messages):
    sites = messages(4, 2)
    uploads = [b""] * 4

    def upload(number):
        uploads[number] = engine.encrypt(sites[number], context, 0)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = add_chunks(uploads, engine.params, expect.upload())
    assert np.array_equal(engine.decrypt(total, expect.sum(4)), sum(sites))


# ---- a change that lies on the device ----


def words(count, seed):
    return np.random.default_rng(seed).integers(0, 2**32, count, dtype=np.uint32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]), st.floats(0, 1), st.floats(1e-12, 1e3),
    st.sampled_from([0, 1, 2, 300]),
)  # fmt: skip
def test_fields_are_those_of_the_host(device, seed, dtype, weight, step, size):
    change = np.random.default_rng(seed).normal(size=size).astype(dtype)
    found = quantise_tensor(torch.tensor(change, device=device), weight, step, words(size, seed))
    assert found.device.type == device.type
    assert np.array_equal(found.numpy(force=True), quantise(change, weight, step, words(size, seed)))


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_extreme_words_and_changes_round_as_on_the_host(word, device):
    change = np.array([0.0, -0.0, 0.5, -0.5, 1e-45, -1e-45, 3e38, -3e38, 1 / 3, -1 / 3, 1.0, -1.0], dtype=np.float32)
    drawn = np.full(change.size, word, dtype=np.uint32)
    for step in (1.0, 3e38 / 32000, 7e-39, 0.1):
        kept = np.abs(change.astype(np.float64) / step) < 2**60
        found = quantise_tensor(torch.tensor(change[kept], device=device), 1.0, step, drawn[kept])
        assert np.array_equal(found.numpy(force=True), quantise(change[kept], 1.0, step, drawn[kept]))


@pytest.mark.parametrize(
    ("change", "weight", "step", "told"),
    [
        ([1.0, np.nan], 0.5, 1.0, "NaN or infinity"),
        ([-np.inf, 1.0], 0.5, 0.0, "NaN or infinity"),
        ([0.0, 2.0], 1.0, 0.0, "grid has step 0"),
        ([1.0], 1.1, 1.0, "weight from 0 to 1"),
        ([], float("nan"), 1.0, "weight from 0 to 1"),
    ],
)
def test_changes_are_refused_as_on_the_host(change, weight, step, told, device):
    with pytest.raises(TrainingError, match=told):
        quantise_tensor(torch.tensor(change, device=device), weight, step, words(len(change), 0))


def test_a_step_of_zero_gives_fields_of_zero(device):
    assert quantise_tensor(torch.zeros(2, device=device), 1.0, 0.0, words(2, 0)).tolist() == [0, 0]


@settings(deadline=None)
@given(
    st.sampled_from([(8, 6), (12, 4), (16, 3), (24, 2), (31, 2), (32, 1)]),
    st.integers(0, 50),
    st.integers(0, 2**32 - 1),
)
def test_packing_is_that_of_the_host(device, shape, n, seed):
    bits, k = shape
    limit = (1 << (bits - 1)) - 1
    fields = np.random.default_rng(seed).integers(-limit, limit, n, endpoint=True)
    if n:
        fields[[0, -1]] = limit, -limit
    found = pack_tensor(torch.tensor(fields, device=device), bits, k)
    assert np.array_equal(found.numpy(force=True), pack(fields, bits, k))


@pytest.mark.parametrize("wrong", [32768, -32768, 1 << 40, -(1 << 63)])
def test_a_field_that_does_not_fit_is_refused(wrong, device):
    with pytest.raises(CapacityError, match=f"within \\+-32767 \\(16 bits\\), got {wrong}"):
        pack_tensor(torch.tensor([0, wrong, 5], device=device), 16, 3)


def test_a_change_becomes_a_ciphertext_on_the_device(engine, seal_engine, expect, params, monkeypatch):
    """What leaves the device as an array: the extremes of the fields, and the ciphertext."""
    device, count = engine.device, 2
    step, values = 1e-4, count * 4096 * 3 - 2
    change = np.random.default_rng(5).normal(size=values).astype(np.float32) * np.float32(0.1)
    drawn = words(values, 5)
    on_device = torch.tensor(change, device=device, requires_grad=True)
    left = []
    numpy = torch.Tensor.numpy

    def spy(tensor, **options):
        left.append((tuple(tensor.shape), tensor.dtype))
        return numpy(tensor, **options)

    monkeypatch.setattr(torch.Tensor, "numpy", spy)
    for name in ("cpu", "tolist", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, None)
    packed = pack_tensor(quantise_tensor(on_device, 0.5, step, drawn), 16, 3)
    data = engine.encrypt_tensor(packed.view(count, 4096), expect.context, 0)
    monkeypatch.undo()
    assert left == [((2,), torch.int64), ((count, 2, 4096), torch.int32)]
    total = add_chunks([data], params, expect.upload())
    found = unpack(seal_engine.decrypt(total, expect.sum(1)).reshape(-1), 16, 3, values)
    assert np.array_equal(found, quantise(change, 0.5, step, drawn))


@pytest.mark.parametrize(
    ("coefficients", "told"),
    [
        (torch.zeros((1, 4095), dtype=torch.int64), "got .*4095"),
        (torch.zeros((17, 4096), dtype=torch.int64), "expected coefficients of shape"),
        (torch.full((1, 4096), -(1 << 47)), "expected coefficients within"),
    ],
)
def test_wrong_coefficients_on_the_device_are_refused(coefficients, told, engine, context):
    with pytest.raises(CapacityError, match=told):
        engine.encrypt_tensor(coefficients.to(engine.device), context, 0)


# ---- what is refused, and what fails ----


@pytest.mark.parametrize("form", [C1Form.WHOLE, C1Form.AES_SEEDS])
def test_an_altered_sum_is_noticed(form, engine, expect, messages, params):
    uploads = [engine.encrypt(message, expect.context, 0) for message in messages(3, 2)]
    total = add_chunks(uploads, params, expect.upload(), max_forwarded=3 if form is C1Form.AES_SEEDS else 0)
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    assert chunk.header.c1 is form
    chunk.polynomials[1, 0, 0, 7] ^= 1
    with pytest.raises((TrustError, RemoteProtocolError), match=r"wrong key or altered sum|residues below"):
        engine.decrypt(write_chunk(chunk.header, chunk.seeds, chunk.polynomials), expect.sum(3))


def test_another_key_is_refused(engine, expect, messages, params, key, device):
    total = add_chunks([engine.encrypt(messages(1)[0], expect.context, 0)], params, expect.upload())
    with pytest.raises(TrustError, match="expected ciphertexts of key"):
        GpuEngine(params, SecretKey.generate(params), device).decrypt(total, expect.sum(1))
    with pytest.raises(TrustError, match="expected a key of ring"):
        GpuEngine(params_of(29), key, device)


def test_a_device_that_computes_wrongly_is_refused_at_once(params, key, device, monkeypatch):
    monkeypatch.setattr(gpu_engine, "encrypt_chunk", lambda *arguments: encrypt_chunk(*arguments).bitwise_xor(1))
    with pytest.raises(ConfigError, match="GpuEngine failed its self-test"):
        GpuEngine(params, key, device)


@pytest.mark.parametrize("step", ["encrypt", "decrypt"])
def test_a_lack_of_memory_on_the_device_is_told(step, engine, expect, messages, params, monkeypatch):
    message = messages(1)[0]
    total = add_chunks([engine.encrypt(message, expect.context, 0)], params, expect.upload())

    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nmore")

    monkeypatch.setattr(gpu_engine, f"{step}_chunk", fail)
    again = {
        "encrypt": lambda: engine.encrypt(message, expect.context, 0),
        "decrypt": lambda: engine.decrypt(total, expect.sum(1)),
    }
    with pytest.raises(ResourceError, match=r"cannot encrypt or decrypt there: CUDA out of memory\.$"):
        again[step]()


def test_a_gpu_that_is_not_there_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="expected torch to see GPU 0, it sees none"):
        find_gpu(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_gpu(1) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="expected torch to see GPU 2, it sees 2"):
        find_gpu(2)


def test_the_key_does_not_show(engine):
    assert repr(engine._key) == "DeviceKey(...)"


def test_no_program_imports_torch_when_it_starts():
    programs = ("client", "server", "provision", "admin")
    code = (
        "import sys; " + "".join(f"import fedhe.cli.{name}; " for name in programs) + "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
