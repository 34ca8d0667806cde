"""The rows of the database as frozen dataclasses, and what may be done with them inside a transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedhe.server import tables

RowT = TypeVar("RowT")


@dataclass(frozen=True)
class JobRow:
    """One job.

    Args:
        federation: the job's config_fed as JSON.
        state: the round machine's state as JSON.
        ended_at: seconds since 1970; 0 while it has not ended.
    """

    job_id: str
    name: str
    submitted_by: str
    submitted_at: float
    archive_digest: bytes
    federation: str
    state: str
    ended_at: float = 0.0


@dataclass(frozen=True)
class SiteRow:
    """One site; `last_seen` in seconds since 1970, 0 if never."""

    name: str
    enabled: bool = True
    last_seen: float = 0.0
    software_version: str = ""


@dataclass(frozen=True)
class RoundRow:
    """One round's history; times in seconds since 1970, 0 until they come."""

    job_id: str
    round: int
    attempts: int = 0
    started_at: float = 0.0
    ended_at: float = 0.0
    context: bytes = b""
    sum_digest: bytes = b""
    sum_bytes: int = 0


@dataclass(frozen=True)
class ContributionRow:
    """What one site did in a round; empty or 0 until it comes. `sealed`: it is on the last attempt's roster."""

    job_id: str
    round: int
    site: str
    sealed: bool = False
    upload_digest: bytes = b""
    bytes_up: int = 0
    bytes_down: int = 0
    model_fingerprint: bytes = b""
    ready_body: bytes = b""
    ready_signature: bytes = b""
    ready_certificate: bytes = b""
    applied_note: bytes = b""
    ready_at: float = 0.0
    uploaded_at: float = 0.0
    applied_at: float = 0.0


@dataclass(frozen=True)
class ObjectRow:
    """A complete object; `size` in bytes, `owner` the site that sent it, or empty."""

    job_id: str
    kind: str
    number: int
    attempt: int
    owner: str
    chunks: int
    size: int
    digest: bytes
    finished_at: float


# ---- settings ----


def setting(connection: Connection, name: str) -> str | None:
    """The value of a setting, or None."""
    value = connection.execute(sa.select(tables.settings.c.value).where(tables.settings.c.name == name)).scalar()
    return None if value is None else str(value)


def set_setting(connection: Connection, name: str, value: str) -> None:
    """Sets a setting."""
    _upsert(connection, tables.settings, {"name": name}, {"value": value})


# ---- sites ----


def sites(connection: Connection) -> list[SiteRow]:
    """All sites that were ever seen or set, by name."""
    return list(_rows(connection, SiteRow, sa.select(tables.sites).order_by(tables.sites.c.name)))


def put_site(connection: Connection, site: SiteRow) -> None:
    """Stores a site's row."""
    values = asdict(site)
    _upsert(connection, tables.sites, {"name": values.pop("name")}, values)


def put_seen(connection: Connection, site: SiteRow) -> None:
    """Stores when a site was seen; whether it is enabled may have been set since the row was taken, and stays."""
    seen = {"last_seen": site.last_seen, "software_version": site.software_version}
    _upsert(connection, tables.sites, {"name": site.name}, seen, {"enabled": site.enabled})


# ---- jobs ----


def jobs(connection: Connection) -> list[JobRow]:
    """All jobs, oldest first."""
    order = sa.select(tables.jobs).order_by(tables.jobs.c.submitted_at, tables.jobs.c.job_id)
    return list(_rows(connection, JobRow, order))


def insert_job(connection: Connection, job: JobRow) -> None:
    """Stores a new job."""
    connection.execute(sa.insert(tables.jobs).values(asdict(job)))


def update_job(connection: Connection, job_id: str, state: str, ended_at: float) -> None:
    """Stores a job's new state."""
    where = tables.jobs.c.job_id == job_id
    connection.execute(sa.update(tables.jobs).where(where).values(state=state, ended_at=ended_at))


def delete_job(connection: Connection, job_id: str) -> None:
    """Removes a job with all that belongs to it."""
    for table in (tables.objects, tables.contributions, tables.rounds, tables.jobs):
        connection.execute(sa.delete(table).where(table.c.job_id == job_id))


# ---- rounds ----


def rounds(connection: Connection, job_id: str) -> list[RoundRow]:
    """A job's rounds, first to last."""
    table = tables.rounds
    return list(_rows(connection, RoundRow, sa.select(table).where(table.c.job_id == job_id).order_by(table.c.round)))


def contributions(connection: Connection, job_id: str) -> list[ContributionRow]:
    """What the sites did, by round and site."""
    table = tables.contributions
    chosen = sa.select(table).where(table.c.job_id == job_id).order_by(table.c.round, table.c.site)
    return list(_rows(connection, ContributionRow, chosen))


