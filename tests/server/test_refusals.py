"""What does not fit is refused with what was expected and what came, and leaves no trace."""

import hashlib
import secrets

import grpc
import pytest

from fedhe.errors import NotFoundError, RemoteProtocolError, StateError, TrustError
from fedhe.he.keys import SecretKey
from fedhe.he.seal_engine import SealEngine
from fedhe.trust.signatures import JOB_LABEL, READY_LABEL, sign
from fedhe.wire import admin, federation
from fedhe.wire.limits import LATEST, MAX_CHUNK_BYTES, MAX_JOBS_PER_POLL, MAX_LOG_LINES
from fedhe.wire.messages import job_pieces


class Uploading:
    """A job in which all sites were asked to upload and none has begun."""

    def __init__(self, world):
        self.world = world
        self.job = world.submit(rounds=1)
        world.run(self.job, {"upload"})
        self.site = world.sites[0]
        self.roster = self.site.instruction(self.job).upload.roster
        self.ref = self.site.update_ref(self.roster)

    def data(self, chunk=0):
        return self.site.encrypted(self.roster, chunk)

    def refuses(self, data, match, *, index=0, ref=None, error=RemoteProtocolError, digest=None):
        with pytest.raises(error, match=match):
            self.site.put(ref or self.ref, index, data, digest)
        status = self.site.call(self.site.federation.UploadStatus, self.ref)
        assert status == federation.UploadStatusReply()
        assert not (self.world.server.folder / "blobs" / self.job / "update").exists()


@pytest.fixture(scope="module")
def uploading(shared_world):
    return Uploading(shared_world)


def changed_ref(ref, **values):
    changed = federation.ObjectRef()
    changed.CopyFrom(ref)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def test_a_chunk_that_is_too_large(uploading):
    uploading.refuses(
        bytes(MAX_CHUNK_BYTES + 1), f"expected at most {MAX_CHUNK_BYTES} bytes, got {MAX_CHUNK_BYTES + 1}"
    )
    uploading.refuses(bytes(MAX_CHUNK_BYTES + 10_000), "expected at most")


def test_a_message_that_is_far_too_large_does_not_get_through(uploading):
    with pytest.raises(Exception, match=r"larger than max|exceeds maximum"):
        uploading.site.put(uploading.ref, 0, bytes(70 * 1024 * 1024))


def test_a_chunk_that_was_altered_on_the_way(uploading):
    uploading.refuses(uploading.data(), "expected SHA-256", digest=bytes(32))


def test_a_chunk_beyond_what_ready_told(uploading):
    uploading.refuses(uploading.data(), "expected chunks 0 to 1, as told in READY, got 2", index=2)
    uploading.refuses(uploading.data(), "expected", index=2**32 - 1)


def test_a_chunk_at_another_place(uploading):
    uploading.refuses(uploading.data(0), "expected index 1, got 0", index=1)


def test_a_chunk_for_another_round_or_attempt_or_version(uploading):
    asked = r"was asked for 'upload/1/1' in phase upload"
    for values in ({"number": 2}, {"attempt": 2}, {"number": 0}):
        ref = changed_ref(uploading.ref, **values)
        uploading.refuses(uploading.data(), asked, ref=ref, error=StateError)
    checkpoint = uploading.site.checkpoint_ref(uploading.job, 0)
    uploading.refuses(b"sealed", asked, ref=checkpoint, error=StateError)


def test_a_chunk_of_another_job_or_kind(uploading):
    ref = changed_ref(uploading.ref, job_id="no-such-job")
    uploading.refuses(uploading.data(), "no job 'no-such-job'", ref=ref, error=NotFoundError)
    for kind in (federation.OBJECT_KIND_SUM, federation.OBJECT_KIND_JOB, federation.OBJECT_KIND_UNSPECIFIED, 99):
        ref = changed_ref(uploading.ref, kind=kind)
        uploading.refuses(uploading.data(), "expected an update or a checkpoint", ref=ref)


def test_ciphertexts_of_another_key(uploading):
    params = uploading.site.installation.params
    other = SealEngine(params, SecretKey.generate(params))
    data = other.encrypt(uploading.site.coefficients(1, 0), uploading.roster.context, 0)
    key_id = uploading.site.secret_key.key_id.hex()
    uploading.refuses(data, f"expected key id {key_id}, got {other.key_id.hex()}")


def test_ciphertexts_of_another_context(uploading):
    data = uploading.site.engine.encrypt(uploading.site.coefficients(1, 0), bytes(32), 0)
    uploading.refuses(data, f"expected context {uploading.roster.context.hex()}, got {bytes(32).hex()}")


