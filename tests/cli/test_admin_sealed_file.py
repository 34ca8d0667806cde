"""The file of a sealed checkpoint: what goes in comes out; anything else is one documented error."""

import io
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.cli.admin_sealed_file import MAGIC, SealedHeader, read_chunks, read_header, write_sealed
from fedhe.errors import ConfigError, FedheError, RemoteProtocolError
from fedhe.wire.limits import MAX_CHUNK_BYTES

PATH = Path("model.sealed")
CHUNKS = st.lists(st.binary(max_size=50), min_size=1, max_size=5)


def written(header, chunks):
    file = io.BytesIO()
    write_sealed(file, header, chunks)
    return file.getvalue()


def read(data):
    file = io.BytesIO(data)
    header = read_header(file, PATH)
    return header, list(read_chunks(file, header, PATH))


def with_header(header):
    described = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + struct.pack(">BI", 1, len(described)) + described


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 2**32 - 1), CHUNKS)
def test_what_goes_in_comes_out(project, job_id, version, chunks):
    header = SealedHeader(project, job_id, version, len(chunks))
    assert read(written(header, chunks)) == (header, chunks)


@given(CHUNKS, st.data())
def test_every_cut_is_noticed(chunks, data):
    whole = written(SealedHeader("trial", "a1", 2, len(chunks)), chunks)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FedheError):
        read(whole[:cut])


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_one_documented_way(data):
    with pytest.raises(ConfigError):
        read(data)


@given(st.binary(max_size=200))
def test_garbage_behind_a_good_beginning_is_refused_too(data):
    with pytest.raises((ConfigError, RemoteProtocolError)):
        read(MAGIC + b"\x01" + data)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 4000,
        [],
        {},
        {"project": "p", "job_id": "a", "version": True, "chunks": 1},
        {"project": "p", "job_id": "a", "version": -1, "chunks": 1},
        {"project": "p", "job_id": "a", "version": 1, "chunks": 0},
        {"project": "p", "job_id": "a", "version": 1, "chunks": 10**9},
        {"project": "p", "job_id": "a", "version": 1, "chunks": 1, "more": 1},
    ],
)
def test_a_header_that_is_none_is_refused(header):
    with pytest.raises(RemoteProtocolError):
        read(with_header(header))


def test_a_chunk_that_claims_to_be_huge_is_not_read():
    head = with_header({"project": "p", "job_id": "a", "version": 1, "chunks": 1})
    with pytest.raises(RemoteProtocolError, match=str(MAX_CHUNK_BYTES)):
        read(head + struct.pack(">I", 0xFFFFFFFF))


def test_a_newer_format_says_to_update():
    data = bytearray(written(SealedHeader("p", "a", 1, 1), [b"x"]))
    data[len(MAGIC)] = 2
    with pytest.raises(RemoteProtocolError, match="expected format version 1, got 2"):
        read(bytes(data))
