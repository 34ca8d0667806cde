"""Both engines: encrypted sums decrypt exactly, never show a plaintext, and whatever was altered is noticed."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import tenseal.sealapi as seal

from fedhe.errors import CapacityError, ConfigError, RemoteProtocolError, TrustError
from fedhe.he.ciphertext import HEADER_BYTES, read_chunk, write_chunk
from fedhe.he.engine import Engine, largest_coefficient
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.sums import add_chunks


@pytest.mark.parametrize("ciphertexts", [1, 2, 3, 16])
def test_a_sum_of_three_sites_is_exact(messages, federated_sum, ciphertexts):
    sites = messages(3, ciphertexts)
    assert np.array_equal(federated_sum(sites), sum(sites))


@pytest.mark.parametrize("sites", [2, 5, 32, 97])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_extremes_are_exact(sites, sign, params, federated_sum):
    """Every packed field at its largest sum, for as many sites as may be."""
    for bits in (12, 16, 24, 32):
        most = params.field_max(bits, sites)
        k = params.fields_per_coefficient(bits)
        places = np.array([sum(1 << (bits * j) for j in range(k)), 1, 0, (1 << bits * (k - 1)) - 1])
        total = sign * most * np.resize(places, 4096)
        parts = [np.full((1, 4096), 0) for _ in range(sites)]
        # the whole sum from one site, and shared out: both must come back
        parts[0][0] = total
        if bits == 16:
            for part in parts:
                part[0] = total // sites
            parts[0][0] += total - sum(part[0] for part in parts)
        assert np.array_equal(federated_sum(parts)[0], total)


@pytest.mark.parametrize("ciphertexts", [1, 2, 5])
def test_equal_and_zero_messages_are_exact(federated_sum, ciphertexts):
    """A model that does not change encrypts to zeros, which SEAL would refuse in the wrong place."""
    for value in (0, 1, -77):
        message = np.full((ciphertexts, 4096), value)
        assert np.array_equal(federated_sum([message, message]), 2 * message)


def test_the_engine_fulfils_the_interface(engine):
    wanted = {name for name in vars(Engine) if not name.startswith("_")}
    assert wanted == {"params", "key_id", "encrypt", "decrypt"}
    assert all(hasattr(engine, name) for name in wanted)


@pytest.mark.parametrize("uploads", list(itertools.product(("seal", "fast"), repeat=3)), ids="-".join)
@pytest.mark.parametrize("max_forwarded", [0, 32])
def test_engines_read_each_other(uploads, max_forwarded, engine, seal_engine, fast_engine, expect, messages):
    """Whoever encrypts each part of a sum, both decrypt it, whether the server expands seeds or hands them on."""
    engines = {"seal": seal_engine, "fast": fast_engine}
    sites = messages(3, 2)
    chunks = [engines[one].encrypt(message, expect.context, 0) for one, message in zip(uploads, sites, strict=True)]
    total = add_chunks(chunks, engine.params, expect.upload(), max_forwarded=max_forwarded)
    assert np.array_equal(engine.decrypt(total, expect.sum(3)), sum(sites))


def test_another_engine_of_the_same_key_file_reads_it(engine, params, key, messages, federated_sum):
    other = type(engine)(params, SecretKey.from_bytes(key.to_bytes()))
    sites = messages(2)
    assert np.array_equal(federated_sum(sites, engine=other), sum(sites))


@pytest.mark.parametrize("bits", [24, 27, 29])
def test_smaller_primes_are_exact_too(bits, engine, expect, messages):
    params = CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(bits, bits), field_bits=12))
    engine = type(engine)(params, SecretKey.generate(params))
    expect = dataclasses.replace(expect, engine=engine)
    message = messages(1)[0] >> 2 * (30 - bits) + 2
    total = add_chunks([engine.encrypt(message, expect.context, 0) for _ in range(2)], params, expect.upload())
    assert np.array_equal(engine.decrypt(total, expect.sum(2)), 2 * message)


def test_encryption_is_fresh_every_time(engine, messages, context):
    message = messages(1)[0]
    one, other = (engine.encrypt(message, context, 0) for _ in range(2))
    same = sum(a == b for a, b in zip(one[HEADER_BYTES:], other[HEADER_BYTES:], strict=True))
    assert same < len(one) / 128  # 1 in 256 by chance


def test_a_ciphertext_does_not_depend_on_the_message_in_sight(engine, context):
    """Residues of an encrypted zero and of a large message are uniform alike."""
    for value in (0, largest_coefficient(engine.params)):
        data = engine.encrypt(np.full((4, 4096), value), context, 0)
        octets = np.frombuffer(data[HEADER_BYTES:], dtype=np.uint8)
        counts = np.bincount(octets, minlength=256)
        assert abs(counts - octets.size / 256).max() < 8 * np.sqrt(octets.size / 256)


def test_noise_has_seals_distribution(engine, seal_engine, context, expect):
    """|e| <= 21 and sigma 3.24, as the capacity assumes; over zeros the polynomial that SEAL decrypts is the noise."""
    zero = np.zeros((16, 4096), dtype=np.int64)
    chunk = add_chunks([engine.encrypt(zero, context, 0)], engine.params, expect.upload(), max_forwarded=0)
    polynomials = read_chunk(chunk, expect=expect.sum(1), params=engine.params).polynomials
    noise = seal_engine._core.decrypt(polynomials[:, 0], polynomials[:, 1])
    assert np.abs(noise).max() <= 21
    assert 3.1 < noise.std() < 3.4
    assert abs(noise.mean()) < 0.1


def test_seals_own_decryptor_agrees(engine, seal_engine, key, context, expect, messages):
    message = messages(1)[0]
    chunk = add_chunks([engine.encrypt(message, context, 0)], engine.params, expect.upload(), max_forwarded=0)
    polynomials = read_chunk(chunk, expect=expect.sum(1), params=engine.params).polynomials
    stream = seal_engine._core._stream
    plaintext = seal.Plaintext()
    ciphertext = stream.load_ciphertext(polynomials[0], is_ntt=True)
    seal.Decryptor(stream.context, stream.load_key(key.residues())).decrypt(ciphertext, plaintext)
    values = np.frombuffer(stream.save(plaintext)[-8 * 2 * 4096 :], dtype="<u8").reshape(1, 2, 4096)
    transformed = stream.load_ciphertext(np.concatenate([values, values]), is_ntt=True)
    stream.evaluator.transform_from_ntt_inplace(transformed)
    found = stream.save_ciphertext(transformed)[:1].astype(np.int64)
    noisy = seal_engine._core._combine(found[:, 0], found[:, 1])
    assert np.array_equal((noisy + 2048) >> 12, message)


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


# ---- altered, swapped, or by another key ----


@pytest.fixture
def total(engine, context, expect, messages):
    """The sum of three sites' two ciphertexts, with c1 whole."""
    uploads = [engine.encrypt(message, context, 0) for message in messages(3, 2)]
    return add_chunks(uploads, engine.params, expect.upload(), max_forwarded=0)


