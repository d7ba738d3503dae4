"""The catalogue on both databases: applying messages, and what lookups and indexes read."""

from __future__ import annotations

import random
from typing import Any

import pytest

from db.merge import merge
from db.queries import catalogue
from db.queries.catalogue import ImageChange, NewEmbedding, ProductRemoval
from db.queries.models import ModelVersion
from db.session import Database
from tests.integration.catalogue_rows import (
    DIMENSION,
    image,
    model,
    pk_of,
    store,
    vector,
    visible,
)

ODD_IDS = [
    "ü😀",
    "'; DROP TABLE product; --",
    '"',
    "%s :x ?",
    "\\",
    "\n",
    "null",
    "[1]",
    " ",
    "é",
    "é",
]


def test_a_new_product_can_be_found_described_and_streamed(database: Database) -> None:
    tiny = model(database)
    change = image("sku", attributes={"price": 1e16, "in_stock": True, "sizes": [1, 2.5, "XL"]})
    applied = store(database, tiny, [change])
    assert (applied.revision, applied.applied, applied.superseded) == (1, 1, 0)
    with database.reading() as session:
        (product,) = catalogue.live_images(session, ["sku", "other"]).values()
        (pk,) = product.image_pks
        described = catalogue.describe(session, [pk, 999])[pk]
        assert tuple(described) == (
            pk,
            product.product_pk,
            "sku",
            "main",
            "dress",
            {"price": 1e16, "in_stock": True, "sizes": [1, 2.5, "XL"]},
            change.content_sha256,
        )
        assert type(described.content_sha256) is bytes
        assert type(described.attributes["price"]) is float
        (block,) = catalogue.stream_vectors(session, tiny.pk)
        vectors = vector(change.content_sha256)
        assert tuple(block) == (
            [pk],
            [product.product_pk],
            ["dress"],
            [{"price": 1e16, "in_stock": True, "sizes": [1, 2.5, "XL"]}],
            vectors,
        )
        assert type(block.attributes[0]["price"]) is float
        (changed,) = catalogue.changes_since(session, 0, tiny.pk)
        assert changed.attributes == described.attributes
        assert catalogue.vectors_of(session, [pk], tiny.pk) == {pk: vectors}
        assert catalogue.count(session) == (1, 1)


def test_any_unicode_is_an_id_and_no_id_is_sql(database: Database) -> None:
    tiny = model(database)
    store(database, tiny, [image(each, name=each, category=each) for each in ODD_IDS])
    with database.reading() as session:
        found = catalogue.live_images(session, ODD_IDS)
        assert set(found) == set(ODD_IDS)
        pks = [product.image_pks[0] for product in found.values()]
        described = catalogue.describe(session, pks)
        assert [described[pk].product_id for pk in pks] == list(found)
        assert [described[pk].name for pk in pks] == list(found)


def test_removal_takes_effect_at_its_commit_and_for_ever_against_what_is_older(
    database: Database,
) -> None:
    tiny = model(database)
    store(database, tiny, [image("sku", 5), image("sku", 5, name="back")])
    with database.reading() as session:
        pks = catalogue.live_images(session, ["sku"])["sku"].image_pks
    removed = store(database, tiny, removals=[ProductRemoval("sku", 6)])
    assert removed.revision == 2
    late = store(database, tiny, [image("sku", 5, name="side")])
    assert (late.revision, late.applied, late.superseded) == (None, 0, 1)
    with database.reading() as session:
        assert catalogue.live_images(session, ["sku"]) == {}
        assert catalogue.describe(session, pks) == {}
        assert catalogue.vectors_of(session, pks, tiny.pk) == {}
        assert catalogue.count(session) == (0, 0)
        assert [(c.image_pk, c.vector) for c in catalogue.changes_since(session, 1, tiny.pk)] == [
            (pk, None) for pk in pks
        ]


