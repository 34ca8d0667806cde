"""Today's program reads and writes what the committed golden vectors hold; see tests/vectors/README.md."""

import hashlib
import json

import numpy as np
import pytest

from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks
from fedhe.model.layout import Layout

CONTEXT = hashlib.sha256(b"golden").digest()


@pytest.fixture(scope="module")
def golden(vectors):
    return json.loads((vectors / "he_v1.json").read_text())


@pytest.fixture(scope="module")
def insecure_key(vectors):
    return SecretKey.from_bytes((vectors / "insecure_test_key.bin").read_bytes())


@pytest.fixture(scope="module")
def uploads(vectors):
    return [(vectors / f"upload_{number}.fhct").read_bytes() for number in (1, 2)]


def expectation(kind, insecure_key, params, sites):
    return Expectation(kind, insecure_key.key_id, params.params_id, CONTEXT, 5, 1, sites)


def coefficients(site):
    places = np.arange(4096, dtype=np.int64)
    return ((-1) ** places * site * (places + 1) * 8_000_000_000).reshape(1, 4096)


def test_ids_are_those_of_the_vectors(golden, insecure_key, params):
    assert insecure_key.key_id.hex() == golden["key_id"]
    assert params.ring_id.hex() == golden["ring_id"]
    assert params.params_id.hex() == golden["params_id"]
    literal = {name: golden["params"][name] for name in CkksParamsLiteral.__dataclass_fields__}
    assert CkksParams.from_literal(CkksParamsLiteral(**literal)) == params


def test_the_layout_has_the_digest_of_the_vectors(golden):
    layout = Layout.from_json(json.dumps(golden["layout"]))
    assert layout.digest.hex() == golden["layout_digest"]


def test_the_uploads_add_up_to_the_golden_sum(golden, vectors, uploads, insecure_key, params):
    total = add_chunks(uploads, params, expectation(ChunkKind.UPLOAD, insecure_key, params, 1))
    assert total == (vectors / "sum.fhct").read_bytes()
    assert hashlib.sha256(total).hexdigest() == golden["sum_sha256"]


def test_the_golden_sum_decrypts_to_known_coefficients(golden, vectors, insecure_key, params):
    engine = SealEngine(params, insecure_key)
    expect = expectation(ChunkKind.SUM, insecure_key, params, 2)
    found = engine.decrypt((vectors / "sum.fhct").read_bytes(), expect)
    assert np.array_equal(found, coefficients(1) + coefficients(2))
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == golden["coefficients_sha256"]


def test_each_golden_upload_decrypts_alone(uploads, insecure_key, params):
    engine = SealEngine(params, insecure_key)
    for site, upload in enumerate(uploads, start=1):
        alone = add_chunks([upload], params, expectation(ChunkKind.UPLOAD, insecure_key, params, 1))
        found = engine.decrypt(alone, expectation(ChunkKind.SUM, insecure_key, params, 1))
        assert np.array_equal(found, coefficients(site))