def test_another_key_of_equal_parameters_is_refused_by_its_id(engine, total, params, expect):
    other = type(engine)(params, SecretKey.generate(params))
    with pytest.raises(TrustError, match="expected ciphertexts of key"):
        other.decrypt(total, expect.sum(3))
    with pytest.raises(RemoteProtocolError, match="expected key id"):
        other.decrypt(total, dataclasses.replace(expect.sum(3), key_id=other.key_id))


def test_another_key_with_a_forged_id_is_refused_by_its_noise(engine, total, params, expect):
    other = type(engine)(params, SecretKey.generate(params))
    forged = dataclasses.replace(expect.sum(3), key_id=other.key_id)
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    data = write_chunk(dataclasses.replace(chunk.header, key_id=other.key_id), chunk.seeds, chunk.polynomials)
    with pytest.raises(TrustError, match="wrong key or altered sum"):
        other.decrypt(data, forged)


def test_a_key_of_another_ring_is_refused(engine, key):
    other = CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(29, 29)))
    with pytest.raises(TrustError, match="expected a key of ring"):
        type(engine)(other, key)


@pytest.mark.parametrize("place", [0, 1, 5000, 100_000, -1])
def test_a_flipped_bit_of_the_sum_is_noticed(engine, total, expect, place):
    data = bytearray(total)
    data[HEADER_BYTES + place if place >= 0 else place] ^= 1
    with pytest.raises((TrustError, RemoteProtocolError), match=r"expected|wrong key or altered sum"):
        engine.decrypt(bytes(data), expect.sum(3))


def test_swapped_ciphertext_halves_are_noticed(engine, total, expect, params):
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    data = write_chunk(chunk.header, chunk.seeds, chunk.polynomials[:, ::-1])
    with pytest.raises(TrustError, match="wrong key or altered sum"):
        engine.decrypt(data, expect.sum(3))


