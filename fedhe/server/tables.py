"""The server's database schema as SQLAlchemy tables; how it came to be is in migrations/."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

settings = Table(
    "settings",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    comment="What belongs to the whole server: project, newest roster version seen.",
)

sites = Table(
    "sites",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("software_version", String(64), nullable=False),
    comment="What the server knows of a site beyond the signed roster.",
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(96), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("submitted_by", String(64), nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("archive_digest", LargeBinary(32), nullable=False),
    Column("federation", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("ended_at", Float, nullable=False),
    comment="One row a job; `federation` is the job's config_fed, `state` the round machine's state, both as JSON.",
)

rounds = Table(
    "rounds",
    metadata,
    Column("job_id", String(96), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False),
    Column("context", LargeBinary(32), nullable=False),
    Column("sum_digest", LargeBinary(32), nullable=False),
    Column("sum_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("job_id", "round"),
    comment="The history of each job; round 0 is the seeding.",
)

contributions = Table(
    "contributions",
    metadata,
    Column("job_id", String(96), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("site", String(64), nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("upload_digest", LargeBinary(32), nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    Column("model_fingerprint", LargeBinary(32), nullable=False),
    Column("ready_body", LargeBinary, nullable=False),
    Column("ready_signature", LargeBinary, nullable=False),
    Column("ready_certificate", LargeBinary, nullable=False),
    Column("applied_note", LargeBinary, nullable=False),
    Column("ready_at", Float, nullable=False),
    Column("uploaded_at", Float, nullable=False),
    Column("applied_at", Float, nullable=False),
    PrimaryKeyConstraint("job_id", "round", "site"),
    comment="What each site did in a round; `sealed` says that it is on the roster of the last attempt.",
)

objects = Table(
    "objects",
    metadata,
    Column("job_id", String(96), ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("finished_at", Float, nullable=False),
    PrimaryKeyConstraint("job_id", "kind", "number", "attempt", "owner"),
    comment="Complete objects; their chunks are files in blobs/.",
)

audit_outbox = Table(
    "audit_outbox",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("time", Float, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("fields", Text, nullable=False),
    sqlite_autoincrement=True,
    comment="Audit lines decided in a transaction and not yet seen in the audit log.",
)
