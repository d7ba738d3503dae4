"""The tables. `pk` is our own number for a row; `product_id` is the shop's.

Rows of removed products stay: their versions are what makes a late message harmless (invariant 2).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, BigKey, ProductKey


class Product(Base):
    """What the shop sells, known by its own id."""

    __tablename__ = "product"
    __table_args__ = (Index("ix_product_category_product_id", "category", "product_id"),)

    pk: Mapped[int] = mapped_column(BigKey, primary_key=True)
    product_id: Mapped[str] = mapped_column(ProductKey, unique=True)
    category: Mapped[str | None] = mapped_column(String(255))
    attributes: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(BigInteger)
    """Version of the message that the category and attributes are from."""
    removed_version: Mapped[int] = mapped_column(BigInteger, server_default=text("-1"))
    """Version of the newest removal; pictures of this version or lower are gone."""
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
    """Revision of the last change that a lookup could see, of its pictures or its attributes."""


class Image(Base):
    """One picture of a product."""

    __tablename__ = "image"
    __table_args__ = (UniqueConstraint("product_pk", "name"),)

    pk: Mapped[int] = mapped_column(BigKey, primary_key=True)
    product_pk: Mapped[int] = mapped_column(ForeignKey("product.pk"))
    name: Mapped[str] = mapped_column(String(255))
    content_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), index=True)
    source: Mapped[str] = mapped_column(Text)
    """Where the bytes came from: a path, an address without its query, or `bytes`."""
    version: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[bool]
    revision: Mapped[int] = mapped_column(BigInteger, index=True)
    """Revision of the last change that a lookup could see: other bytes, other category, gone, back."""


class ModelVersion(Base):
    """Weights + architecture + layer + preprocessing, known by a digest of all of them."""

    __tablename__ = "model_version"

    pk: Mapped[int] = mapped_column(BigKey, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(255))
    dimension: Mapped[int]
    config: Mapped[dict[str, Any]]
    active: Mapped[bool]
    """Exactly one is: new pictures are embedded, and generations built, under it."""
    created_at: Mapped[datetime]
    source: Mapped[str | None] = mapped_column(Text)
    """How it was named when it was added: where a host that has no copy may find it."""
    incoming: Mapped[bool] = mapped_column(server_default=text("false"))
    """At most one is: it becomes the active one as soon as the catalogue has all vectors under it."""
    without_missing: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it may become active though pictures were given up under it."""
    comparison: Mapped[dict[str, Any] | None]
    """How the generation that it became active with compares with the one before."""
    retired_at: Mapped[datetime | None]
    """When its vectors were given up: it cannot be gone back to."""

    __table_args__ = (
        Index(
            "uq_model_version_active",
            "active",
            unique=True,
            sqlite_where=text("active"),
            postgresql_where=text("active"),
        ),
        Index(
            "uq_model_version_incoming",
            "incoming",
            unique=True,
            sqlite_where=text("incoming"),
            postgresql_where=text("incoming"),
        ),
    )


class Embedding(Base):
    """The vector of one picture's bytes under one model version: little-endian float32, unit length."""

    __tablename__ = "embedding"

    content_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    model_version_pk: Mapped[int] = mapped_column(
        ForeignKey("model_version.pk"), primary_key=True, autoincrement=False
    )
    dimension: Mapped[int]
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class BackfillFailure(Base):
    """A picture's bytes that could not be embedded under a model from where they once came."""

    __tablename__ = "backfill_failure"

    model_version_pk: Mapped[int] = mapped_column(
        ForeignKey("model_version.pk"), primary_key=True, autoincrement=False
    )
    content_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    reason: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    again_at: Mapped[datetime | None]
    """When it is tried again; None: it is given up."""

    __table_args__ = (Index("ix_backfill_failure_again_at", "model_version_pk", "again_at"),)


class Thumbnail(Base):
    """A small JPEG of a picture's bytes, for pages that show it."""

    __tablename__ = "thumbnail"

    content_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    jpeg: Mapped[bytes] = mapped_column(LargeBinary)


class RevisionCounter(Base):
    """One row. Taking the next value locks it until commit, so revisions are in commit order."""

    __tablename__ = "revision_counter"
    __table_args__ = (CheckConstraint("pk = 1", name="single"),)

    pk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)


class IndexGeneration(Base):
    """One verified build of the index, by its number; the files are in its directory."""

    __tablename__ = "index_generation"

    number: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    model_version_pk: Mapped[int] = mapped_column(ForeignKey("model_version.pk"))
    revision: Mapped[int] = mapped_column(BigInteger)
    images: Mapped[int]
    directory: Mapped[str] = mapped_column(String(255))
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    recall: Mapped[float]
    created_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
    """When the files were deleted."""


class IndexPointer(Base):
    """One row: the current generation, and the fencing token of who set it."""

    __tablename__ = "index_pointer"
    __table_args__ = (CheckConstraint("pk = 1", name="single"),)

    pk: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    generation: Mapped[int | None] = mapped_column(ForeignKey("index_generation.number"))
    token: Mapped[int] = mapped_column(BigInteger)
    pinned: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether a rollback chose the generation: nothing but an operator's rebuild replaces it."""


class Lease(Base):
    """Who may do a long piece of work, until when; the token grows with every new holder."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str | None] = mapped_column(String(255))
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime | None]


class JobFence(Base):
    """The least token with which a job may still be committed: raised when a second worker begins it."""

    __tablename__ = "job_fence"

    job_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger)
    raised_at: Mapped[datetime] = mapped_column(index=True)


class DeadLetter(Base):
    """An item given up on, with its reason and its message, kept until requeued or discarded."""

    __tablename__ = "dead_letter"

    pk: Mapped[int] = mapped_column(BigKey, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(36))
    product_id: Mapped[str | None] = mapped_column(String(255))
    name: Mapped[str | None] = mapped_column(String(255))
    reason: Mapped[str] = mapped_column(String(64), index=True)
    detail: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    message: Mapped[dict[str, Any]]
    """The item's own message, as it would be sent again."""
    created_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("job_id", "product_id", "name"),)


class Judgement(Base):
    """What somebody thinks of a match: by the shop's ids, since it holds whatever becomes of the products."""

    __tablename__ = "judgement"
    __table_args__ = (UniqueConstraint("product_id", "match_id", "judge"),)

    pk: Mapped[int] = mapped_column(BigKey, primary_key=True)
    product_id: Mapped[str] = mapped_column(ProductKey)
    """What was asked about."""
    match_id: Mapped[str] = mapped_column(ProductKey)
    judge: Mapped[str] = mapped_column(String(255))
    good: Mapped[bool]
    model_version_pk: Mapped[int | None] = mapped_column(ForeignKey("model_version.pk"))
    generation: Mapped[int | None] = mapped_column(ForeignKey("index_generation.number"))
    """What gave the match, where it is known."""
    distance: Mapped[float | None]
    judged_at: Mapped[datetime]