def test_a_sum_that_is_no_encryption_is_refused(engine, total, expect, params):
    """c1 = 0 is what SEAL calls transparent."""
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    for number in (0, 1):
        polynomials = chunk.polynomials.copy()
        polynomials[number, 1] = 0
        with pytest.raises(TrustError, match=r"SEAL refuses the sum|wrong key or altered sum"):
            engine.decrypt(write_chunk(chunk.header, chunk.seeds, polynomials), expect.sum(3))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"context": bytes(32)}, "expected context"),
        ({"index": 1}, "expected index 1, got 0"),
        ({"sites": 2}, "expected number of sites 2, got 3"),
        ({"count": 1}, "expected number of ciphertexts 1, got 2"),
    ],
)
def test_the_sum_of_another_round_place_or_size_is_refused(engine, total, expect, change, told):
    with pytest.raises(RemoteProtocolError, match=told):
        engine.decrypt(total, dataclasses.replace(expect.sum(3), **change))


def test_a_truncated_sum_is_refused(engine, total, expect):
    with pytest.raises(RemoteProtocolError, match="bytes for 2 ciphertexts"):
        engine.decrypt(total[:-1], expect.sum(3))


def test_an_upload_is_not_decrypted_as_a_sum(engine, context, expect, messages):
    upload = engine.encrypt(messages(1)[0], context, 0)
    with pytest.raises(RemoteProtocolError, match="expected kind SUM, got UPLOAD"):
        engine.decrypt(upload, expect.sum(1))
    with pytest.raises(RemoteProtocolError, match="was asked for UPLOAD"):
        engine.decrypt(upload, expect.upload())


@pytest.mark.parametrize(("residual", "fine"), [(63, True), (-63, True), (64, False), (-64, False), (2000, False)])
def test_noise_is_taken_up_to_what_the_sites_can_cause_and_not_beyond(total, seal_engine, expect, residual, fine):
    """A constant polynomial is constant in NTT form too: it shifts the first coefficient's noise."""
    engine, params = expect.engine, expect.engine.params
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    first = int(seal_engine._core.decrypt(chunk.polynomials[:, 0], chunk.polynomials[:, 1])[0, 0])
    shift = residual - (first - ((first + 2048) >> 12 << 12))
    moved = chunk.polynomials.astype(np.int64)
    moved[0, 0] = (moved[0, 0] + shift) % np.array(params.primes).reshape(2, 1)
    data = write_chunk(chunk.header, chunk.seeds, moved.astype(np.uint32))
    if fine:
        assert np.array_equal(engine.decrypt(data, expect.sum(3)), engine.decrypt(total, expect.sum(3)))
    else:
        with pytest.raises(TrustError, match=rf"noise {abs(residual)} is larger than 3 honest .* \(63\)"):
            engine.decrypt(data, expect.sum(3))


def test_a_sum_that_claims_too_many_sites_is_refused(engine, total, expect, params):
    chunk = read_chunk(total, expect=expect.sum(3), params=params)
    data = write_chunk(dataclasses.replace(chunk.header, sites=98), chunk.seeds, chunk.polynomials)
    with pytest.raises(RemoteProtocolError, match="at most 97 sites, got one of 98"):
        engine.decrypt(data, dataclasses.replace(expect.sum(3), sites=None))


# ---- wrong arguments ----


@pytest.mark.parametrize("shape", [(4096,), (0, 4096), (17, 4096), (1, 4095), (1, 1, 4096)])
def test_coefficients_of_another_shape_are_refused(engine, context, shape):
    with pytest.raises(CapacityError, match=r"shape \(1 to 16, 4096\)"):
        engine.encrypt(np.zeros(shape, dtype=np.int64), context, 0)


@pytest.mark.parametrize("value", [1 << 47, -(1 << 47), np.iinfo(np.int64).min])
def test_a_coefficient_beyond_the_modulus_is_refused(engine, context, value):
    message = np.zeros((1, 4096), dtype=np.int64)
    message[0, 17] = value
    with pytest.raises(CapacityError, match=f"got {abs(value)}"):
        engine.encrypt(message, context, 0)


def test_a_short_context_and_a_negative_index_are_refused(engine, messages):
    for context, index in ((bytes(31), 0), (bytes(32), -1), (bytes(32), 1 << 32)):
        with pytest.raises(CapacityError, match="context of 32 bytes"):
            engine.encrypt(messages(1)[0], context, index)


def test_an_engine_that_computes_wrongly_does_not_start(engine, params, key, monkeypatch):
    kind = type(engine)
    decrypt = kind.decrypt
    monkeypatch.setattr(kind, "decrypt", lambda self, data, expect: decrypt(self, data, expect) + 1)
    with pytest.raises(ConfigError, match=f"{kind.__name__} failed its self-test"):
        kind(params, key)
