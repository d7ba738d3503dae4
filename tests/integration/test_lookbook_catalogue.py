"""What the lookbook is shown of the catalogue, and the judgements that it keeps, on both databases."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from db.queries import catalogue, judgements
from db.queries.catalogue import ProductRemoval, Wanted, browsing
from db.queries.catalogue.browsing import beyond_prefix
from db.session import Database
from producer.browsing import Browse, CategoryCount
from producer.ids import new_id
from producer.judging import JudgeMatch, JudgementList
from producer.reasons import Reason
from tests.integration.catalogue_rows import image, model, store
from worker import judging
from worker.browsing import FRESH, SHARE, CategoryCounts, browse, kept_generations
from worker.desk import Unanswerable

IDS = ["", "a", "A", "ab", "aé", "a😀", "b", "Ba", "é", "z\uffff", "z\U0010ffff", "z"]
"""Their order by any language's rules is another than by their characters."""


def page(database: Database, **wanted: Any) -> tuple[list[str], bool]:
    """Ids of a page, and whether there are more."""
    found = browse(database, Browse(id=new_id(), expires_at=0, **wanted))
    return [each.product_id for each in found.products], found.more


def test_pages_are_in_the_order_of_characters_on_both(database: Database) -> None:
    ids = [f"{each}{number}" for each in IDS for number in range(3)]
    random.Random(1).shuffle(ids)
    store(database, model(database), [image(each) for each in ids])
    found: list[str] = []
    more = True
    while more:
        some, more = page(database, after=found[-1] if found else None, limit=7)
        assert more == (len(some) == 7 and len(found) + 7 < len(ids))
        found += some
    assert found == sorted(ids)


@pytest.mark.parametrize("prefix", ["a", "aé", "z", "z\uffff", "z\U0010ffff", "nothing", "A"])
@pytest.mark.parametrize("after", [None, "aa", "z0"])
def test_a_prefix_is_one_of_characters(database: Database, prefix: str, after: str | None) -> None:
    ids = [f"{each}{number}" for each in IDS for number in range(2)]
    store(database, model(database), [image(each) for each in ids])
    wanted = sorted(each for each in ids if each.startswith(prefix) and each > (after or ""))
    assert page(database, prefix=prefix, after=after) == (wanted, False)


