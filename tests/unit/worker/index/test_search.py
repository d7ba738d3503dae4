"""The planner, and the nearest products against brute force at any selectivity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.queries.catalogue import ChangedAttributes, ChangedImage
from producer.messages import Range, Where
from tests.unit.worker.index.factories import half, prefer_the_index, vectors
from tests.unit.worker.index.generations import (
    INDEXED,
    described_as,
    generation,
    image_pk,
    view_of,
)
from worker.index import search
from worker.index.engines import EngineName
from worker.index.filters import conditions, matches
from worker.index.generation import Generation
from worker.index.overlay import Overlay
from worker.index.rotation import Rotation
from worker.index.score import Vectors
from worker.index.search import Ask, Candidates, Plan, nearest, plan
from worker.index.subset import Subset
from worker.index.view import View

COUNT = 1200
LATER = 60
ASKED = (0, 17, 500, 899)


# -- the planner ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Large:
    """As much of a generation as the planner looks at."""

    manifest: Any
    count: int

    def __len__(self) -> int:
        return self.count


def large(engine_name: EngineName = "annoy", images: int = 250_000) -> Generation:
    rotation = Rotation(np.zeros(512, np.float32), np.eye(512, 64, dtype=np.float32), 1.0)
    described = described_as(
        engine_name,
        rotation,
        images=images,
        effort=32 if engine_name == "faiss" else 700,
        rerank=100,
    )
    return cast("Generation", Large(described, images))


def planned(base: Generation, share: float, width: int = 36, queries: int = 1) -> Plan:
    return plan(base, Subset([(0, max(1, int(share * len(base))))], None), width, queries)


@pytest.mark.parametrize("name", ["annoy", "faiss"])
def test_small_subsets_are_read_and_large_ones_are_searched(name: EngineName) -> None:
    base = large(name)
    shares = [0.00001, 0.0001, 0.001, 0.01, 0.1, 0.5, 1.0]
    ways = [planned(base, share).by_index for share in shares]
    assert ways == sorted(ways)
    assert not ways[2]
    assert ways[-2]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_a_rarer_subset_is_looked_for_longer(share: float) -> None:
    chosen = planned(large(), share)
    assert 700 / share <= chosen.effort + 1 <= 2 * 700 / share
    assert chosen.count == 100


def test_more_matches_take_more_candidates_and_more_effort() -> None:
    few, many = planned(large(), 1.0, width=36), planned(large(), 1.0, width=500)
    assert (few.count, many.count) == (100, 1000)
    assert many.effort == 10 * few.effort
    assert not planned(large(), 1.0, width=250_000).by_index


def test_one_reading_serves_many_questions() -> None:
    """So a subset that one question searches in the index may be read for a hundred."""
    base = large()
    share = next(each for each in np.geomspace(1e-4, 1.0, 200) if planned(base, each).by_index)
    assert not planned(base, share, queries=100).by_index


def test_without_an_index_everything_is_read() -> None:
    assert not any(planned(large("exact"), share).by_index for share in (1e-5, 0.1, 1.0))


# -- the nearest ----------------------------------------------------------------------------------


@dataclass
class Shelf:
    """Pictures that came before the index was built and after, and what must be found among them."""

    base: Generation
    overlay: Overlay
    vectors: dict[int, Vectors] = field(default_factory=dict)
    """By the place of the picture."""
    products: dict[int, int] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    attributes: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def view(self) -> View:
        return view_of(self.base, self.overlay)

    def truth(self, query: Vectors, where: Where, leave_out: frozenset[int]) -> dict[int, float]:
        """Distance of every product that meets the conditions, by its nearest picture."""
        found: dict[int, float] = {}
        for place, vector in self.vectors.items():
            product = self.products[place]
            if product not in leave_out and matches(
                where, self.categories[place], self.attributes[place]
            ):
                distance = float(np.linalg.norm(half(vector) - half(query)))
                found[product] = min(distance, found.get(product, np.inf))
        return found

    def ask(
        self, place: int, fetch: int, where: Where, leave_out: frozenset[int] | None = None
    ) -> Candidates:
        query = self.vectors[place] if place in self.vectors else vectors(1)[0]
        out = frozenset((self.products[place],)) if leave_out is None else leave_out
        asked = Ask(half(query)[None], np.zeros(1, int), (out,), fetch, conditions(where))
        return nearest(self.view, asked)[0]


def shelf(folder: Path, engine_name: EngineName) -> Shelf:
    """Every tenth product has three pictures; some products changed, went and came after the build."""
    rows = vectors(COUNT + LATER, seed=11)
    chance = np.random.default_rng(0)
    rank = np.argsort(np.argsort(((rows - rows[0]) ** 2).sum(axis=1)))
    products = [i // 3 * 3 if i % 30 < 3 else i for i in range(len(rows))]
    share = chance.random(len(rows))
    said = [
        {"rank": int(rank[product]), "chance": float(share[product]), "odd": product % 2 == 1}
        for product in products
    ]
    categories = [f"c{product % 5}" for product in products]
    base = generation(
        folder,
        rows[:COUNT],
        categories=categories[:COUNT],
        attributes=said[:COUNT],
        products=products[:COUNT],
        engine_name=engine_name,
        effort=300 if engine_name == "annoy" else 4,
        rerank=60,
    )
    made = Shelf(base, Overlay(16, base.slots))
    for i in range(COUNT):
        made.vectors[i], made.products[i] = rows[i], products[i]
        made.categories[i], made.attributes[i] = categories[i], said[i]
    changes = [
        _change(i, rows[i], products[i], categories[i], said[i]) for i in range(COUNT, len(rows))
    ]
    gone = [i for i in range(40, COUNT, 37) if i % 30 >= 3 and i not in ASKED]
    changes += [_change(i, None, products[i], categories[i], said[i]) for i in gone]
    made.overlay.apply(changes)
    for i in range(COUNT, len(rows)):
        made.vectors[i], made.products[i] = rows[i], products[i]
        made.categories[i], made.attributes[i] = categories[i], said[i]
    for i in gone:
        del made.vectors[i]
    other = [i for i in range(45, COUNT + LATER, 31) if i % 30 >= 3 and i in made.vectors]
    for i in other:
        made.attributes[i] = {"rank": COUNT - int(rank[i]), "chance": 1.0 - float(share[i])}
    made.overlay.reprice([ChangedAttributes(image_pk(i), made.attributes[i]) for i in other])
    return made


def _change(
    place: int, vector: Vectors | None, product: int, category: str, said: dict[str, Any]
) -> ChangedImage:
    blob = None if vector is None else vector.tobytes()
    return ChangedImage(image_pk(place), product, category, said, 2, blob)


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Callable[[EngineName], Shelf]:
    made: dict[EngineName, Shelf] = {}

    def of(name: EngineName) -> Shelf:
        if name not in made:
            made[name] = shelf(tmp_path_factory.mktemp(name), name)
        return made[name]

    return of


@pytest.fixture
def _by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_the_index(monkeypatch)


def assert_answers(
    got: Candidates, made: Shelf, place: int, where: Where, *, fetch: int, out: frozenset[int]
) -> float:
    """As many as there are, all of them right, none twice; the share of the nearest among them."""
    truth = made.truth(made.vectors[place], where, out)
    wanted = min(fetch, len(truth))
    products = [made.products[(pk - 1) // 3] for pk in got.image_pks.tolist()]
    assert len(products) == wanted
    assert len(set(products)) == wanted
    distances = got.distances.tolist()
    assert distances == sorted(distances)
    assert distances == pytest.approx([truth[product] for product in products], abs=1e-4)
    if not wanted:
        return 1.0
    limit = sorted(truth.values())[wanted - 1]
    return float(np.mean([distance <= limit + 1e-4 for distance in distances]))


def where_of(kind: str, selectivity: float) -> Where:
    """About that share: at random, those near place 0, or those far from it."""
    if kind == "random":
        return {"chance": Range(lt=selectivity)}
    if kind == "near":
        return {"rank": Range(lt=selectivity * COUNT)}
    return {"rank": Range(ge=(1 - selectivity) * COUNT)}


@pytest.mark.usefixtures("_by_index")
@pytest.mark.parametrize("name", INDEXED)
@pytest.mark.parametrize("kind", ["random", "near", "far"])
def test_filtered_by_the_index_k_are_found_and_most_are_the_nearest(
    shelves: Callable[[EngineName], Shelf], name: EngineName, kind: str
) -> None:
    made, shares = shelves(name), []
    for selectivity in (0.01, 0.03, 0.1, 0.3, 0.6, 0.9):
        where = where_of(kind, selectivity)
        for place in ASKED:
            out = frozenset((made.products[place],))
            got = made.ask(place, 10, where)
            shares.append(assert_answers(got, made, place, where, fetch=10, out=out))
    assert np.mean(shares) > 0.95


@pytest.mark.parametrize("name", INDEXED)
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["random", "near", "far"]),
    selectivity=st.floats(0, 1),
    place=st.sampled_from(ASKED),
    fetch=st.sampled_from([1, 3, 10, 60, 400, 2000]),
    category=st.sampled_from([None, "c2", ("c0", "c1", "c4"), "no such"]),
    excluded=st.sets(st.integers(0, 40), max_size=5),
    preferred=st.booleans(),
)
def test_never_fewer_than_k_where_k_exist(
    shelves: Callable[[EngineName], Shelf], name: EngineName, **drawn: Any
) -> None:
    made = shelves(name)
    where = where_of(drawn["kind"], drawn["selectivity"])
    if drawn["category"] is not None:
        where = {**where, "category": drawn["category"]}
    out = frozenset((made.products[drawn["place"]], *drawn["excluded"]))
    with pytest.MonkeyPatch.context() as patched:
        if drawn["preferred"]:
            prefer_the_index(patched)
        got = made.ask(drawn["place"], drawn["fetch"], where, out)
    assert_answers(got, made, drawn["place"], where, fetch=drawn["fetch"], out=out)


def test_read_without_the_index_the_nearest_are_exact(
    shelves: Callable[[EngineName], Shelf],
) -> None:
    made = shelves("annoy")
    wheres: list[Where] = [
        {},
        {"odd": True},
        {"category": "c3"},
        {"category": ("c1", "c2"), "chance": Range(lt=0.5)},
    ]
    for where in wheres:
        for place in ASKED:
            out = frozenset((made.products[place],))
            got = made.ask(place, 25, where)
            share = assert_answers(got, made, place, where, fetch=25, out=out)
            assert share == 1.0


@pytest.mark.parametrize("name", INDEXED)
def test_the_way_is_named(
    shelves: Callable[[EngineName], Shelf], name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shelves(name)
    monkeypatch.setattr(search, "plan", lambda *_: Plan(by_index=False, count=60, effort=300))
    assert made.ask(0, 5, {}).path == "exact+overlay"
    assert made.ask(0, 5, {"category": "c1"}).path == "category+overlay"
    assert made.ask(0, 5, {"odd": True, "category": "c1"}).path == "subset+overlay"
    assert made.ask(0, 5, {"rank": -1}).path == "none"
    assert nearest(view_of(made.base), _one(made))[0].path == "exact"
    assert nearest(view_of(None), _one(made))[0].path == "none"
    monkeypatch.setattr(search, "plan", lambda *_: Plan(by_index=True, count=60, effort=5000))
    assert made.ask(0, 5, {}).path == f"{name}+overlay"
    assert made.ask(0, 5, {"odd": True}).path == f"{name}+overlay"
    assert nearest(view_of(made.base), _one(made))[0].path == name


def _one(made: Shelf) -> Ask:
    return Ask(half(made.vectors[0])[None], np.zeros(1, int), (frozenset(),), 5)


@pytest.mark.usefixtures("_by_index")
def test_a_search_that_is_not_certain_is_followed_by_a_reading(
    shelves: Callable[[EngineName], Shelf],
) -> None:
    """The far ones are nowhere near what the trees give for this question."""
    made = shelves("annoy")
    where = where_of("far", 0.1)
    got = made.ask(0, 10, where)
    assert got.path == "subset+overlay"
    out = frozenset((made.products[0],))
    assert assert_answers(got, made, 0, where, fetch=10, out=out) == 1.0


def test_questions_together_are_answered_as_alone(
    shelves: Callable[[EngineName], Shelf],
) -> None:
    """Though they have different numbers of pictures, and leave out different products."""
    made = shelves("annoy")
    places = [[0, 1, 2], [17], [500], [30, 31]]
    exclude = tuple(frozenset((made.products[own[0]],)) for own in places)
    queries = np.stack([half(made.vectors[place]) for own in places for place in own])
    owners = np.repeat(np.arange(4), [len(own) for own in places])
    wheres: list[Where] = [{}, {"odd": True}, {"rank": Range(lt=8)}]
    for where in wheres:
        asked = Ask(queries, owners, exclude, 12, conditions(where))
        together = nearest(made.view, asked)
        for number, own in enumerate(places):
            alone = Ask(
                np.stack([half(made.vectors[place]) for place in own]),
                np.zeros(len(own), int),
                exclude[number : number + 1],
                12,
                conditions(where),
            )
            (expected,) = nearest(made.view, alone)
            assert together[number].image_pks.tolist() == expected.image_pks.tolist()
            assert together[number].distances == pytest.approx(expected.distances, abs=1e-6)


def test_complete_means_that_there_are_no_more(shelves: Callable[[EngineName], Shelf]) -> None:
    made = shelves("annoy")
    out = frozenset((made.products[0],))
    wheres: list[Where] = [{}, {"rank": Range(lt=20)}, {"rank": -5}, {"category": "c2"}]
    for where in wheres:
        there = len(made.truth(made.vectors[0], where, out))
        for fetch in {1, max(1, there - 1), max(1, there), there + 1, there + 500}:
            got = made.ask(0, fetch, where)
            if got.complete:
                assert len(got.image_pks) == there
            assert got.complete or fetch <= there


def test_reading_in_blocks_keeps_the_best_of_all(tmp_path: Path) -> None:
    """More rows than are read at once, and the nearest come last."""
    rows = vectors(9000, seed=12)
    base = generation(tmp_path, rows, engine_name="exact")
    queries = base.vectors_at(np.array([0, 5000, 8999]))
    slots, squared = search.scan(base, queries, 30)
    apart = ((base.vectors_at(np.arange(9000))[None] - queries[:, None]) ** 2).sum(axis=2)
    assert np.allclose(np.sort(squared, axis=1), np.sort(apart, axis=1)[:, :30], atol=1e-5)
    assert np.allclose(np.take_along_axis(apart, slots, axis=1), squared, atol=1e-5)
    slots, squared = search.scan(base, queries[:1], 5, Subset([(10, 13)], None))
    assert sorted(slots[0].tolist()) == [-1, -1, 10, 11, 12]
    assert np.isinf(squared).sum() == 2