def test_bytes_that_are_no_ciphertexts(uploading):
    uploading.refuses(secrets.token_bytes(5000), "ciphertext chunk: expected it to begin with")
    uploading.refuses(b"", "ciphertext chunk: expected at least")
    uploading.refuses(uploading.data()[:-1], "ciphertext chunk: expected .* bytes")
    too_large = bytearray(uploading.data())
    too_large[-4000:] = b"\xff" * 4000
    uploading.refuses(bytes(too_large), "expected residues below")


def test_fewer_ciphertexts_than_a_full_chunk_has(uploading):
    few = uploading.site.engine.encrypt(uploading.site.coefficients(1, 0)[:3], uploading.roster.context, 0)
    uploading.refuses(few, "expected number of ciphertexts 16, got 3")


def test_an_upload_that_is_not_complete(uploading):
    for chunks, match in ((2, "missing 0, 1"), (1, "expected 2 to 2 chunks, got 1"), (0, "got 0"), (3, "got 3")):
        request = federation.FinishUploadRequest(object=uploading.ref, chunks=chunks, digest=bytes(32))
        with pytest.raises((StateError, RemoteProtocolError), match=match):
            uploading.site.call(uploading.site.federation.FinishUpload, request)
    assert uploading.world.lead.phase(uploading.job) == "upload"


def test_objects_that_are_not_there_or_not_for_sites(uploading):
    site = uploading.site
    with pytest.raises(RemoteProtocolError, match="cannot be fetched"):
        site.fetch(uploading.ref)
    for values in ({"kind": federation.OBJECT_KIND_SUM}, {"kind": federation.OBJECT_KIND_CHECKPOINT, "number": 7}):
        with pytest.raises(NotFoundError, match="is not stored here"):
            site.fetch(changed_ref(uploading.ref, **values))
    ref = site.checkpoint_ref(uploading.job, 0)
    with pytest.raises(RemoteProtocolError, match="expected a chunk below 3, got 3"):
        site.call(site.federation.GetChunk, federation.GetChunkRequest(object=ref, index=3))


def test_admins_fetch_archives_and_checkpoints_and_nothing_else(uploading):
    lead, site = uploading.world.lead, uploading.site
    newest = changed_ref(site.checkpoint_ref(uploading.job, 0), number=LATEST)
    assert lead.call(lead.admin.DescribeObject, newest).chunks == 3
    archive = federation.ObjectRef(job_id=uploading.job, kind=federation.OBJECT_KIND_JOB)
    described = lead.call(lead.admin.DescribeObject, archive)
    assert described == site.call(site.federation.DescribeObject, archive)
    chunk = lead.call(lead.admin.GetChunk, federation.GetChunkRequest(object=archive, index=0))
    assert hashlib.sha256(chunk.data).digest() == chunk.digest
    for kind in (federation.OBJECT_KIND_UPDATE, federation.OBJECT_KIND_SUM):
        with pytest.raises(RemoteProtocolError, match="cannot be fetched"):
            lead.call(lead.admin.DescribeObject, changed_ref(uploading.ref, kind=kind))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"site": "hospitalB"}, RemoteProtocolError, "expected site hospitalA, got hospitalB"),
        ({"project": "other"}, RemoteProtocolError, "expected project brain, got other"),
        ({"key_id": bytes(16)}, RemoteProtocolError, "expected CKKS key id"),
        ({"params_id": bytes(16)}, RemoteProtocolError, "expected HE parameters id"),
        ({"job_id": "no-such-job"}, NotFoundError, "no job"),
        ({"round_": 2}, StateError, "is in phase upload"),
    ],
)
def test_a_ready_that_does_not_fit(uploading, changes, error, match):
    site = uploading.site
    round_ = changes.pop("round_", 1) if "round_" in changes else 1
    with pytest.raises(error, match=match):
        site.call(site.federation.Ready, site.ready(uploading.job, round_, 1, **changes))


def test_a_ready_that_somebody_else_signed_or_that_was_altered(uploading, bare_certificate):
    site, other = uploading.site, uploading.world.sites[1]
    signed = site.ready(uploading.job, 1, 1)
    forged = federation.SignedReady(
        body=signed.body, signature=signed.signature[:-1] + b"\0", certificate=signed.certificate
    )
    with pytest.raises(TrustError, match="signature does not fit"):
        site.call(site.federation.Ready, forged)
    key = other.installation.signing_key
    forged = federation.SignedReady(
        body=signed.body, signature=sign(READY_LABEL, signed.body, key), certificate=other.installation.certificate_der
    )
    with pytest.raises(TrustError, match="READY of hospitalA: signed with the certificate of site hospitalB"):
        site.call(site.federation.Ready, forged)
    with pytest.raises(RemoteProtocolError):
        site.call(site.federation.Ready, federation.SignedReady(body=b"\xff" * 50, signature=b"x", certificate=b"x"))
    with pytest.raises(RemoteProtocolError):
        site.call(site.federation.Ready, federation.SignedReady())