@pytest.mark.parametrize(
    ("prefix", "beyond"),
    [
        ("", None),
        ("a", "b"),
        ("a\ud7ff", "a\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
    ],
)
def test_where_a_prefix_ends(prefix: str, beyond: str | None) -> None:
    assert beyond_prefix(prefix) == beyond


def test_categories_gone_products_and_the_picture_to_show(database: Database) -> None:
    tiny = model(database)
    store(
        database,
        tiny,
        [
            image("a", category="dress", attributes={"price": 5}),
            image("b", category=None),
            image("c", category="shoe", name="back"),
            image("c", category="shoe", name="side"),
            image("d", category="shoe", name="back"),
            image("d", category="shoe", name="main"),
            image("gone", category="dress"),
        ],
    )
    store(database, tiny, removals=[ProductRemoval("gone", 9)])
    with database.reading() as session:
        shown = catalogue.page(session, Wanted(), None, 10)
        counts = catalogue.categories(session)
    assert [(each.product_id, each.name, each.category) for each in shown] == [
        ("a", "main", "dress"),
        ("b", "main", None),
        ("c", "back", "shoe"),
        ("d", "main", "shoe"),
    ]
    assert shown[0].attributes == {"price": 5}
    assert counts == {"dress": 1, None: 1, "shoe": 2}
    assert page(database, category="shoe") == (["c", "d"], False)
    assert page(database, category="shoe", after="c", limit=1) == (["d"], False)
    assert page(database, category="shoe", limit=1) == (["c"], True)
    assert page(database, uncategorised=True) == (["b"], False)
    assert page(database, category="none of these") == ([], False)


@pytest.mark.parametrize(
    ("wanted", "bounds"),
    [
        (Wanted(), {"first": "p1"}),
        (Wanted(prefix="p1"), {"first": "p1", "beyond": "p2"}),
        (Wanted(category="c3"), {"first": "p1", "category": "c3"}),
        (Wanted(uncategorised=True), {"first": "p1"}),
    ],
    ids=["all", "prefix", "category", "uncategorised"],
)
def test_a_page_reads_an_index_where_it_begins(
    database: Database, wanted: Wanted, bounds: dict[str, Any]
) -> None:
    """By the database's own plan: nothing is read as a whole, and no products are sorted."""
    rows = [
        image(f"p{number:04}", category=f"c{number % 40}" if number % 40 else None)
        for number in range(2000)
    ]
    store(database, model(database), rows)
    if database.dialect == "postgresql":
        with database.migrating() as connection:
            connection.exec_driver_sql("ANALYZE")
    of_category = wanted.category is not None
    read = browsing._page(of_category, wanted.uncategorised, "beyond" in bounds)
    plan = _plan(database, read, bounds | {"limit": 60})
    by_category = of_category or wanted.uncategorised
    index = "ix_product_category_product_id" if by_category else "product_product"
    assert index in plan or "sqlite_autoindex_product_1" in plan, plan
    assert "TEMP B-TREE" not in plan, plan
    assert "Seq Scan" not in plan, plan


def _plan(database: Database, read: Any, bounds: dict[str, Any]) -> str:
    with database.reading() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        if database.dialect == "sqlite":
            text, constants = read._sqlite
            rows = driver.execute(f"EXPLAIN QUERY PLAN {text}", constants | bounds).fetchall()
            # What is chosen within a product's pictures is sorted; there are few.
            outer = [row[3] for row in rows if row[1] == 0]
            return "\n".join(outer)
        text, constants = read._postgresql
        rows = driver.execute(b"EXPLAIN " + text, constants | bounds).fetchall()
        return "\n".join(row[0] for row in rows)


def test_counts_of_categories_are_kept_for_a_while(sqlite_database: Database) -> None:
    now = [100.0]
    tiny = model(sqlite_database)
    counts = CategoryCounts(sqlite_database, lambda: now[0])
    assert counts.now().total == 0
    store(sqlite_database, tiny, [image("a"), image("b"), image("c", category="shoe")])
    assert counts.now().total == 0
    now[0] += FRESH + 0.1
    assert counts.now().categories == (
        CategoryCount(category="dress", products=2),
        CategoryCount(category="shoe", products=1),
    )


def test_counts_that_take_long_are_kept_longer(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    counts = CategoryCounts(sqlite_database, lambda: now[0])

    def slow(_: object) -> dict[str | None, int]:
        now[0] += 2.0
        return {"a": 1}

    monkeypatch.setattr("worker.browsing.catalogue.categories", slow)
    counts.now()
    store(sqlite_database, model(sqlite_database), [image("a")])
    now[0] += SHARE * 2.0 - 3.0
    before = now[0]
    counts.now()
    assert now[0] == before
    now[0] += 2.0
    counts.now()
    assert now[0] > before + 2.0


def test_there_may_be_no_generation(database: Database, tmp_path: Path) -> None:
    assert kept_generations(database, tmp_path).generations == ()


# -- judgements -----------------------------------------------------------------------------------


def vote(**said: Any) -> JudgeMatch:
    asked = {"product_id": "a", "match": "b", "verdict": "up", "judge": "anna"}
    return JudgeMatch.model_validate({"id": new_id(), "expires_at": 0.0, **asked, **said})


def thought(database: Database, product_id: str = "a") -> list[tuple[str, str, str | None]]:
    asked = JudgementList(id=new_id(), expires_at=0, product_id=product_id)
    found = judging.judgements_of(database, asked).judgements
    return [(each.match, each.judge, each.verdict) for each in found]


def test_a_judge_has_one_verdict_on_a_match(database: Database) -> None:
    judging.judge(database, vote(distance=0.5))
    judging.judge(database, vote(judge="bert", verdict="down"))
    judging.judge(database, vote(match="c"))
    made = judging.judge(database, vote(verdict="down"))
    assert (made.verdict, made.distance) == ("down", None)
    assert sorted(thought(database)) == [
        ("b", "anna", "down"),
        ("b", "bert", "down"),
        ("c", "anna", "up"),
    ]
    assert judging.judge(database, vote(verdict=None)).verdict is None
    judging.judge(database, vote(verdict=None))
    assert sorted(thought(database)) == [("b", "bert", "down"), ("c", "anna", "up")]
    assert thought(database, "b") == []
    with database.reading() as session:
        assert [each.match_id for each in judgements.all_(session)] == ["b", "c"]


def test_a_generation_that_never_was_is_told(database: Database) -> None:
    with pytest.raises(Unanswerable, match="never was a generation 7") as caught:
        judging.judge(database, vote(generation=7))
    assert caught.value.reason is Reason.UNKNOWN_GENERATION
    assert thought(database) == []
