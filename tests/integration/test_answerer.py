"""What a reply is made of: tastes, doubles, limits, variety, and what the shop says now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from db.session import Database
from producer.messages import (
    BatchReply,
    BytesImage,
    PictureLookup,
    ProductLookup,
    Range,
    Reply,
    Selection,
    TasteLookup,
    Where,
)
from tests.unit.worker.index.factories import (
    DIGEST,
    QUICK,
    Shop,
    answerer,
    build,
    by_picture,
    found,
    half,
    prefer_the_index,
    question,
    vectors,
)
from worker.index import builder
from worker.index.errors import WrongModel
from worker.lookup import Answerer
from worker.taste import blend

Vector = NDArray[np.float32]
SETTINGS = replace(QUICK, reduce_to=0, search_k=2000)
"""Built at the first attempt, and hardly tuned."""
ENVELOPE: dict[str, Any] = {"id": "0" * 36, "expires_at": 1e12}


@pytest.fixture(params=["planner", "index", "no index"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the base is searched, where there is one."""
    if request.param == "index":
        prefer_the_index(monkeypatch)
    return str(request.param)


@pytest.fixture
def shop(database: Database, data_dir: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """400 products, 330 of them in the index, of 3 categories; the price of `p7` is 7."""
    monkeypatch.setattr(builder, "check_in_child", lambda *_: None)  # tested elsewhere, and slow
    shop = Shop(database)
    rows = vectors(400, seed=31)
    products = [
        (
            f"p{i}",
            "main",
            rows[i],
            f"c{i % 3}",
            {"price": i, "brand": f"b{i % 4}", "sizes": [i % 5, i % 7, i % 5]},
        )
        for i in range(400)
    ]
    shop.add_many(products[:330])
    if way != "no index":
        build(database, data_dir, SETTINGS)
    shop.add_many(products[330:])
    return shop


@pytest.fixture
def answers(shop: Shop, data_dir: Path) -> Answerer:
    return answerer(shop.database, data_dir)


def vector_of(shop: Shop, product_id: str) -> Vector:
    return shop.items[product_id].pictures["main"]


def taste(
    answers: Answerer, liked: Sequence[str], disliked: Sequence[str] = (), **options: Any
) -> BatchReply:
    return answers.by_taste(
        TasteLookup(
            liked=tuple(liked),
            disliked=tuple(disliked),
            selection=Selection(**options),
            **ENVELOPE,
        )
    )


def matched(answers: Answerer, product_id: str, **options: Any) -> Reply:
    asked = ProductLookup(product_ids=(product_id,), selection=Selection(**options), **ENVELOPE)
    (reply,) = answers.by_products(asked).replies
    return reply


def ids(reply: Reply) -> list[str]:
    return [match.product_id for match in reply.matches]


def truth(shop: Shop, vector: Vector, leave_out: Sequence[str], limit: int) -> list[str]:
    """The nearest products to a vector by brute force."""
    distances = {
        product_id: min(
            float(np.linalg.norm(half(vector) - half(own))) for own in item.pictures.values()
        )
        for product_id, item in shop.items.items()
        if product_id not in leave_out
    }
    return sorted(distances, key=distances.__getitem__)[:limit]


# -- a taste --------------------------------------------------------------------------------------


def test_a_taste_is_one_question_without_the_products_it_names(
    shop: Shop, answers: Answerer
) -> None:
    liked, disliked = ["p3", "p8", "p350"], ["p40", "p360"]
    batch = taste(answers, liked, disliked, limit=12)
    (reply,) = batch.replies
    assert batch.not_found == ()
    assert reply.product_id is None
    wanted = blend(
        [half(vector_of(shop, i))[None] for i in liked],
        [half(vector_of(shop, i))[None] for i in disliked],
    )
    expected = truth(shop, wanted, [*liked, *disliked], 12)
    assert len(reply.matches) == 12
    assert len(set(ids(reply)) & set(expected)) >= 11
    assert not set(ids(reply)) & {*liked, *disliked}
    for match in reply.matches:
        distance = np.linalg.norm(half(wanted) - half(vector_of(shop, match.product_id)))
        assert match.distance == pytest.approx(float(distance), abs=2e-3)


def test_what_is_disliked_moves_away(shop: Shop, answers: Answerer) -> None:
    before = ids(taste(answers, ["p3"], limit=20).replies[0])
    unwanted = before[0]
    after = ids(taste(answers, ["p3"], [unwanted], limit=20).replies[0])
    assert unwanted not in after
    near = vector_of(shop, unwanted)

    def likeness(product_ids: list[str]) -> float:
        return float(np.mean([vector_of(shop, i) @ near for i in product_ids]))

    assert likeness(after) < likeness(before)


def test_products_that_are_unknown_are_named_and_nothing_is_answered(
    shop: Shop, answers: Answerer
) -> None:
    shop.remove("p5")
    batch = taste(answers, ["p3", "p5", "nobody"], ["no one", "p8", "p5"])
    assert batch.replies == ()
    assert batch.not_found == ("p5", "nobody", "no one")
    picture = PictureLookup(
        images=(BytesImage(key="0" * 64),), liked=("p3",), disliked=("p5",), **ENVELOPE
    )
    answered = answers.by_pictures(picture, [vector_of(shop, "p9")], [], DIGEST)
    assert isinstance(answered, BatchReply)
    assert answered.not_found == ("p5",)


def test_pictures_and_products_are_blended(shop: Shop, answers: Answerer) -> None:
    picture, street = vectors(2, seed=99)
    asked = PictureLookup(
        images=(BytesImage(key="0" * 64),),
        disliked_images=(BytesImage(key="1" * 64),),
        liked=("p3",),
        disliked=("p40",),
        selection=Selection(limit=10),
        **ENVELOPE,
    )
    reply = answers.by_pictures(asked, [picture], [street], DIGEST)
    assert isinstance(reply, Reply)
    wanted = blend(
        [half(vector_of(shop, "p3"))[None], picture[None]],
        [half(vector_of(shop, "p40"))[None], street[None]],
    )
    expected = truth(shop, wanted, ["p3", "p40"], 10)
    assert len(set(ids(reply)) & set(expected)) >= 9
    assert not set(ids(reply)) & {"p3", "p40"}


def test_pictures_of_another_model_are_refused_for_tastes_too(
    shop: Shop, answers: Answerer
) -> None:
    asked = PictureLookup(images=(BytesImage(key="0" * 64),), liked=("p3",), **ENVELOPE)
    with pytest.raises(WrongModel):
        answers.by_pictures(asked, [vector_of(shop, "p9")], [], "e" * 64)
    with pytest.raises(ValueError, match="finite"):
        answers.by_pictures(asked, [], [np.full(16, np.nan, np.float32)], DIGEST)


def test_a_product_of_several_pictures_counts_once_in_a_taste(
    shop: Shop, answers: Answerer
) -> None:
    for i in range(5):
        shop.add("p3", vectors(1, seed=200 + i)[0], name=f"side{i}", category="c0")
    pictures = np.stack([half(v) for v in shop.items["p3"].pictures.values()])
    wanted = blend([pictures, half(vector_of(shop, "p8"))[None]], [])
    (reply,) = taste(answers, ["p3", "p8"], limit=10).replies
    assert len(set(ids(reply)) & set(truth(shop, wanted, ["p3", "p8"], 10))) >= 9


# -- near enough ----------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [0.99, 0.9, 0.5, -1.0])
def test_only_what_is_alike_enough_is_shown(shop: Shop, answers: Answerer, least: float) -> None:
    own = half(vector_of(shop, "p3"))
    likeness = {
        i: float(own @ half(item.pictures["main"])) for i, item in shop.items.items() if i != "p3"
    }
    alike = {i for i, cosine in likeness.items() if cosine >= least + 2e-3}
    borderline = {i for i, cosine in likeness.items() if abs(cosine - least) < 2e-3}
    reply = matched(answers, "p3", limit=1000, min_similarity=least)
    assert alike <= set(ids(reply)) <= alike | borderline
    assert by_picture(answers, -vector_of(shop, "p3"), min_similarity=0.999).matches == ()


# -- doubles --------------------------------------------------------------------------------------


def test_the_same_picture_is_shown_once_on_request(shop: Shop, answers: Answerer) -> None:
    """Of the same bytes under several ids, of which some came after the index was built."""
    nearest = shop.nearest("p3", 2)
    same = shop.items[nearest[0][0]].pictures["main"]
    for i in range(30):
        shop.add(f"double{i}", same, category="c1")
    plain = matched(answers, "p3", limit=20)
    assert sum(i.startswith("double") for i in ids(plain)) >= 19
    collapsed = matched(answers, "p3", limit=20, collapse=0.0)
    assert len(collapsed.matches) == 20
    doubles = {nearest[0][0], *(f"double{i}" for i in range(30))}
    assert len(doubles & set(ids(collapsed))) == 1
    assert nearest[1][0] in ids(collapsed)


def test_nearly_the_same_pictures_are_shown_once(shop: Shop, answers: Answerer) -> None:
    collapse = 0.25
    got = ids(matched(answers, "p3", limit=25, collapse=collapse))
    pictures = np.stack([half(vector_of(shop, i)) for i in got])
    apart = np.linalg.norm(pictures[:, None] - pictures[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > collapse - 1e-3
    assert got[0] == shop.nearest("p3", 1)[0][0]
    everything = ids(matched(answers, "p3", limit=1000, collapse=2.0))
    assert len(everything) == 1


# -- not too many of a kind -----------------------------------------------------------------------


def test_at_most_so_many_of_a_value(shop: Shop, answers: Answerer) -> None:
    reply = matched(answers, "p3", limit=8, at_most={"brand": 2})
    brands = [str(match.attributes["brand"]) for match in reply.matches]
    assert sorted(brands) == sorted(f"b{i % 4}" for i in range(8))
    by_hand: dict[object, int] = {}
    expected = []
    for product_id, _ in shop.nearest("p3", 400):
        brand = shop.items[product_id].attributes["brand"]
        if by_hand.get(brand, 0) < 2:
            by_hand[brand] = by_hand.get(brand, 0) + 1
            expected.append(product_id)
    assert len(set(ids(reply)) & set(expected)) >= 7
    few = matched(answers, "p3", limit=30, at_most={"brand": 2})
    assert len(few.matches) == 8, "there are four brands"


def test_at_most_of_a_category_and_of_each_element_of_a_list(shop: Shop, answers: Answerer) -> None:
    reply = matched(answers, "p3", limit=9, at_most={"category": 3})
    assert (
        sorted(str(match.category) for match in reply.matches)
        == ["c0"] * 3 + ["c1"] * 3 + ["c2"] * 3
    )
    sized = matched(answers, "p3", limit=30, at_most={"sizes": 2})
    shown = [size for match in sized.matches for size in set(_sizes(match.attributes["sizes"]))]
    assert shown
    assert all(shown.count(size) <= 2 for size in shown)


def _sizes(value: object) -> list[int]:
    assert isinstance(value, list)
    return value


def test_a_value_that_is_said_twice_counts_once(shop: Shop, answers: Answerer) -> None:
    """`["red", "red"]` is one red product."""
    nearest = [product_id for product_id, _ in shop.nearest("p3", 3)]
    for product_id in nearest:
        shop.add(product_id, vector_of(shop, product_id), attributes={"tag": ["red", "red"]})
    reply = matched(answers, "p3", limit=2, at_most={"tag": 2})
    assert ids(reply) == nearest[:2]


def test_who_has_no_such_attribute_is_not_limited(shop: Shop, answers: Answerer) -> None:
    assert len(matched(answers, "p3", limit=50, at_most={"colour": 1}).matches) == 50


# -- variety --------------------------------------------------------------------------------------


def test_variety_is_bought_with_likeness(shop: Shop, answers: Answerer) -> None:
    def spread(reply: Reply) -> float:
        pictures = np.stack([vector_of(shop, match.product_id) for match in reply.matches])
        return float(np.mean(pictures @ pictures.T))

    replies = [matched(answers, "p3", limit=10, diversity=w) for w in (0.0, 0.4, 0.9)]
    assert [len(reply.matches) for reply in replies] == [10, 10, 10]
    assert spread(replies[0]) > spread(replies[1]) >= spread(replies[2])
    assert ids(replies[0]) == [i for i, _ in shop.nearest("p3", 10)]
    assert all(ids(reply)[0] == ids(replies[0])[0] for reply in replies)
    assert ids(replies[1]) != ids(replies[0])
    among = {i for i, _ in shop.nearest("p3", 60)}
    assert set(ids(replies[2])) <= among, "only the nearest fifty are chosen from"


def test_everything_at_once(shop: Shop, answers: Answerer) -> None:
    reply = matched(
        answers,
        "p3",
        limit=9,
        where={"category": ("c0", "c1"), "price": Range(ge=20.0)},
        at_most={"category": 5},
        collapse=0.05,
        diversity=0.3,
        min_similarity=-0.5,
    )
    assert len(reply.matches) == 9
    assert "p3" not in ids(reply)
    for match in reply.matches:
        assert match.category in {"c0", "c1"}
        assert match.attributes == shop.items[match.product_id].attributes
        assert shop.items[match.product_id].attributes["price"] >= 20
    counts = [sum(m.category == c for m in reply.matches) for c in ("c0", "c1")]
    assert max(counts) <= 5


# -- what the shop says now -----------------------------------------------------------------------

CHEAP: Where = {"price": Range(lt=10.0)}


@pytest.mark.parametrize("asked", ["p3", "p370"])
@pytest.mark.parametrize("product", ["p200", "p390"], ids=["of the base", "of the overlay"])
def test_a_price_that_changes_is_seen_at_once_in_both_directions(
    shop: Shop, answers: Answerer, data_dir: Path, asked: str, product: str
) -> None:
    """The generation is older than the change, and stays."""
    number = answers.by_products(question(asked)).replies[0].generation
    vector, category = vector_of(shop, product), shop.items[product].category
    assert set(dict(found(answers, asked, where=CHEAP))) == {f"p{i}" for i in range(10)} - {asked}

    shop.add(product, vector, category=category, attributes={"price": 5})
    got = dict(found(answers, asked, where=CHEAP, limit=20))
    assert set(got) == {f"p{i}" for i in range(10)} - {asked} | {product}
    assert got[product] == pytest.approx(
        float(np.linalg.norm(half(vector) - half(vector_of(shop, asked)))), abs=1e-5
    )

    shop.add(product, vector, category=category, attributes={"price": 500})
    assert product not in dict(found(answers, asked, where=CHEAP, limit=20))
    dear = dict(found(answers, asked, where={"price": Range(gt=450.0)}))
    assert set(dear) == {product}

    shop.add("p7", vector_of(shop, "p7"), category="c1", attributes={"price": 70})
    assert "p7" not in dict(found(answers, asked, where=CHEAP, limit=20))
    reply = answers.by_products(question(asked)).replies[0]
    assert reply.generation == number
    late = answerer(shop.database, data_dir)  # one that starts now
    assert set(dict(found(late, asked, where={"price": Range(gt=450.0)}))) == {product}
    assert found(late, asked, where=CHEAP, limit=20) == found(answers, asked, where=CHEAP, limit=20)


def test_a_price_that_changes_is_no_pending_picture(
    shop: Shop, answers: Answerer, way: str
) -> None:
    before = answers.by_products(question("p3")).replies[0]
    shop.add("p200", vector_of(shop, "p200"), category="c2", attributes={"price": 1})
    after = answers.by_products(question("p3")).replies[0]
    assert (after.pending, after.path) == (before.pending, before.path)
    assert after.as_of.revision == before.as_of.revision + 1


def test_a_category_that_changes_is_seen_at_once_in_both_directions(
    shop: Shop, answers: Answerer
) -> None:
    one, other = (i for i, _ in shop.nearest("p3", 2, {"category": "c0"}))
    shop.add(one, vector_of(shop, one), category="c9", attributes={"price": 1})
    assert one not in dict(found(answers, "p3", where={"category": "c0"}, limit=300))
    assert other in dict(found(answers, "p3", where={"category": "c0"}))
    assert set(dict(found(answers, "p3", where={"category": "c9"}))) == {one}
    assert set(dict(found(answers, "p3", where={"category": "c9", **CHEAP}))) == {one}


def test_a_rebuild_changes_no_answer(
    shop: Shop, answers: Answerer, data_dir: Path, way: str
) -> None:
    for i in range(0, 400, 9):
        shop.add(
            f"p{i}", vector_of(shop, f"p{i}"), category=f"c{i % 3}", attributes={"price": 400 - i}
        )
    wheres: list[Where] = [CHEAP, {"price": Range(ge=100.0, lt=130.0)}, {"brand": "b1"}]
    before = [found(answers, "p3", where=where, limit=30) for where in wheres]
    build(shop.database, data_dir)
    after = [found(answers, "p3", where=where, limit=30) for where in wheres]
    assert answers.by_products(question("p3")).replies[0].pending == 0
    for old, new in zip(before, after, strict=True):
        assert len(old) == len(new)
        assert len(set(old) & set(new)) >= 0.9 * len(old)


def test_integers_that_no_float_can_hold_are_told_apart(shop: Shop, answers: Answerer) -> None:
    """The index takes them for the same; SQL does not."""
    for i, number in enumerate((2**53, 2**53 + 1, 2**53 + 2)):
        shop.add(f"p{i}", vector_of(shop, f"p{i}"), attributes={"n": number})
    assert set(dict(found(answers, "p3", where={"n": 2**53 + 1}))) == {"p1"}
    assert set(dict(found(answers, "p3", where={"n": Range(gt=2.0**53)}))) == {"p1", "p2"}
    assert set(dict(found(answers, "p3", where={"n": Range(lt=2.0**53 + 2)}))) == {"p0", "p1"}
