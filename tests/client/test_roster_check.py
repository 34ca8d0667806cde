"""Each check between a sealed roster and this site's update; each test fails if its check is taken out."""

import dataclasses
import hashlib
import struct
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fedhe.client.note import Note
from fedhe.client.roster_check import Anchors, Expectation, Purpose, check_roster
from fedhe.errors import PolicyError, RemoteProtocolError, TrustError
from fedhe.model.layout import Layout, TensorSpec
from fedhe.trust.certificates import load_certificate
from fedhe.trust.sealed import GroupKey, NoteContext, seal_note
from fedhe.trust.signatures import READY_LABEL, parse_private_key, sign
from fedhe.wire import federation
from fedhe.wire.messages import ReadyStatement, write_ready

LAYOUT = Layout((TensorSpec(name="w", shape=(3,), dtype="float32", statistic=False, field_bits=16),))
FINGERPRINT = bytes(range(32))


def context_of(bodies):
    """Written from the wire's definition, not from the code under test."""
    framed = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    return hashlib.sha256(b"fedhe/v1/context\0" + framed).digest()


@dataclass
class Table:
    """Three honest sites around one round; what a test changes, it changes here."""

    project: object
    issued: dict = field(default_factory=dict)
    key: GroupKey | None = None

    def __post_init__(self):
        self.issued |= {name: issued for name, (role, issued) in self.project.members.items() if role == "site"}
        self.key = self.key or self.project.group_key

    def statement(self, site, *, note=None, note_round=3, **changes):
        fields = {
            "project": "brain-mri",
            "job_id": "j1",
            "round": 3,
            "attempt": 2,
            "site": site,
            "nonce": hashlib.sha256(site.encode()).digest()[:16],
            "model_fingerprint": FINGERPRINT,
            "layout_digest": LAYOUT.digest,
            "key_id": self.project.secret_key.key_id,
            "params_id": self.project.params.params_id,
            "chunks": 1,
        } | changes
        note = note or Note(10, {"w": 0.5}, {"dice": 0.5}, "dice")
        place = NoteContext(
            project="brain-mri", job_id="j1", round=note_round, attempt=2, site=site, nonce=fields["nonce"]
        )
        sealed = seal_note(self.key, context=place, note=note.to_json())
        return ReadyStatement(**fields, sealed_note=sealed)

    def ready(self, site, *, signer=None, issued=None, **changes):
        issued = issued or self.issued[signer or site]
        body = write_ready(self.statement(site, **changes))
        der = load_certificate(issued.certificate_pem).public_bytes(Encoding.DER)
        signature = sign(READY_LABEL, body, parse_private_key(issued.key_pem))
        return federation.SignedReady(body=body, signature=signature, certificate=der)

    def sealed(self, *ready, **changes):
        ready = ready or tuple(self.ready(site) for site in "ABC")
        fields = {
            "job_id": "j1", "round": 3, "attempt": 2, "ready": ready,
            "context": context_of([bytes(one.body) for one in ready]),
        }  # fmt: skip
        return federation.SealedRoster(**(fields | changes))

    def expect(self, sealed, **changes):
        own = next((bytes(one.body) for one in sealed.ready if b"\x2a\x01A" in one.body), None)
        fields = {
            "project": "brain-mri", "job_id": "j1", "round": 3, "attempt": 2, "site": "A", "fingerprint": FINGERPRINT,
            "layout": LAYOUT, "params_id": self.project.params.params_id, "key_id": self.project.secret_key.key_id,
            "chunks": 1, "min_sites": 3, "max_sites": 97, "own_body": own, "committed": None,
        }  # fmt: skip
        return Expectation(**(fields | changes))

    def check(self, sealed, *, purpose=Purpose.UPLOAD, now=None, participants=None, **changes):
        anchors = Anchors(
            self.project.ca, participants or self.project.roster(), self.project.group_key, now or self.project.now
        )
        return check_roster(sealed, self.expect(sealed, **changes), anchors, purpose)


@pytest.fixture
def table(project):
    return Table(project)


def others(table, ready):
    """A's and C's honest READY with another one for B between them."""
    return table.sealed(table.ready("A"), ready, table.ready("C"))


