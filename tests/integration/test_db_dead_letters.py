"""Dead letters on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

from db.queries import dead_letters
from db.queries.dead_letters import NewDeadLetter, Which
from db.session import Database


def letter(
    job: int = 1,
    product_id: str | None = "sku",
    name: str | None = "main",
    reason: str = "not_found",
) -> NewDeadLetter:
    """An item given up."""
    return NewDeadLetter(
        job_id=f"{job:036d}",
        product_id=product_id,
        name=name,
        reason=reason,
        detail="404 ü",
        attempts=2,
        message={"product_id": product_id, "price": 1e16},
        created_at=datetime(2030, 1, 1, 12, tzinfo=UTC),
    )


def test_letters_are_kept_once_listed_and_counted(database: Database) -> None:
    rows = [letter(), letter(name="back", reason="corrupt_image"), letter(2, None, None)]
    with database.writing() as session:
        dead_letters.add(session, [])
        dead_letters.add(session, [*rows, rows[0]])
    with database.writing() as session:
        dead_letters.add(session, rows)
    with database.reading() as session:
        listed = dead_letters.list_(session)
        assert [
            NewDeadLetter(**{k: getattr(each, k) for k in vars(rows[0])}) for each in listed
        ] == [
            rows[2],
            rows[0],
            rows[1],
        ]
        assert dead_letters.count_by_reason(session) == {"corrupt_image": 1, "not_found": 2}
        assert [
            each.name for each in dead_letters.list_(session, Which(reason="corrupt_image"))
        ] == ["back"]
        assert dead_letters.list_(session, limit=2) == listed[:2]
