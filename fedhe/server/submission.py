"""Takes a submitted job in: who signed it, whether it is well-formed, and whether this project can run it."""

import re
import secrets
import time
from collections.abc import Mapping

from fedhe.config.federation import FederationConfig
from fedhe.config.job_archive import JobArchive, read_job
from fedhe.errors import ConfigError, TrustError
from fedhe.he.params import CkksParams
from fedhe.rounds.state import JobState, RoundConfig
from fedhe.server.jobs import Job, write_state
from fedhe.server.leaked_keys import refuse_keys
from fedhe.server.records import JobRow
from fedhe.trust.certificates import ADMIN_LEAD, Identity
from fedhe.trust.roster import Roster
from fedhe.trust.signatures import JOB_LABEL, verify
from fedhe.wire.messages import SignedJob

MAX_SLUG_CHARACTERS = 32


def check_signature(signed: SignedJob, signer: Identity, caller: Identity) -> None:
    """Checks that the admin who calls signed the job.

    Args:
        signed: the job as it came.
        signer: whom its certificate names; that the certificate is to be believed was checked before.
        caller: whose call it is.

    Raises:
        TrustError: another admin's certificate, or the signature does not fit.
    """
    if (signer.role, signer.name) != (ADMIN_LEAD, caller.name):
        raise TrustError(f"job: expected the signature of {caller.role} {caller.name}, got {signer.role} {signer.name}")
    verify(JOB_LABEL, signed.archive, signed.signature, signed.certificate)


def make_job(
    archive: bytes, caller: Identity, roster: Roster, enabled: Mapping[str, bool], *, params: CkksParams, now: float
) -> Job:
    """Makes a new job from a submitted archive; nothing is stored yet.

    Args:
        archive: as `pack_job` made it; hostile until read here.
        caller: who submits.
        roster: the project's participants.
        enabled: whether each of the project's sites is enabled; a site not named is.
        params: the project's HE parameters.
        now: seconds since 1970 UTC.

    Raises:
        RemoteProtocolError: not a well-formed job archive.
        ConfigError: its sites, number of sites or precision do not fit this project.
        TrustError: a file in it is a key that decrypts.
        CapacityError: more sites or wider fields than the HE parameters can sum exactly.
    """
    read = read_job(archive)
    for name, data in read.files.items():
        refuse_keys(data, f"job file {name}")
    config = _round_config(read.federation, roster)
    precision = read.federation.precision
    job_params = params.with_precision(precision.field_bits, precision.statistics_bits)
    if len(config.sites) > job_params.max_sites:
        raise ConfigError(
            f"{len(config.sites)} sites, at most {job_params.max_sites} can be summed with the project's HE parameters",
            "name fewer sites in config_fed.yml",
        )
    for bits in (precision.field_bits, precision.statistics_bits):
        job_params.grid_max(bits, len(config.sites))
    job_id = _job_id(read, now)
    gone = tuple(site for site in config.sites if not enabled.get(site, True))
    state = JobState(job_id=job_id, config=config, gone=gone)
    row = JobRow(
        job_id=job_id,
        name=read.name,
        submitted_by=caller.name,
        submitted_at=now,
        archive_digest=read.digest,
        federation=read.federation.model_dump_json(),
        state=write_state(state),
    )
    return Job(row, read.federation, job_params, state)


def _round_config(federation: FederationConfig, roster: Roster) -> RoundConfig:
    sites = tuple(sorted(federation.sites)) if federation.sites is not None else tuple(sorted(roster.sites))
    unknown = [site for site in sites if site not in roster.sites]
    if unknown:
        raise ConfigError(
            f"config_fed.yml: site {unknown[0]!r} is not a site of this project", f"sites: {', '.join(roster.sites)}"
        )
    least = max(federation.min_sites, roster.min_sites)
    if len(sites) < least:
        raise ConfigError(
            f"config_fed.yml: min_sites is {least}, and the project has {len(sites)} sites",
            "lower min_sites in config_fed.yml, 2 at the least" if roster.min_sites < least else "add sites",
        )
    return RoundConfig(
        rounds=federation.rounds,
        min_sites=least,
        sites=sites,
        train_deadline=federation.train_deadline,
        upload_deadline=federation.upload_deadline,
        apply_deadline=federation.apply_deadline,
        checkpoint_every=federation.checkpoint_every,
        open=federation.sites is None,
    )


def _job_id(read: JobArchive, now: float) -> str:
    """An id that people can type: name, day, six random characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", read.name.lower()).strip("-")[:MAX_SLUG_CHARACTERS].strip("-") or "job"
    day = time.strftime("%m%d", time.gmtime(now))
    return f"{slug}-{day}-{secrets.token_hex(3)}"
