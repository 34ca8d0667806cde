"""A job as admins see it: state of the machine, what sites say they are doing, history."""

from collections.abc import Sequence

from fedhe.rounds.directive import instruction_for, site_state
from fedhe.rounds.state import NO_VERSION
from fedhe.server.jobs import Job
from fedhe.server.presence import Presence, Progress
from fedhe.server.records import ContributionRow, RoundRow
from fedhe.wire import admin, federation

_BUSY = frozenset({"validating", "training", "encrypting", "downloading", "sealing"})
"""What a site says of itself that tells more than the machine knows."""


def job_message(job: Job) -> admin.Job:
    """One line of the list of jobs."""
    return admin.Job(
        job_id=job.job_id,
        name=job.row.name,
        submitted_by=job.row.submitted_by,
        submitted_at=job.row.submitted_at,
        phase=str(job.state.phase),
        round=job.state.round,
        rounds=job.state.config.rounds,
        model_version=max(job.state.version, 0),
        message=job.state.message,
        ended_at=job.row.ended_at,
        paused_at=job.state.paused_at or 0.0,
        pause_due=job.state.pause_due,
        pause_reason=job.state.pause_reason,
    )


def detail_message(job: Job, presence: Presence, now: float) -> admin.JobDetail:
    """All there is to see of a job now."""
    state = job.state
    return admin.JobDetail(
        job=job_message(job),
        sites=[_site(job, site, presence, now) for site in job.state.config.sites],
        deadline=0.0 if state.deadline is None or state.paused_at is not None else state.deadline,
        attempt=job.state.attempt,
        min_sites=job.state.config.min_sites,
        checkpoints=job.checkpoints,
        archive_digest=job.row.archive_digest.hex(),
        train_deadline=state.config.train_deadline,
        upload_deadline=state.config.upload_deadline,
        apply_deadline=state.config.apply_deadline,
    )


def _site(job: Job, site: str, presence: Presence, now: float) -> admin.SiteProgress:
    state = job.state
    said = presence.progress(site, job.job_id)
    at_it = said is not None and _works_on_it(job, site, said)
    word = said.activity if said is not None and at_it and said.activity in _BUSY else site_state(state, site)
    reason = state.declined.get(site) or state.failed.get(site)
    return admin.SiteProgress(
        site=site,
        online=presence.online(site, now),
        state=word,
        fraction=said.fraction if said is not None and at_it else 0.0,
        detail=reason or (said.detail if said is not None and at_it else ""),
        model_version=state.versions.get(site, NO_VERSION),
    )


def _works_on_it(job: Job, site: str, said: Progress) -> bool:
    directive = instruction_for(job.state, site)
    return directive is not None and directive.id == said.working_on


def rounds_message(rounds: Sequence[RoundRow], contributions: Sequence[ContributionRow]) -> admin.ListRoundsReply:
    """The history of a job; a round's contributions are those of its roster once that is sealed."""
    return admin.ListRoundsReply(
        rounds=[
            admin.Round(
                round=row.round,
                attempts=row.attempts,
                started_at=row.started_at,
                ended_at=row.ended_at,
                contributions=[
                    _contribution(one)
                    for one in contributions
                    if one.round == row.round and (one.sealed if row.context else one.ready_at > 0)
                ],
                context=row.context,
                sum_digest=row.sum_digest,
                sum_bytes=row.sum_bytes,
            )
            for row in rounds
        ]
    )


def _contribution(row: ContributionRow) -> admin.Contribution:
    return admin.Contribution(
        site=row.site,
        upload_digest=row.upload_digest,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
        model_fingerprint=row.model_fingerprint,
        ready=federation.SignedReady(
            body=row.ready_body, signature=row.ready_signature, certificate=row.ready_certificate
        ),
        applied_note=row.applied_note,
        ready_at=row.ready_at,
        uploaded_at=row.uploaded_at,
        applied_at=row.applied_at,
    )