def test_an_honest_roster_passes_and_opens_all_notes(table):
    sealed = table.sealed()
    for purpose in Purpose:
        checked = table.check(sealed, purpose=purpose)
        assert checked.sites == ("A", "B", "C")
        assert checked.context == sealed.context
        assert checked.notes["B"] == Note(10, {"w": 0.5}, {"dice": 0.5}, "dice")


@pytest.mark.parametrize("field", ["body", "signature"])
def test_a_ready_with_a_wrong_signature_is_refused(table, field):
    ready = table.ready("B")
    changed = bytearray(getattr(ready, field))
    changed[-1] ^= 1
    setattr(ready, field, bytes(changed))
    with pytest.raises(TrustError, match="signature"):
        table.check(others(table, ready))


def test_a_ready_signed_under_another_label_is_refused(table):
    issued = table.issued["B"]
    ready = table.ready("B")
    ready.signature = sign(b"fedhe/v1/job\0", bytes(ready.body), parse_private_key(issued.key_pem))
    with pytest.raises(TrustError, match="signature"):
        table.check(others(table, ready))


def test_a_site_of_a_foreign_authority_is_refused(table, make_project):
    stranger = make_project().members["B"][1]
    with pytest.raises(TrustError, match=r"authority"):
        table.check(others(table, table.ready("B", issued=stranger)))


def test_an_expired_certificate_is_refused_for_upload_and_passes_for_apply(table, project):
    issued = project.issue("site", "B", days=1, listed=False)
    later = project.now + 2 * 86400
    project_roster = project.roster()
    listed = tuple(
        dataclasses.replace(p, serial=issued.serial, not_after=issued.not_after) if p.name == "B" else p
        for p in project_roster.participants
    )
    roster = dataclasses.replace(project_roster, participants=listed)
    sealed = others(table, table.ready("B", issued=issued))
    with pytest.raises(TrustError, match="expired"):
        table.check(sealed, participants=roster, now=later)
    assert table.check(sealed, participants=roster, now=later, purpose=Purpose.APPLY).sites == ("A", "B", "C")


def test_a_revoked_site_is_refused_for_upload_and_passes_for_apply(table, project):
    from fedhe.trust.roster import Revocation

    roster = project.roster()
    gone = Revocation("B", table.issued["B"].serial, project.now, "stolen")
    roster = dataclasses.replace(roster, revoked=(gone,))
    with pytest.raises(TrustError, match="revoked"):
        table.check(table.sealed(), participants=roster)
    assert table.check(table.sealed(), participants=roster, purpose=Purpose.APPLY).sites == ("A", "B", "C")


def test_a_certificate_that_the_coordinator_does_not_list_is_refused(table, project):
    unlisted = project.issue("site", "B", listed=False)
    with pytest.raises(TrustError, match="not on roster"):
        table.check(others(table, table.ready("B", issued=unlisted)))


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("signer", ["lead", "server"])
def test_only_sites_contribute_not_admins_and_not_the_server(table, project, signer, purpose):
    ready = table.ready("B", issued=project.members[signer][1])
    with pytest.raises(TrustError, match="expected the certificate of a site"):
        table.check(others(table, ready), purpose=purpose)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_site_cannot_speak_for_another(table, purpose):
    with pytest.raises(TrustError, match="signed with the certificate of C"):
        table.check(others(table, table.ready("B", signer="C")), purpose=purpose)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("project", "other", "project"),
        ("job_id", "j2", "job"),
        ("round", 2, "round"),
        ("attempt", 1, "attempt"),
        ("model_fingerprint", bytes(32), "fingerprint"),
        ("layout_digest", bytes(32), "layout"),
        ("key_id", bytes(16), "key id"),
        ("params_id", bytes(16), "HE parameters"),
        ("chunks", 2, "number of chunks"),
    ],
)
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_ready_about_anything_else_is_refused(table, purpose, field, value, said):
    with pytest.raises(RemoteProtocolError, match=f"READY of B: expected.*{said}"):
        table.check(others(table, table.ready("B", **{field: value})), purpose=purpose)


