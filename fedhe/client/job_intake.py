"""Believing a job: who signed it, what is in it, and whether this site's policy and people let it run."""

from typing import Literal

from fedhe.client.approvals import permission, read_approvals
from fedhe.client.durable import disk_errors, write_durably
from fedhe.client.roster_check import Anchors
from fedhe.client.spool import Spool
from fedhe.client.transfer import download
from fedhe.client.work import Work
from fedhe.config.job_archive import MAX_JOB_BYTES, JobArchive, read_job, unpack_job
from fedhe.errors import RemoteProtocolError, TrustError
from fedhe.trust.certificates import Identity, verify_certificate
from fedhe.trust.signatures import JOB_LABEL, verify
from fedhe.wire import federation
from fedhe.wire.limits import MAX_CHUNK_BYTES
from fedhe.wire.messages import parse_signed_job

MAX_SIGNED_JOB_CHUNKS = -(-MAX_JOB_BYTES // (MAX_CHUNK_BYTES // 2)) + 1
LEAD = "admin-lead"


async def ensure_job(work: Work) -> None:
    """Fetches the job if it is not here yet, and checks it.

    Raises:
        TrustError: not signed by a lead admin of this project.
        RemoteProtocolError: not a job archive.
        ServerRefusedError: the server does not hand it out.
        ResourceError: disk full or read-only.
    """
    if work.archive is not None:
        return
    path = work.folder.archive
    if path.exists() and work.record.archive_digest is not None:
        with disk_errors(path):
            data = path.read_bytes()
        # The signature was checked when the job came; its signer may have left the project since.
        archive = read_job(parse_signed_job(data).archive)
        if archive.digest == work.record.archive_digest:
            work.archive = archive
            return
        work.log("warning", "the stored job is damaged; fetching it again")
    spool = Spool(work.folder.spool("job"))
    ref = federation.ObjectRef(job_id=work.job_id, kind=federation.OBJECT_KIND_JOB)
    count, _ = await download(
        work.site.session, ref, spool, max_chunks=MAX_SIGNED_JOB_CHUNKS, told=lambda _fraction: None
    )
    data = b"".join(spool.get(index) or b"" for index in range(count))
    spool.clear()
    archive, signer = believe(data, work.site.anchors(), work.site.project)
    write_durably(path, data)
    work.archive = archive
    work.keep(
        archive_digest=archive.digest, name=archive.name, submitted_by=signer.name, rounds=archive.federation.rounds
    )
    work.audit("job-received", name=archive.name, digest=archive.digest.hex(), signed_by=signer.name)
    work.log("info", f"job {archive.name} of {signer.name} received, hash {archive.digest.hex()}")


def believe(data: bytes, anchors: Anchors, project: str) -> tuple[JobArchive, Identity]:
    """Checks who signed a job and reads it.

    Raises:
        TrustError: the signature is wrong, or its maker is no lead admin of this project in good standing.
        RemoteProtocolError: not a job archive.
    """
    signed = parse_signed_job(data)
    verify(JOB_LABEL, signed.archive, signed.signature, signed.certificate)
    signer = verify_certificate(signed.certificate, anchors.ca_pem, anchors.now)
    if (signer.project, signer.role) != (project, LEAD):
        raise TrustError(
            f"job: expected the signature of a lead admin of project {project}, "
            f"got {signer.role} {signer.name} of project {signer.project}"
        )
    anchors.participants.check(signer)
    return read_job(signed.archive), signer


def may_run(work: Work) -> Literal["granted", "waiting"]:
    """Whether this site's policy and people let the job run now.

    Raises:
        PolicyError: they refuse it.
        ConfigError: the policy file is not well-formed.
        StateError: the file of approvals is damaged.
    """
    archive = work.job()
    approval = read_approvals(work.site.folder).get(archive.digest.hex())
    return permission(work.site.policy(), approval, dict(archive.files))


def refresh_code(work: Work) -> None:
    """Unpacks the job anew, so that what runs is what was signed and approved, whatever an earlier run changed.

    Raises:
        RemoteProtocolError: the stored job is damaged.
        ResourceError: disk full or read-only.
    """
    with disk_errors(work.folder.archive):
        data = work.folder.archive.read_bytes()
    archive = parse_signed_job(data).archive
    if read_job(archive).digest != work.job().digest:
        raise RemoteProtocolError("the stored job is not the one that was approved: its file was changed")
    unpack_job(archive, work.folder.mmar)