def update_round(connection: Connection, job_id: str, round_: int, **values: Any) -> None:
    """Sets columns of a round, making its row if there is none."""
    empty = {"attempts": 0, "started_at": 0.0, "ended_at": 0.0, "context": b"", "sum_digest": b"", "sum_bytes": 0}
    _upsert(connection, tables.rounds, {"job_id": job_id, "round": round_}, values, empty)


def update_contribution(connection: Connection, job_id: str, round_: int, site: str, **values: Any) -> None:
    """Sets columns of a contribution, making its row if there is none."""
    empty = asdict(ContributionRow(job_id, round_, site))
    key = {name: empty.pop(name) for name in ("job_id", "round", "site")}
    _upsert(connection, tables.contributions, key, values, empty)


def seal_contributions(connection: Connection, job_id: str, round_: int, sites: Sequence[str]) -> None:
    """Notes who is on the roster of a round's last attempt; nobody if it has none."""
    column = tables.contributions.c
    for site in sites:
        update_contribution(connection, job_id, round_, site, sealed=True)
    connection.execute(
        sa.update(tables.contributions)
        .where(column.job_id == job_id, column.round == round_, column.site.not_in(sites))
        .values(sealed=False)
    )


def add_bytes(connection: Connection, job_id: str, round_: int, site: str, *, up: int = 0, down: int = 0) -> None:
    """Adds to the payload bytes that a site sent and fetched in a round."""
    column = tables.contributions.c
    update_contribution(connection, job_id, round_, site)
    connection.execute(
        sa.update(tables.contributions)
        .where(column.job_id == job_id, column.round == round_, column.site == site)
        .values(bytes_up=column.bytes_up + up, bytes_down=column.bytes_down + down)
    )


# ---- objects ----


def objects(connection: Connection, job_id: str | None = None) -> list[ObjectRow]:
    """Complete objects, of one job or of all."""
    chosen = sa.select(tables.objects)
    if job_id is not None:
        chosen = chosen.where(tables.objects.c.job_id == job_id)
    return list(_rows(connection, ObjectRow, chosen))


def put_object(connection: Connection, row: ObjectRow) -> None:
    """Records that an object is complete."""
    values = asdict(row)
    key = {name: values.pop(name) for name in ("job_id", "kind", "number", "attempt", "owner")}
    _upsert(connection, tables.objects, key, values)


def delete_object(connection: Connection, row: ObjectRow) -> None:
    """Forgets an object."""
    column = tables.objects.c
    connection.execute(
        sa.delete(tables.objects).where(
            column.job_id == row.job_id,
            column.kind == row.kind,
            column.number == row.number,
            column.attempt == row.attempt,
            column.owner == row.owner,
        )
    )


# ---- audit ----


def decide(connection: Connection, now: float, kind: str, fields_json: str) -> None:
    """Keeps an audit line together with what was decided; audit.py carries it on to the log."""
    connection.execute(sa.insert(tables.audit_outbox).values(time=now, kind=kind, fields=fields_json))


def undelivered(connection: Connection) -> list[tuple[int, float, str, str]]:
    """Sequence, time, kind and fields (JSON) of audit lines that are not known to be in the log, in order."""
    column = tables.audit_outbox.c
    chosen = sa.select(column.sequence, column.time, column.kind, column.fields).order_by(column.sequence)
    return [(row.sequence, row.time, row.kind, row.fields) for row in connection.execute(chosen)]


def delivered(connection: Connection, sequence: int) -> None:
    """Forgets audit lines up to this one; they are in the log."""
    connection.execute(sa.delete(tables.audit_outbox).where(tables.audit_outbox.c.sequence <= sequence))


def _rows(connection: Connection, kind: type[RowT], chosen: sa.Select[Any]) -> Iterator[RowT]:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # each RowT is one of the dataclasses above
    for row in connection.execute(chosen):
        yield kind(**{name: getattr(row, name) for name in names})


def _upsert(
    connection: Connection,
    table: sa.Table,
    key: dict[str, Any],
    values: dict[str, Any],
    empty: dict[str, Any] | None = None,
) -> None:
    # Update, then insert: the same on every database, and only one transaction writes at a time.
    where = [table.c[name] == value for name, value in key.items()]
    if values and connection.execute(sa.update(table).where(*where).values(values)).rowcount:
        return
    if not values and connection.execute(sa.select(sa.literal(1)).select_from(table).where(*where)).first():
        return
    connection.execute(sa.insert(table).values({**(empty or {}), **key, **values}))
