"""A pointer that a rollback pins, and changed products by their revision.

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    # In place on SQLite too, which can add a column that has a default.
    op.add_column(
        "index_pointer",
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(op.f("ix_product_revision"), "product", ["revision"])


def downgrade() -> None:
    """Back."""
    op.drop_index(op.f("ix_product_revision"), table_name="product")
    op.drop_column("index_pointer", "pinned")
