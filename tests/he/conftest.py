"""One key, one engine and the plain sums that everything is compared with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.engine import Engine
from fedhe.he.fast_engine import FastEngine
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks
from fedhe.model.layout import Layout, TensorSpec


@pytest.fixture(scope="session")
def params():
    return DEFAULT_PARAMS


@pytest.fixture(scope="session")
def key(params):
    return SecretKey.generate(params)


@pytest.fixture(scope="session")
def seal_engine(params, key):
    return SealEngine(params, key)


@pytest.fixture(scope="session")
def processes_engine(params, key):
    return SealEngine(params, key, processes=2)


@pytest.fixture(scope="session")
def fast_engine(params, key):
    return FastEngine(params, key)


@pytest.fixture(params=["seal", "processes", "fast"])
def engine(request):
    """Each engine in turn, SEAL also in processes of its own: whatever is asked of one is asked of all."""
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture(scope="session")
def vectors():
    return Path(__file__).parents[1] / "vectors"


@pytest.fixture
def context():
    return bytes(range(32))


@dataclass(frozen=True)
class Expect:
    """Makes expectations for one engine and context."""

    engine: Engine
    context: bytes

    def upload(self, index=0, count=None):
        params = self.engine.params
        return Expectation(ChunkKind.UPLOAD, self.engine.key_id, params.params_id, self.context, index, count)

    def sum(self, sites, index=0, count=None):
        params = self.engine.params
        return Expectation(ChunkKind.SUM, self.engine.key_id, params.params_id, self.context, index, count, sites)


@pytest.fixture
def expect(engine, context):
    return Expect(engine, context)


@pytest.fixture(scope="session")
def expect_of():
    """Expectations for an engine that the test names."""
    return lambda engine: Expect(engine, bytes(range(32)))


@pytest.fixture
def federated_sum(engine, expect):
    """Encrypts each site's coefficients, adds, decrypts: the whole way of one chunk."""

    def run(messages, engine=engine, expect=expect):
        uploads = [engine.encrypt(message, expect.context, 0) for message in messages]
        total = add_chunks(uploads, engine.params, expect.upload())
        return engine.decrypt(total, expect.sum(len(messages)))

    return run


@pytest.fixture
def make_layout():
    def make(*tensors):
        """(name, shape, field_bits) each."""
        return Layout(tuple(TensorSpec(name, shape, "float32", bits != 16, bits) for name, shape, bits in tensors))

    return make


@pytest.fixture
def messages(params):
    """Random coefficients of many sites, whose sums stay within the modulus."""

    def make(sites, ciphertexts=1, seed=0):
        limit = ((params.modulus // 2) // params.scale - 1) // sites
        rng = np.random.default_rng(seed)
        return [rng.integers(-limit, limit, (ciphertexts, 4096), endpoint=True) for _ in range(sites)]

    return make
