"""Parsers of signed messages: a valid value or one error."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import RemoteProtocolError
from fedhe.wire import admin, federation
from fedhe.wire.limits import MAX_NOTE_BYTES, MAX_SITES
from fedhe.wire.messages import (
    SignedJob,
    check_job_id,
    check_sealed_roster,
    parse_ready,
    parse_signed_job,
    parse_signed_ready,
    write_ready,
    write_signed_job,
)


@pytest.fixture
def roster(statement):
    def build(*sites, **changes):
        ready = [
            federation.SignedReady(body=write_ready(statement(site=site, **changes)), signature=b"s", certificate=b"c")
            for site in sites
        ]
        return federation.SealedRoster(job_id="job-1", round=3, attempt=1, ready=ready, context=bytes(32))

    return build


@given(
    round_=st.integers(1, 100_000),
    chunks=st.integers(1, 65_536),
    nonce=st.binary(min_size=16, max_size=16),
    note=st.binary(min_size=1, max_size=200),
)
def test_a_ready_that_was_written_is_read_back(statement, round_, chunks, nonce, note):
    ready = statement(round=round_, chunks=chunks, nonce=nonce, sealed_note=note)
    assert parse_ready(write_ready(ready)) == ready


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round": 0}, "round: expected 1 to 100000, got 0"),
        ({"attempt": 0}, "attempt: expected 1"),
        ({"chunks": 0}, "number of chunks: expected 1 to 65536, got 0"),
        ({"chunks": 65_537}, "got 65537"),
        ({"site": "../x"}, "site: expected"),
        ({"site": "a" * 64}, "site: expected"),
        ({"job_id": "a/b"}, "job id: expected"),
        ({"project": ""}, "project: expected"),
        ({"nonce": b"short"}, "nonce: expected 16 bytes, got 5"),
        ({"model_fingerprint": b""}, "model fingerprint: expected 32 bytes, got 0"),
        ({"layout_digest": bytes(31)}, "layout digest: expected 32 bytes, got 31"),
        ({"key_id": bytes(17)}, "key id: expected 16 bytes, got 17"),
        ({"params_id": b""}, "parameter id: expected 16 bytes, got 0"),
        ({"sealed_note": b""}, "size of the sealed note"),
        ({"sealed_note": bytes(MAX_NOTE_BYTES + 1)}, "size of the sealed note"),
    ],
)
def test_a_field_out_of_range_says_what_was_expected_and_what_came(statement, change, message):
    with pytest.raises(RemoteProtocolError) as caught:
        statement(**change)
    assert message in caught.value.message


def test_a_wrong_body_is_refused_when_read(statement):
    body = federation.ReadyBody.FromString(write_ready(statement()))
    body.nonce = b"short"
    with pytest.raises(RemoteProtocolError, match="nonce: expected 16 bytes, got 5"):
        parse_ready(body.SerializeToString())


@given(st.binary(max_size=120))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused_with_one_error(data):
    for parse in (parse_ready, parse_signed_ready, parse_signed_job):
        with contextlib.suppress(RemoteProtocolError):
            parse(data)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_ready_is_read_or_refused_with_one_error(statement, data):
    body = bytearray(write_ready(statement()))
    for position in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=3)):
        body[position] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_ready(bytes(body))
    except RemoteProtocolError:
        return
    assert parsed.round >= 1


def test_messages_over_the_limit_are_refused_unparsed():
    with pytest.raises(RemoteProtocolError, match="READY: expected at most"):
        parse_ready(bytes(MAX_NOTE_BYTES + 16 * 1024 + 1))


def test_a_signed_ready_needs_signature_and_certificate(statement):
    body = write_ready(statement())
    whole = federation.SignedReady(body=body, signature=b"s", certificate=b"c")
    assert parse_signed_ready(whole.SerializeToString()).body == body
    for broken in ({"signature": b""}, {"signature": bytes(257)}, {"certificate": b""}, {"certificate": bytes(8193)}):
        message = federation.SignedReady(**{"body": body, "signature": b"s", "certificate": b"c", **broken})
        with pytest.raises(RemoteProtocolError, match="size of the"):
            parse_signed_ready(message.SerializeToString())


def test_a_sealed_roster_is_sorted_distinct_and_of_one_round(roster):
    assert [ready.site for ready in check_sealed_roster(roster("a", "b", "c"))] == ["a", "b", "c"]
    for sites in (("b", "a"), ("a", "a")):
        with pytest.raises(RemoteProtocolError, match="each site once, sorted"):
            check_sealed_roster(roster(*sites))
    for change in ({"round": 2}, {"attempt": 2}, {"job_id": "job-2"}):
        with pytest.raises(RemoteProtocolError, match="READY of a: expected job, round, attempt"):
            check_sealed_roster(roster("a", "b", **change))


def test_a_sum_over_one_site_or_over_too_many_is_refused(roster):
    for sites in (["a"], [f"s{number:03}" for number in range(MAX_SITES + 1)]):
        with pytest.raises(RemoteProtocolError, match=f"expected 2 to {MAX_SITES}, got {len(sites)}"):
            check_sealed_roster(roster(*sites))


def test_a_signed_job_is_read_back_and_the_submission_is_the_object(roster):
    job = SignedJob(b"archive", b"signature", b"certificate")
    data = write_signed_job(job)
    assert parse_signed_job(data) == job
    assert admin.SubmitJobRequest.FromString(data).archive == b"archive"


@pytest.mark.parametrize("job_id", ["", "../a", "A", "a/b", "a.b", "-a", "a" * 65, "a\n"])
def test_job_ids_that_are_no_folder_name_are_refused(job_id):
    with pytest.raises(RemoteProtocolError, match="job id: expected"):
        check_job_id(job_id)


def test_job_ids_are_kept():
    assert check_job_id("20260102-brain-7f3a") == "20260102-brain-7f3a"
