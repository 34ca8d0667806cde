"""Where each object's chunks are in the blob store; the only place that spells these names."""

JOB = "job"
UPDATE = "update"
SUM = "sum"
CHECKPOINT = "checkpoint"


def job(job_id: str) -> str:
    """All that belongs to a job."""
    return job_id


def kind(job_id: str, kind_: str) -> str:
    """All objects of one kind of a job."""
    return f"{job_id}/{kind_}"


def place(job_id: str, kind_: str, number: int, attempt: int, owner: str) -> str:
    """One object.

    Args:
        job_id: the job.
        kind_: `JOB`, `UPDATE`, `SUM` or `CHECKPOINT`.
        number: round or version; 0 of a `JOB`.
        attempt: of an `UPDATE` or `SUM`.
        owner: the site that sends an `UPDATE` or `CHECKPOINT`.
    """
    if kind_ == JOB:
        return kind(job_id, JOB)
    if kind_ == UPDATE:
        return f"{kind(job_id, UPDATE)}/{number}-{attempt}/{owner}"
    if kind_ == SUM:
        return f"{kind(job_id, SUM)}/{number}-{attempt}"
    return f"{kind(job_id, CHECKPOINT)}/{number}/{owner}"


def update(job_id: str, round_: int, attempt: int, site: str) -> str:
    """One site's encrypted update."""
    return place(job_id, UPDATE, round_, attempt, site)


def sum_(job_id: str, round_: int, attempt: int) -> str:
    """The sum of a round."""
    return place(job_id, SUM, round_, attempt, "")
