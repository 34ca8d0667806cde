"""Counts of bytes in 64 bits: PostgreSQL's INTEGER ends at 2 GiB, SQLite's does not.

Revision ID: v0002
Revises: v0001
"""

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"
branch_labels = None
depends_on = None

_COLUMNS = {"rounds": ("sum_bytes",), "contributions": ("bytes_up", "bytes_down"), "objects": ("size",)}


def upgrade() -> None:
    """Goes one step forward."""
    _alter(sa.Integer(), sa.BigInteger())


def downgrade() -> None:
    """Goes one step back."""
    _alter(sa.BigInteger(), sa.Integer())


def _alter(before: sa.types.TypeEngine[int], after: sa.types.TypeEngine[int]) -> None:
    for table, columns in _COLUMNS.items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.alter_column(column, existing_type=before, type_=after, existing_nullable=False)
