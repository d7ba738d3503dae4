"""Keeps what people think of matches, for `lookalike-worker evaluate`."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from db.queries import generations, judgements
from db.queries.generations import Generation
from db.queries.judgements import Judgement as Kept
from db.session import Database
from producer.judging import MAX_JUDGEMENTS, JudgeMatch, Judgement, JudgementList, Judgements
from producer.reasons import Reason
from worker.desk import Unanswerable


def judge(database: Database, question: JudgeMatch) -> Judgement:
    """Keep a judgement, or forget it. Raises Unanswerable and DatabaseUnavailable."""
    now = datetime.now(UTC)
    with database.writing() as session:
        generation = _generation(session, question.generation)
        if question.verdict is None:
            judgements.withdraw(session, question.product_id, question.match, question.judge)
            return _shown(_kept(question, now, None), withdrawn=True)
        kept = _kept(question, now, generation)
        judgements.note(session, kept, generation.model_version_pk if generation else None)
    return _shown(kept)


def judgements_of(database: Database, question: JudgementList) -> Judgements:
    """What anybody thinks of the matches of a product. Raises DatabaseUnavailable."""
    with database.reading() as session:
        found = judgements.of_product(session, question.product_id, MAX_JUDGEMENTS)
    return Judgements(judgements=tuple(map(_shown, found)))


def _generation(session: Session, number: int | None) -> Generation | None:
    """The generation that gave the match, kept or not."""
    if number is None:
        return None
    found = generations.get(session, number)
    if found is None:
        raise Unanswerable(Reason.UNKNOWN_GENERATION, f"there never was a generation {number}")
    return found


def _kept(question: JudgeMatch, now: datetime, generation: Generation | None) -> Kept:
    return Kept(
        question.product_id,
        question.match,
        question.judge,
        question.verdict == "up",
        now,
        generation.number if generation else None,
        question.distance,
        generation.model_digest if generation else None,
    )


def _shown(kept: Kept, *, withdrawn: bool = False) -> Judgement:
    verdict = "up" if kept.good else "down"
    return Judgement(
        product_id=kept.product_id,
        match=kept.match_id,
        verdict=None if withdrawn else verdict,  # type: ignore[arg-type]
        judge=kept.judge,
        at=kept.judged_at,
        generation=kept.generation,
        model_version=kept.model_digest,
        distance=kept.distance,
    )
