"""Sums need no key, come out the same in any order, and refuse what does not belong together."""

import dataclasses
import itertools
import subprocess
import sys

import pytest

from fedhe.errors import CapacityError, RemoteProtocolError
from fedhe.he.ciphertext import ChunkKind, read_chunk
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.seal_engine import SealEngine
from fedhe.he.sums import add_chunks


@pytest.fixture
def uploads(engine, context, messages):
    return [engine.encrypt(message, context, 0) for message in messages(3, 2)]


def test_any_order_gives_the_same_bytes(uploads, params, expect):
    sums = {add_chunks(order, params, expect.upload()) for order in itertools.permutations(uploads)}
    assert len(sums) == 1
    header = read_chunk(sums.pop(), expect=expect.sum(3), params=params).header
    assert (header.kind, header.sites, header.count) == (ChunkKind.SUM, 3, 2)


def test_a_stream_of_chunks_is_enough(uploads, params, expect):
    assert add_chunks(iter(uploads), params, expect.upload()) == add_chunks(uploads, params, expect.upload())


def test_a_copied_contribution_is_refused(uploads, params, expect):
    with pytest.raises(RemoteProtocolError, match="expected a fresh seed"):
        add_chunks([*uploads, uploads[0]], params, expect.upload())


def test_no_chunk_at_all_is_refused(params, expect):
    with pytest.raises(RemoteProtocolError, match="at least one site, got none"):
        add_chunks([], params, expect.upload())


def test_chunks_of_different_sizes_are_refused(uploads, messages, expect):
    shorter = expect.engine.encrypt(messages(1)[0], expect.context, 0)
    with pytest.raises(RemoteProtocolError, match="expected 2 ciphertexts from every site, got 1"):
        add_chunks([*uploads, shorter], expect.engine.params, expect.upload())


@pytest.mark.parametrize("what", ["context", "index"])
def test_a_chunk_of_another_round_or_place_is_refused(what, uploads, messages, expect):
    context, index = (bytes(32), 0) if what == "context" else (expect.context, 1)
    odd = expect.engine.encrypt(messages(1, 2)[0], context, index)
    with pytest.raises(RemoteProtocolError, match=f"expected {what}"):
        add_chunks([*uploads, odd], expect.engine.params, expect.upload())


def test_a_sum_is_not_a_contribution(uploads, params, expect):
    total = add_chunks(uploads, params, expect.upload())
    with pytest.raises(RemoteProtocolError, match="expected kind UPLOAD, got SUM"):
        add_chunks([*uploads, total], params, expect.upload())


def test_a_chunk_of_other_field_widths_is_refused(uploads, expect):
    other = CkksParams.from_literal(CkksParamsLiteral(field_bits=12))
    with pytest.raises(RemoteProtocolError, match="expected parameters id"):
        add_chunks(uploads, other, expect.upload())
    with pytest.raises(RemoteProtocolError, match="expected parameters id"):
        add_chunks(uploads, other, dataclasses.replace(expect.upload(), params_id=other.params_id))


def test_more_sites_than_the_scale_allows_are_refused(context, messages, expect):
    params = CkksParams.from_literal(CkksParamsLiteral(scale_bits=7))
    assert params.max_sites == 3
    small = SealEngine(params, SecretKey.generate(params))
    expect = dataclasses.replace(expect, engine=small)
    uploads = [small.encrypt(message >> 2, context, 0) for message in messages(4)]
    add_chunks(uploads[:3], params, expect.upload())
    with pytest.raises(CapacityError, match="at most 3 sites"):
        add_chunks(uploads, params, expect.upload())


def test_summing_imports_nothing_that_holds_a_key():
    program = (
        "import sys, fedhe.he.sums; "
        "print([name for name in sys.modules if name in ('fedhe.he.keys', 'fedhe.he.seal_engine', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
