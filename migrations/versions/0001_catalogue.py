"""The catalogue, the index generations, the leases and the dead letters.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "dead_letter",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("product_id", sa.String(length=255), nullable=True),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_dead_letter")),
        sa.UniqueConstraint(
            "job_id", "product_id", "name", name=op.f("uq_dead_letter_job_id_product_id_name")
        ),
    )
    op.create_index(op.f("ix_dead_letter_reason"), "dead_letter", ["reason"])

    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "model_version",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_model_version")),
        sa.UniqueConstraint("digest", name=op.f("uq_model_version_digest")),
    )
    op.create_index(
        "uq_model_version_active",
        "model_version",
        ["active"],
        unique=True,
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )

    op.create_table(
        "product",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("product_id", sa.String(length=255), nullable=False),
        sa.Column("category", sa.String(length=255), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("removed_version", sa.BigInteger(), server_default=sa.text("-1"), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_product")),
        sa.UniqueConstraint("product_id", name=op.f("uq_product_product_id")),
    )
    op.create_index(op.f("ix_product_category"), "product", ["category"])

    op.create_table(
        "revision_counter",
        sa.Column("pk", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("pk = 1", name=op.f("ck_revision_counter_single")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_revision_counter")),
    )
    op.create_table(
        "thumbnail",
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("jpeg", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("content_sha256", name=op.f("pk_thumbnail")),
    )
    op.create_table(
        "embedding",
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("model_version_pk", _KEY, autoincrement=False, nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_pk"],
            ["model_version.pk"],
            name=op.f("fk_embedding_model_version_pk_model_version"),
        ),
        sa.PrimaryKeyConstraint("content_sha256", "model_version_pk", name=op.f("pk_embedding")),
    )
    op.create_table(
        "image",
        sa.Column("pk", _KEY, nullable=False),
        sa.Column("product_pk", _KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("content_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["product_pk"], ["product.pk"], name=op.f("fk_image_product_pk_product")
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_image")),
        sa.UniqueConstraint("product_pk", "name", name=op.f("uq_image_product_pk_name")),
    )
    op.create_index(op.f("ix_image_revision"), "image", ["revision"])

    op.create_table(
        "index_generation",
        sa.Column("number", _KEY, autoincrement=False, nullable=False),
        sa.Column("model_version_pk", _KEY, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("directory", sa.String(length=255), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("recall", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_version_pk"],
            ["model_version.pk"],
            name=op.f("fk_index_generation_model_version_pk_model_version"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_index_generation")),
    )
    op.create_table(
        "index_pointer",
        sa.Column("pk", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", _KEY, nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("pk = 1", name=op.f("ck_index_pointer_single")),
        sa.ForeignKeyConstraint(
            ["generation"],
            ["index_generation.number"],
            name=op.f("fk_index_pointer_generation_index_generation"),
        ),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_index_pointer")),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Vectors do not compress, and reading them from beside the table halves the speed of a rebuild:
        # keep those that fit a page in their rows.
        op.execute("ALTER TABLE embedding ALTER COLUMN vector SET STORAGE EXTERNAL")
        op.execute("ALTER TABLE embedding SET (toast_tuple_target = 8160)")
    # One row each, for ever: taking a revision and moving the pointer are updates.
    op.execute("INSERT INTO revision_counter (pk, value) VALUES (1, 0)")
    op.execute("INSERT INTO index_pointer (pk, generation, token) VALUES (1, NULL, 0)")


def downgrade() -> None:
    """Back."""
    op.drop_table("index_pointer")
    op.drop_table("index_generation")
    op.drop_table("image")
    op.drop_table("embedding")
    op.drop_table("thumbnail")
    op.drop_table("revision_counter")
    op.drop_table("product")
    op.drop_table("model_version")
    op.drop_table("lease")
    op.drop_table("dead_letter")
