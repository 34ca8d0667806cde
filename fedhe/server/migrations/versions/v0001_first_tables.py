"""The first tables.

Revision ID: v0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step forward."""
    op.create_table(
        "settings",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    op.create_table(
        "sites",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.Column("software_version", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(96), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("submitted_by", sa.String(64), nullable=False),
        sa.Column("submitted_at", sa.Float(), nullable=False),
        sa.Column("archive_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("federation", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_jobs"),
    )
    op.create_table(
        "rounds",
        _job("rounds"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("context", sa.LargeBinary(32), nullable=False),
        sa.Column("sum_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("sum_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "round", name="pk_rounds"),
    )
    op.create_table(
        "contributions",
        _job("contributions"),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("upload_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("bytes_up", sa.Integer(), nullable=False),
        sa.Column("bytes_down", sa.Integer(), nullable=False),
        sa.Column("model_fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("ready_body", sa.LargeBinary(), nullable=False),
        sa.Column("ready_signature", sa.LargeBinary(), nullable=False),
        sa.Column("ready_certificate", sa.LargeBinary(), nullable=False),
        sa.Column("applied_note", sa.LargeBinary(), nullable=False),
        sa.Column("ready_at", sa.Float(), nullable=False),
        sa.Column("uploaded_at", sa.Float(), nullable=False),
        sa.Column("applied_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "round", "site", name="pk_contributions"),
    )
    op.create_table(
        "objects",
        _job("objects"),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "kind", "number", "attempt", "owner", name="pk_objects"),
    )
    op.create_table(
        "audit_outbox",
        sa.Column("sequence", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_outbox"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Goes one step back."""
    for table in ("audit_outbox", "objects", "contributions", "rounds", "jobs", "sites", "settings"):
        op.drop_table(table)


def _job(table: str) -> sa.Column[str]:
    key = sa.ForeignKey("jobs.job_id", name=f"fk_{table}_job_id", ondelete="CASCADE")
    return sa.Column("job_id", sa.String(96), key, nullable=False)
