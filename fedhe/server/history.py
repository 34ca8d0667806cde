"""What a step of the round machine leaves in the history of rounds, found by comparing the states around it."""

from sqlalchemy.engine import Connection

from fedhe.rounds.state import JobState
from fedhe.server import records


def record(connection: Connection, before: JobState, after: JobState, now: float) -> None:
    """Writes what changed from one state to the next.

    Args:
        connection: the transaction in which `after` is stored.
        before: the state before the step.
        after: the state after it.
        now: seconds since 1970 UTC.
    """
    job_id = after.job_id
    if after.version > max(before.version, 0):
        records.update_round(connection, job_id, after.version, ended_at=now)
    if after.round > before.round:
        records.update_round(connection, job_id, after.round, started_at=now, attempts=after.attempt)
    elif after.attempt != before.attempt and after.round > 0:
        records.update_round(connection, job_id, after.round, attempts=after.attempt)
    if after.roster != before.roster and after.round > 0:
        _record_roster(connection, before, after)
    if after.phase.ended and not before.phase.ended and after.round > after.version:
        records.update_round(connection, job_id, after.round, ended_at=now)


def _record_roster(connection: Connection, before: JobState, after: JobState) -> None:
    if after.roster is not None:
        records.update_round(connection, after.job_id, after.roster.round, context=after.roster.context)
        records.seal_contributions(connection, after.job_id, after.roster.round, after.roster.sites)
    elif before.roster is not None and before.roster.round == after.round:
        # The attempt was given up; what its roster was does not count any more.
        records.update_round(connection, after.job_id, after.round, context=b"")
        records.seal_contributions(connection, after.job_id, after.round, ())
