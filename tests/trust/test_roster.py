"""The signed roster: who may take part, and that no other or older document passes for it."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.trust.certificates import identity_of
from fedhe.trust.roster import MAX_ROSTER_BYTES, Participant, Revocation, Roster, read_roster
from fedhe.trust.signatures import JOB_LABEL, sign


@pytest.fixture(scope="module")
def members(peer):
    return [
        ("server", "server", peer.issue("server", "server", host="localhost")),
        ("hospitalB", "site", peer.issue("site", "hospitalB")),
        ("hospitalA", "site", peer.issue("site", "hospitalA")),
        ("lead", "admin-lead", peer.issue("admin-lead", "lead")),
    ]


def test_a_signed_roster_reads_back_the_same(peer, members):
    roster = peer.roster(*members, version=7, revoked=[("hospitalC", peer.issue(name="hospitalC"))])
    assert read_roster(peer.sign(roster), peer.ca, project="brain-mri", at_least_version=7) == roster
    assert roster.sites == ("hospitalA", "hospitalB")


def test_a_listed_participant_passes(peer, members):
    roster = peer.roster(*members)
    for _, _, issued in members:
        roster.check(identity_of(issued.certificate_pem))


def test_a_revoked_certificate_is_refused_with_day_and_reason(peer, members):
    roster = peer.roster(*members[:2], revoked=[("hospitalA", members[2][2])])
    with pytest.raises(TrustError, match=r"site hospitalA: its certificate was revoked on 2027-01-15 \(stolen\)"):
        roster.check(identity_of(members[2][2].certificate_pem))


def test_a_certificate_that_is_both_listed_and_revoked_is_refused(peer, members):
    roster = peer.roster(*members, revoked=[("hospitalA", members[2][2])])
    with pytest.raises(TrustError, match="revoked"):
        roster.check(identity_of(members[2][2].certificate_pem))


def test_a_certificate_that_was_issued_but_never_listed_is_refused(peer, members):
    stray = peer.issue("site", "hospitalA")
    with pytest.raises(TrustError, match="not on roster version 1"):
        peer.roster(*members).check(identity_of(stray.certificate_pem))


def test_both_certificates_hold_during_a_renewal(peer, members):
    newer = peer.issue("site", "hospitalA")
    roster = peer.roster(*members, ("hospitalA", "site", newer))
    roster.check(identity_of(newer.certificate_pem))
    roster.check(identity_of(members[2][2].certificate_pem))
    assert roster.sites == ("hospitalA", "hospitalB")


def test_another_role_or_name_than_listed_is_refused(peer, members):
    issued = members[2][2]
    for name, role in (("hospitalA", "admin-lead"), ("hospitalX", "site")):
        with pytest.raises(TrustError, match="the roster lists its certificate as"):
            peer.roster((name, role, issued)).check(identity_of(issued.certificate_pem))


def test_a_certificate_of_another_project_is_refused(peer, members, make_peer):
    stranger = make_peer("liver-ct").issue()
    with pytest.raises(TrustError, match="expected project brain-mri, got liver-ct"):
        peer.roster(*members).check(identity_of(stranger.certificate_pem))


def test_a_certificate_that_expired_since_is_refused_where_the_time_is_given(peer, members, now):
    identity = identity_of(members[2][2].certificate_pem)
    peer.roster(*members).check(identity, now)
    with pytest.raises(TrustError, match="expired on"):
        peer.roster(*members).check(identity, identity.not_after)


def test_an_older_roster_is_refused(peer, members):
    signed = peer.sign(peer.roster(*members, version=3))
    with pytest.raises(TrustError, match="expected version 4 or newer, got 3"):
        read_roster(signed, peer.ca, project="brain-mri", at_least_version=4)


def test_a_roster_of_another_project_or_authority_is_refused(peer, foreign_peer, members):
    signed = peer.sign(peer.roster(*members))
    with pytest.raises(TrustError, match="expected project liver-ct, got brain-mri"):
        read_roster(signed, peer.ca, project="liver-ct", at_least_version=1)
    with pytest.raises(TrustError, match="does not fit"):
        read_roster(signed, foreign_peer.ca, project="brain-mri", at_least_version=1)


def test_a_roster_with_any_byte_changed_is_refused(peer, members):
    signed = peer.sign(peer.roster(*members))

    @given(st.integers(0, len(signed) - 1), st.integers(1, 255))
    def one_other_byte(position, flip):
        altered = bytearray(signed)
        altered[position] ^= flip
        with pytest.raises(TrustError):
            read_roster(bytes(altered), peer.ca, project="brain-mri", at_least_version=1)

    one_other_byte()


def test_a_cut_or_lengthened_roster_is_refused(peer, members):
    signed = peer.sign(peer.roster(*members))
    for altered in (b"", signed[:-1], signed[:40], signed + b"\n", signed + b"x", signed * 2):
        with pytest.raises(TrustError):
            read_roster(altered, peer.ca, project="brain-mri", at_least_version=1)
    with pytest.raises(TrustError, match=f"at most {MAX_ROSTER_BYTES} bytes"):
        read_roster(bytes(MAX_ROSTER_BYTES + 1), peer.ca, project="brain-mri", at_least_version=1)


def test_a_signature_for_another_purpose_does_not_make_a_roster(peer, members):
    head, body, _, _ = peer.sign(peer.roster(*members)).split(b"\n")
    job_signature = base64.b64encode(sign(JOB_LABEL, body, peer.ca_key))
    with pytest.raises(TrustError, match="does not fit"):
        read_roster(b"\n".join([head, body, job_signature, b""]), peer.ca, project="brain-mri", at_least_version=1)


def test_even_a_signed_roster_must_make_sense(peer, members):
    good = peer.roster(*members)
    for wrong in (
        replace(good, min_sites=1),
        replace(good, version=0),
        replace(good, key_id=b"short"),
        replace(good, participants=(Participant("x", "site", -1, 1.0),)),
        replace(good, participants=(Participant("x", "site", 1, float("nan")),)),
        replace(good, revoked=(Revocation("x", 1, 1e300, "its day has no name"),)),
        replace(good, revoked=(Revocation("x", 1, -1.0, "so has this one"),)),
        replace(good, version=2**64),
        replace(good, min_sites=10**6),
    ):
        with pytest.raises(TrustError, match="signed, but not readable"):
            read_roster(peer.sign(wrong), peer.ca, project="brain-mri", at_least_version=0)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 2**159 - 1), st.floats(0, 1e11)),
        max_size=5,
        unique_by=lambda entry: entry[1],
    )
)
def test_any_names_and_serials_survive(peer, entries):
    participants = tuple(Participant(name, "site", serial, ends) for name, serial, ends in entries)
    roster = Roster("brain-mri", 1, 5.5, bytes(16), 3, participants, ())
    assert read_roster(peer.sign(roster), peer.ca, project="brain-mri", at_least_version=1) == roster