@pytest.mark.parametrize("change", [{"job_id": "j2"}, {"round": 2}, {"attempt": 1}])
def test_a_roster_of_another_job_round_or_attempt_is_refused(table, change):
    with pytest.raises(RemoteProtocolError, match="expected job, round and attempt"):
        table.check(table.sealed(**change))


def test_a_roster_out_of_order_or_with_a_site_twice_is_refused(table):
    a, b, c = (table.ready(site) for site in "ABC")
    for ready in [(b, a, c), (a, b, b, c)]:
        with pytest.raises(RemoteProtocolError, match="each site once, sorted"):
            table.check(table.sealed(*ready))


def test_a_nonce_that_two_sites_share_is_refused(table):
    ready = table.ready("B", nonce=hashlib.sha256(b"A").digest()[:16])
    with pytest.raises(TrustError, match="nonce"):
        table.check(others(table, ready))


def test_a_roster_without_this_site_gets_no_update(table):
    sealed = table.sealed(table.ready("B"), table.ready("C"))
    with pytest.raises(TrustError, match="A, is not on the roster"):
        table.check(sealed, min_sites=2)
    assert table.check(sealed, min_sites=2, purpose=Purpose.APPLY).sites == ("B", "C")


@pytest.mark.parametrize("purpose", list(Purpose))
def test_an_older_ready_of_this_site_is_not_taken_for_its_last_one(table, purpose):
    older = bytes(table.ready("A", nonce=bytes(16)).body)
    with pytest.raises(TrustError, match="not the one that it sent last"):
        table.check(table.sealed(), own_body=older, purpose=purpose)


def test_a_site_that_signed_nothing_gives_nothing(table):
    with pytest.raises(TrustError, match="signed no READY"):
        table.check(table.sealed(), own_body=None)
    assert table.check(table.sealed(), own_body=None, purpose=Purpose.APPLY).sites == ("A", "B", "C")


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_context_that_is_not_the_rosters_is_refused(table, purpose):
    with pytest.raises(TrustError, match="expected roster context"):
        table.check(table.sealed(context=bytes(32)), purpose=purpose)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_one_ready_serves_one_roster_only(table, purpose):
    smaller = table.sealed(table.ready("A"), table.ready("C"))
    with pytest.raises(TrustError, match="already gave its update"):
        table.check(smaller, min_sites=2, committed=table.sealed().context, purpose=purpose)


def test_a_round_with_too_few_sites_gets_no_update(table):
    sealed = table.sealed(table.ready("A"), table.ready("C"))
    with pytest.raises(PolicyError, match="expected at least 3 sites, the roster has 2"):
        table.check(sealed)


def test_a_roster_larger_than_the_noise_allows_is_refused(table):
    with pytest.raises(RemoteProtocolError, match="at most 2 sites"):
        table.check(table.sealed(), max_sites=2)


def test_a_note_sealed_with_another_key_or_for_another_round_is_refused(table, project):
    other = Table(project, key=GroupKey.generate())
    with pytest.raises(TrustError, match="does not open"):
        table.check(others(table, other.ready("B")))
    with pytest.raises(TrustError, match="does not open"):
        table.check(others(table, table.ready("B", note_round=2)))


@pytest.mark.parametrize(
    ("note", "said"),
    [
        (Note(0, {"w": 0.5}, {}, None), "at least 1 sample"),
        (Note(5, {"v": 0.5}, {}, None), "tensors"),
        (Note(5, {"w": 0.5, "v": 0.1}, {}, None), "tensors"),
        (Note(5, {"w": -0.5}, {}, None), "changes from 0"),
    ],
)
def test_a_note_that_cannot_be_is_refused(table, note, said):
    with pytest.raises(RemoteProtocolError, match=said):
        table.check(others(table, table.ready("B", note=note)))


@pytest.mark.parametrize("change", [{"body": b"\xff\xff"}, {"certificate": b""}, {"signature": b""}, {"body": b""}])
def test_malformed_parts_are_one_documented_error(table, change):
    ready = table.ready("B")
    for name, value in change.items():
        setattr(ready, name, value)
    with pytest.raises((TrustError, RemoteProtocolError)):
        table.check(others(table, ready))
