"""Fences against workers that wake after their claim on a job ran out.

Revision 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "job_fence",
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_fence")),
    )
    op.create_index(op.f("ix_job_fence_raised_at"), "job_fence", ["raised_at"])


def downgrade() -> None:
    """Back."""
    op.drop_table("job_fence")