def test_a_removal_that_comes_before_its_product_still_beats_it(database: Database) -> None:
    tiny = model(database)
    assert store(database, tiny, removals=[ProductRemoval("sku", 6)]).revision is None
    assert store(database, tiny, [image("sku", 5)]).revision is None
    assert store(database, tiny, [image("sku", 7)]).revision == 1
    with database.reading() as session:
        assert set(catalogue.live_images(session, ["sku"])) == {"sku"}


def test_a_revision_is_taken_only_for_what_a_lookup_can_see(database: Database) -> None:
    tiny = model(database)
    assert store(database, tiny, [image("sku", 1), image("sku", 1, name="back")]).revision == 1
    assert store(database, tiny, [image("sku", 1)]).revision is None, "again"
    assert store(database, tiny, [image("sku", 2)]).revision is None, "nothing new in it"
    assert store(database, tiny, [image("sku", 3, attributes={"a": 1})]).revision == 2
    assert changed(database, tiny.pk, 1) == [], "no picture is another"
    assert repriced(database, 1) == {"main": {"a": 1}, "back": {"a": 1}}
    assert repriced(database, 2) == {}
    assert (
        store(database, tiny, [image("sku", 4, content="other", attributes={"a": 1})]).revision == 3
    )
    assert changed(database, tiny.pk, 2) == ["main"]
    recategorised = image("sku", 5, content="other", category="skirt", attributes={"a": 1})
    assert store(database, tiny, [recategorised]).revision == 4
    assert changed(database, tiny.pk, 3) == ["back", "main"], "a category is of all pictures"
    assert store(database, tiny, [image("sku", 4, name="back", content="late")]).revision == 5
    assert changed(database, tiny.pk, 4) == ["back"]


def changed(database: Database, model_version_pk: int, revision: int) -> list[str]:
    """Names of the pictures changed since a revision."""
    with database.reading() as session:
        pks = [c.image_pk for c in catalogue.changes_since(session, revision, model_version_pk)]
        assert catalogue.count_changes_since(session, revision) == len(pks)
        return sorted(each.name for each in catalogue.describe(session, pks).values())


def repriced(database: Database, revision: int) -> dict[str, dict[str, Any]]:
    """Attributes of the pictures whose products have others since a revision, by the pictures' names."""
    with database.reading() as session:
        found = {
            each.image_pk: each.attributes
            for each in catalogue.attributes_since(session, revision, block=1)
        }
        described = catalogue.describe(session, found)
        return {described[pk].name: attributes for pk, attributes in found.items()}


def test_what_it_costs_to_catch_up_does_not_grow_with_the_catalogue(
    sqlite_database: Database,
) -> None:
    tiny = model(sqlite_database)
    few, many = (_steps_of_catching_up(sqlite_database, tiny, count) for count in (50, 1000))
    assert many <= 1.2 * few


def _steps_of_catching_up(database: Database, tiny: ModelVersion, count: int) -> int:
    """What SQLite does for one change among `count` products more, in units of ten instructions."""
    rows = [image(f"of{count}-{i}") for i in range(count)]
    before = store(database, tiny, rows).revision or 0
    store(database, tiny, [image("new", count)])
    store(database, tiny, [image(f"of{count}-0", 2, attributes={"price": 1.0})])
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with database.reading() as session:
        connection: Any = session.connection().connection.driver_connection
        connection.set_progress_handler(step, 10)
        assert len(list(catalogue.changes_since(session, before, tiny.pk))) <= 1
        assert len(list(catalogue.attributes_since(session, before))) == 1
        connection.set_progress_handler(None, 0)
    return steps


