"""Judgements of matches, and pages of the catalogue in the order of product ids.

Revision 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ID = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "judgement",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("product_id", _ID, nullable=False),
        sa.Column("match_id", _ID, nullable=False),
        sa.Column("judge", sa.String(255), nullable=False),
        sa.Column("good", sa.Boolean(), nullable=False),
        sa.Column("model_version_pk", _KEY, nullable=True),
        sa.Column("generation", _KEY, nullable=True),
        sa.Column("distance", sa.Double(), nullable=True),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation"],
            ["index_generation.number"],
            name=op.f("fk_judgement_generation_index_generation"),
        ),
        sa.ForeignKeyConstraint(
            ["model_version_pk"],
            ["model_version.pk"],
            name=op.f("fk_judgement_model_version_pk_model_version"),
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_judgement")),
        sa.UniqueConstraint(
            "product_id", "match_id", "judge", name=op.f("uq_judgement_product_id_match_id_judge")
        ),
    )
    # Last: lookups wait for what follows, on PostgreSQL two seconds with a million products.
    _order_ids_by("C")
    op.drop_index(op.f("ix_product_category"), table_name="product")
    op.create_index("ix_product_category_product_id", "product", ["category", "product_id"])


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_product_category_product_id", table_name="product")
    _order_ids_by("default")
    op.create_index(op.f("ix_product_category"), "product", ["category"])
    op.drop_table("judgement")


def _order_ids_by(collation: str) -> None:
    """SQLite orders texts by their bytes anyway."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("product", "product_id", type_=sa.String(255, collation=collation))
