"""Rolling out another model: which one comes in, what was given up under it, and pictures by their bytes.

Revision 0004, after 0003.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAGS = ("incoming", "without_missing")
_FACTS: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("source", sa.Text()),
    ("comparison", sa.JSON()),
    ("retired_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    """Forward."""
    # First: it takes long, and lookups, which read model_version, would wait for it behind what follows.
    op.create_index(op.f("ix_image_content_sha256"), "image", ["content_sha256"])
    # In place on SQLite too, which can add a column that has a default, or may be null.
    for name in _FLAGS:
        op.add_column(
            "model_version",
            sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False),
        )
    for name, kind in _FACTS:
        op.add_column("model_version", sa.Column(name, kind, nullable=True))
    op.create_index(
        "uq_model_version_incoming",
        "model_version",
        ["incoming"],
        unique=True,
        sqlite_where=sa.text("incoming"),
        postgresql_where=sa.text("incoming"),
    )
    op.create_table(
        "backfill_failure",
        sa.Column("model_version_pk", _KEY, nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("again_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_version_pk"],
            ["model_version.pk"],
            name=op.f("fk_backfill_failure_model_version_pk_model_version"),
        ),
        sa.PrimaryKeyConstraint(
            "model_version_pk", "content_sha256", name=op.f("pk_backfill_failure")
        ),
    )
    op.create_index(
        "ix_backfill_failure_again_at", "backfill_failure", ["model_version_pk", "again_at"]
    )


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_backfill_failure_again_at", table_name="backfill_failure")
    op.drop_table("backfill_failure")
    op.drop_index(op.f("ix_image_content_sha256"), table_name="image")
    op.drop_index("uq_model_version_incoming", table_name="model_version")
    for name in (*_FLAGS, *(name for name, _ in _FACTS)):
        op.drop_column("model_version", name)