def test_attributes_that_changed_are_given_for_pictures_that_did_not(database: Database) -> None:
    tiny = model(database)
    names = ["main", "back", "side"]
    store(database, tiny, [image("sku", name=name, attributes={"a": 1}) for name in names])
    store(database, tiny, [image("other", attributes={"a": 9})])
    assert repriced(database, 2) == {}
    store(database, tiny, [image("sku", 2, name="back", attributes={"a": 2})])
    assert repriced(database, 2) == {name: {"a": 2} for name in names}
    assert repriced(database, 0) == {}, "they are all in changes_since, with their attributes"
    store(database, tiny, [image("sku", 3, name="side", content="other", attributes={"a": 3})])
    assert changed(database, tiny.pk, 2) == ["side"]
    assert repriced(database, 2) == {"main": {"a": 3}, "back": {"a": 3}}
    with database.reading() as session:
        (change,) = catalogue.changes_since(session, 2, tiny.pk)
        assert change.attributes == {"a": 3}
        assert catalogue.count_products_since(session, 2) == 1
        assert catalogue.count_products_since(session, 0) == 2
    store(database, tiny, removals=[ProductRemoval("sku", 9)])
    assert repriced(database, 2) == {}, "what is gone has none"
    store(database, tiny, [image("sku", 10, attributes={"a": 10})])
    assert repriced(database, 2) == {}, "it came back as a new picture"
    with database.reading() as session:
        assert catalogue.count_products_since(session, catalogue.head(session).revision) == 0


@pytest.mark.parametrize("seed", range(3))
def test_messages_in_any_order_and_twice_give_the_same_rows(database: Database, seed: int) -> None:
    random_ = random.Random(seed)
    tiny = model(database)
    changes = [
        image(
            f"sku-{random_.randrange(5)}",
            version,
            name=random_.choice(["main", "back"]),
            content=f"content {version}",
            category=random_.choice([None, "a", "b"]),
            attributes={"n": random_.randrange(2)},
        )
        for version in range(40)
    ]
    removals = [ProductRemoval(f"sku-{random_.randrange(5)}", v + 40) for v in range(-30, 2, 4)]
    expected = merge({}, changes, removals).products
    sent = [*changes, *removals, *random_.choices(changes, k=10)]
    random_.shuffle(sent)
    followed: dict[int, Followed] = {}
    revision = 0
    while sent:
        chunk, sent = sent[:7], sent[7:]
        store(
            database,
            tiny,
            [each for each in chunk if isinstance(each, ImageChange)],
            [each for each in chunk if isinstance(each, ProductRemoval)],
        )
        if random_.random() < 0.5:
            revision = follow(database, tiny.pk, followed, revision)
    follow(database, tiny.pk, followed, revision)
    with database.reading() as session:
        assert visible(session) == {
            (product_id, name): (state.content_sha256, product.category, product.attributes)
            for product_id, product in expected.items()
            for name, state in product.images.items()
            if product.is_live(state)
        }
        assert followed == streamed(database, tiny.pk), "changes give what a whole read gives"


Followed = tuple[str | None, dict[str, Any], bytes]
"""Category, attributes and vector of a live picture."""


def follow(
    database: Database, model_version_pk: int, followed: dict[int, Followed], revision: int
) -> int:
    """Bring `followed` up to date as an overlay does; the new revision."""
    with database.reading() as session:
        for each in catalogue.changes_since(session, revision, model_version_pk, block=2):
            if each.vector is None:
                followed.pop(each.image_pk, None)
            else:
                followed[each.image_pk] = (each.category, each.attributes, each.vector)
        for other in catalogue.attributes_since(session, revision, block=2):
            category, _, vector_ = followed[other.image_pk]
            followed[other.image_pk] = (category, other.attributes, vector_)
        return catalogue.head(session).revision


def streamed(database: Database, model_version_pk: int) -> dict[int, Followed]:
    """All live pictures by a whole read."""
    size = 4 * DIMENSION
    with database.reading() as session:
        return {
            pk: (
                block.categories[i],
                block.attributes[i],
                block.vectors[i * size : (i + 1) * size],
            )
            for block in catalogue.stream_vectors(session, model_version_pk, block=3)
            for i, pk in enumerate(block.image_pks)
        }


