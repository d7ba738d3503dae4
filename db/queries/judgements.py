"""Judgements: what people think of matches. One for each match and judge, the newest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.models import Judgement as Table
from db.models import ModelVersion
from db.queries.upsert import put

_ROW = select(
    Table.product_id,
    Table.match_id,
    Table.judge,
    Table.good,
    Table.judged_at,
    Table.generation,
    Table.distance,
    ModelVersion.digest,
).outerjoin(ModelVersion, ModelVersion.pk == Table.model_version_pk)
_KEY = ("product_id", "match_id", "judge")


@dataclass(frozen=True)
class Judgement:
    """What somebody thinks of a match."""

    product_id: str
    match_id: str
    judge: str
    good: bool
    judged_at: datetime
    generation: int | None = None
    distance: float | None = None
    model_digest: str | None = None


def note(session: Session, judgement: Judgement, model_version_pk: int | None) -> None:
    """Keep it, in place of what its judge thought of that match before."""
    row = {
        "product_id": judgement.product_id,
        "match_id": judgement.match_id,
        "judge": judgement.judge,
        "good": judgement.good,
        "judged_at": judgement.judged_at,
        "generation": judgement.generation,
        "distance": judgement.distance,
        "model_version_pk": model_version_pk,
    }
    put(session, Table, row, _KEY)


def withdraw(session: Session, product_id: str, match_id: str, judge: str) -> None:
    """Forget what a judge thinks of a match."""
    session.execute(
        delete(Table).where(
            Table.product_id == product_id, Table.match_id == match_id, Table.judge == judge
        )
    )


def of_product(session: Session, product_id: str, limit: int) -> list[Judgement]:
    """What anybody thinks of the matches of a product, by match."""
    statement = (
        _ROW.where(Table.product_id == product_id).order_by(Table.match_id, Table.pk).limit(limit)
    )
    return [Judgement(*row) for row in session.execute(statement)]


def all_(session: Session) -> Iterator[Judgement]:
    """All of them, by product and match."""
    statement = _ROW.order_by(Table.product_id, Table.match_id, Table.pk)
    for row in session.execute(statement.execution_options(yield_per=1000)):
        yield Judgement(*row)