def test_hello_of_another_project_key_or_protocol(uploading):
    site = uploading.site
    for changes, match in (
        ({"project": "other"}, "expected project brain, got other"),
        ({"key_id": bytes(16)}, "expected CKKS key id"),
        ({"protocol_version": 99}, "expected protocol version 1, got 99"),
    ):
        with pytest.raises(StateError, match=match):
            site.join(**changes)
        assert site.last_code is grpc.StatusCode.FAILED_PRECONDITION


def test_lists_that_are_too_long(uploading):
    site = uploading.site
    with pytest.raises(RemoteProtocolError, match="jobs"):
        site.poll(*(f"job-{number}" for number in range(MAX_JOBS_PER_POLL + 1)))
    lines = [federation.LogLine(message="x")] * (MAX_LOG_LINES + 1)
    with pytest.raises(RemoteProtocolError, match="lines"):
        site.call(site.federation.PushLog, federation.PushLogRequest(job_id=uploading.job, lines=lines))
    with pytest.raises(RemoteProtocolError, match="Poll: expected at most"):
        site.poll("x" * 8_000_000)


def test_reports_that_say_nothing(uploading):
    site = uploading.site
    with pytest.raises(RemoteProtocolError, match="known problem"):
        site.problem(uploading.job, 0, "what?")
    with pytest.raises(RemoteProtocolError, match="expected 32 bytes, got 3"):
        site.call(
            site.federation.Applied,
            federation.AppliedRequest(job_id=uploading.job, version=0, model_fingerprint=b"abc"),
        )
    with pytest.raises(StateError, match="version 5"):
        site.call(
            site.federation.Applied,
            federation.AppliedRequest(job_id=uploading.job, version=5, model_fingerprint=bytes(32)),
        )


def test_jobs_that_are_not_well_formed_or_not_signed_by_their_admin(uploading):
    lead = uploading.world.lead
    good = uploading.world.job_folder(rounds=1)
    before = len(lead.call(lead.admin.ListJobs, admin.ListJobsRequest()).jobs)

    def submit(archive, key=None, certificate=None):
        request = admin.SubmitJobRequest(
            archive=archive,
            signature=sign(JOB_LABEL, archive, key or lead.installation.signing_key),
            certificate=certificate or lead.installation.certificate_der,
        )
        return lead.call(lead.admin.SubmitJob, job_pieces(request))

    with pytest.raises(RemoteProtocolError, match="job archive"):
        submit(b"no zip at all")
    site = uploading.site.installation
    with pytest.raises(TrustError, match=r"expected the signature of admin-lead lead@x, got site hospitalA"):
        submit(b"x", site.signing_key, site.certificate_der)
    with pytest.raises(TrustError, match="signature does not fit"):
        submit(b"x", site.signing_key)
    for keys, match in (
        ({"sites": "[hospitalA, hospitalB, elsewhere]"}, "site 'elsewhere' is not a site of this project"),
        ({"min_sites": 4}, "min_sites is 4, and the project has 3 sites"),
        ({"precision": "{field_bits: 32, statistics_bits: 33}"}, "statistics_bits"),
    ):
        with pytest.raises((RemoteProtocolError, Exception), match=match):
            lead.submit(uploading.world.job_folder(rounds=1, **keys))
    assert good.exists()
    assert len(lead.call(lead.admin.ListJobs, admin.ListJobsRequest()).jobs) == before
    known = {job.job_id for job in lead.call(lead.admin.ListJobs, admin.ListJobsRequest()).jobs}
    assert {path.name for path in (uploading.world.server.folder / "blobs").iterdir()} == known


def test_keys_that_decrypt_in_a_job_or_a_checkpoint(uploading):
    world = uploading.world
    kit = world.provisioned.home / "sites" / "hospitalA" / "kit"
    folder = world.job_folder(rounds=1)
    for name in ("he.key", "group.key"):
        (folder / name).write_bytes((kit / name).read_bytes())
        with pytest.raises(TrustError, match=f"job file {name}: expected no key, found a"):
            world.lead.submit(folder)
        (folder / name).unlink()
    job = world.submit(rounds=1)
    seeder = world.sites[0]
    assert seeder.instruction(job).WhichOneof("work") == "seed"
    with pytest.raises(TrustError, match="chunk 0 of checkpoint 0: expected no key, found a group key"):
        seeder.put(seeder.checkpoint_ref(job, 0), 0, (kit / "group.key").read_bytes())
    world.run(job)


def test_the_round_is_unharmed_by_all_of_this(uploading):
    uploading.world.run(uploading.job)
    assert uploading.world.lead.phase(uploading.job) == "finished"
    assert "Traceback" not in uploading.world.server.stderr()