def test_streaming_keeps_to_one_model_and_one_snapshot(database: Database) -> None:
    tiny, other = model(database), model(database, "e" * 64)
    store(database, tiny, [image(f"sku-{i}") for i in range(10)])
    store(database, other, [image("sku-3"), image("of-other")])
    with database.reading() as session:
        blocks = catalogue.stream_vectors(session, tiny.pk, block=4)
        first = next(blocks)
        revision = catalogue.head(session).revision
        store(database, tiny, [image("later")], [ProductRemoval("sku-9", 9)])
        pks = first.image_pks + [pk for block in blocks for pk in block.image_pks]
        assert len(pks) == 10
        assert pks == sorted(pks)
        assert catalogue.head(session).revision == revision
        of_other = catalogue.stream_vectors(session, other.pk)
        assert [len(block.image_pks) for block in of_other] == [2]
        gone = {c.image_pk: c.vector for c in catalogue.changes_since(session, 0, other.pk)}
        assert sum(each is None for each in gone.values()) == 9, "not embedded under that model"


def test_ten_thousand_ids_in_one_question(database: Database) -> None:
    tiny = model(database)
    for start in range(0, 2000, 1000):
        store(database, tiny, [image(f"sku-{i}") for i in range(start, start + 1000)])
    with database.reading() as session:
        ids = [f"sku-{i}" for i in range(40_000)]
        found = catalogue.live_images(session, ids)
        assert len(found) == 2000
        assert len(catalogue.describe(session, range(40_000))) == 2000
        assert len(catalogue.vectors_of(session, range(40_000), tiny.pk)) == 2000
        digests = [image(each).content_sha256 for each in ids[1000:5000]]
        assert len(catalogue.known_embeddings(session, digests, tiny.pk)) == 1000


def test_the_same_bytes_are_kept_once_whoever_comes_second(database: Database) -> None:
    tiny = model(database)
    digest = image("sku").content_sha256
    store(database, tiny, [image("sku")])
    with database.writing() as session:
        second = NewEmbedding(digest, DIMENSION, b"\0" * 12)
        catalogue.add_embeddings(session, tiny.pk, [second, second])
        catalogue.add_thumbnails(session, [(digest, b"first"), (b"x" * 32, b"unused")])
        catalogue.add_thumbnails(session, [(digest, b"second")])
    with database.reading() as session:
        pk = pk_of(session, "sku")
        assert catalogue.vectors_of(session, [pk], tiny.pk) == {pk: vector(digest)}
        assert catalogue.thumbnails(session, [("sku", "main"), ("sku", "back"), ("x", "main")]) == {
            ("sku", "main"): b"first"
        }
        assert catalogue.known_embeddings(session, [digest, b"y" * 32], tiny.pk) == {digest}


def test_a_product_without_a_main_picture_is_shown_by_its_first(database: Database) -> None:
    tiny = model(database)
    pictures = [image("sku", name=name) for name in ("side", "back")]
    store(database, tiny, [*pictures, image("other")])
    with database.writing() as session:
        jpegs = [(each.content_sha256, each.name.encode()) for each in pictures]
        catalogue.add_thumbnails(session, jpegs)
    with database.reading() as session:
        wanted = [("sku", "main"), ("sku", "front"), ("other", "main")]
        assert catalogue.thumbnails(session, wanted) == {("sku", "main"): b"back"}


def test_nothing_is_asked_of_nothing(database: Database) -> None:
    tiny = model(database)
    assert store(database, tiny).revision is None
    with database.writing() as session:
        catalogue.add_thumbnails(session, [])
    with database.reading() as session:
        assert catalogue.live_images(session, []) == {}
        assert catalogue.describe(session, []) == {}
        assert catalogue.thumbnails(session, []) == {}
        assert catalogue.known_embeddings(session, [], tiny.pk) == set()
        assert list(catalogue.stream_vectors(session, tiny.pk)) == []
        assert list(catalogue.attributes_since(session, 0)) == []
        assert catalogue.head(session) == (0, tiny.pk, tiny.digest, None, 0)


def test_a_vector_must_be_of_its_dimension() -> None:
    with pytest.raises(ValueError, match="512 float32 takes 2048 bytes, not 12"):
        NewEmbedding(b"x" * 32, 512, b"\0" * 12)
