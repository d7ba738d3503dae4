"""Whatever happens to a catalogue, in any order: nothing stale, deleted, doubled or missing is ever answered.

A state machine drives what workers run, on both databases: messages, rebuilds with other engines, rollbacks,
damage, workers that lag, that have just started, or that are overtaken in the middle of a lookup. The truth is in
plain Python (`catalogue_truth`). `LOOKALIKE_TEST_EXAMPLES=1000` makes so many histories instead of a few: for a
night.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from db.queries import audit, catalogue, generations, models
from db.queries.catalogue import ImageChange, NewEmbedding, ProductRemoval
from db.session import Database
from producer.messages import (
    BytesImage,
    PictureLookup,
    ProductLookup,
    Range,
    Reply,
    Selection,
    TasteLookup,
    Where,
)
from tests.integration.catalogue_truth import Options, Truth, Vector, either
from tests.integration.database_copies import copy_of
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import DIGEST, QUICK, prefer_the_index
from worker.index import builder, faiss_engine
from worker.index.check import check
from worker.index.follower import Follower
from worker.index.rebuild import BuildSettings, rebuild
from worker.index.rollback import rollback
from worker.index.view import View
from worker.lookup import Answerer
from worker.taste import STEP

Message = ImageChange | ProductRemoval

EXAMPLES = int(os.environ.get("LOOKALIKE_TEST_EXAMPLES", "10"))
DIMENSION = 8
OWN, BACKGROUND = 24, 300
"""Pictures that the rules choose from, and products that are there from the start, each with its own."""
PRODUCTS = [*(f"p{i}" for i in range(9)), "'; DROP TABLE product; --", "日本-\u202e"]
SHELF = [f"b{i}" for i in range(BACKGROUND)]
TOUCHED = 6
"""Products of the background that the rules change, too."""
ALL = 1000
"""More products than there are."""

# -- how to build: nothing excuses a wrong answer, since every index finds everything ----------------------

PLAIN = replace(QUICK, reduce_to=0, search_k=5000, keep=3, jobs=1)
REDUCED = replace(PLAIN, reduce_to=4, rerank=1000)
EXACT = replace(PLAIN, engine="exact")
FAISS = replace(PLAIN, engine="faiss", rerank=1000)
BUILDS = [PLAIN, PLAIN, REDUCED, EXACT]
if importlib.util.find_spec("faiss") is not None:
    BUILDS.append(FAISS)

# -- what to choose from ------------------------------------------------------------------------------------

names = st.sampled_from(["main", "back", "side"])
pictures = st.integers(0, OWN - 1)
categories = st.sampled_from([None, "dress", "skirt", "Ünïcode \u202e"])
attributes = st.fixed_dictionaries(
    {},
    optional={
        "price": st.integers(0, 9) | st.floats(0, 9) | st.sampled_from([2**53, 2**53 + 1, -0.0]),
        "sale": st.booleans(),
        "size": st.sampled_from(["S", "M", "1"])
        | st.lists(st.sampled_from(["S", "M", 1, True]), max_size=3),
        "note": st.none() | st.sampled_from(["", "é", "e\u0301"]),
    },
)
CONDITIONS: dict[str, Sequence[Any]] = {
    "category": ["dress", ("dress", "skirt"), "none such", 1],
    "price": [
        Range(lt=5.0), Range(ge=2.0, le=7.0), Range(gt=2.0**53), Range(le=2.0**53), 3, 1, True, (0, 9.0),
    ],
    "sale": [True, False, (True, False), 1],
    "size": ["S", ("S", "1"), 1, True, "never"],
    "note": ["", "é", ("e\u0301", "x")],
    "no such": [1],
}  # fmt: skip
conditions = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(each) for name, each in CONDITIONS.items()}
)
WHERES: list[Where] = [{}, *({name: each} for name in CONDITIONS for each in CONDITIONS[name])]
selections = st.builds(
    Selection,
    limit=st.sampled_from([1, 3, 10, ALL]),
    where=st.just({}) | conditions,
    min_similarity=st.sampled_from([None, None, -0.2, 0.5]),
    collapse=st.sampled_from([None, None, 0.0, 0.6]),
    at_most=st.sampled_from([{}, {}, {"category": 1}, {"size": 2}, {"sale": 3, "category": 4}]),
)


def _pool() -> Vector:
    rows = np.random.default_rng(5).standard_normal((OWN + BACKGROUND, DIMENSION))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


POOL = _pool()


def _digest(picture: int) -> bytes:
    return hashlib.sha256(POOL[picture].tobytes()).digest()


def _change(
    key: tuple[str, str], picture: int, category: str | None, data: dict[str, Any], version: int
) -> ImageChange:
    """A message about a picture of a product, by their names."""
    return ImageChange(*key, _digest(picture), str(picture), category, data, version)


def _shelf() -> list[Message]:
    """The background: what makes a base that an index is worth for."""
    categories = [None, "dress", "skirt", "hat"]
    return [
        _change(
            (product, "main"),
            OWN + i,
            categories[i % 4],
            {"price": i % 10, "sale": i % 3 == 0, "size": ["S", "M"][: i % 3]},
            0,
        )
        for i, product in enumerate(SHELF)
    ]


# -- the catalogue to begin with --------------------------------------------------------------------------


@dataclass
class World:
    """A catalogue and its generations that every history begins with a copy of."""

    databases: DatabaseFactory
    url: str
    folder: Path
    messages: list[Message]
    products: Sequence[str]
    """Those that the rules speak of."""
    paths: Counter[str]
    """How often each way answered, in all histories."""


@contextmanager
def world(databases: DatabaseFactory, messages: list[Message]) -> Iterator[World]:
    """One with these products, indexed, or with nothing at all."""
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="lookalike-world-"))
        closing.callback(shutil.rmtree, folder)
        url = closing.enter_context(databases.migrated())
        database = Database(url)
        with database.writing() as session:
            model = models.register(session, DIGEST, "test", DIMENSION, {})
        if messages:
            send(database, model.pk, messages)
            assert rebuild(database, folder, PLAIN) is not None
        database.close()
        touched = [*PRODUCTS, *SHELF[:TOUCHED]] if messages else PRODUCTS
        yield World(databases, url, folder, messages, touched, Counter())


def send(database: Database, model: int, messages: Sequence[Message]) -> set[int]:
    """Commit messages as an embed worker does; the pictures that were embedded for it."""
    changes = [each for each in messages if isinstance(each, ImageChange)]
    removals = [each for each in messages if isinstance(each, ProductRemoval)]
    numbers = {int(each.source) for each in changes}
    with database.writing() as session:
        known = catalogue.known_embeddings(session, map(_digest, numbers), model)
        new = {number for number in numbers if _digest(number) not in known}
        made = [
            NewEmbedding(_digest(number), DIMENSION, POOL[number].astype("<f4").tobytes())
            for number in new
        ]
        catalogue.add_embeddings(session, model, made)
        catalogue.apply(session, changes, removals, embedded={_digest(number) for number in new})
    return new


class Overtaken(Follower):
    """Lets something be committed between its view and the SQL that checks an answer."""

    meanwhile: Callable[[], None] | None = None

    def refresh(self) -> View:
        view = super().refresh()
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return view


# -- the machine ------------------------------------------------------------------------------------------


class History(RuleBasedStateMachine):
    """One history of a catalogue."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self._closing = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="lookalike-history-"))
        self._closing.callback(shutil.rmtree, self.folder)
        shutil.copytree(self.world.folder, self.folder, dirs_exist_ok=True)
        url = self._closing.enter_context(copy_of(self.world.databases, self.world.url))
        self.database = Database(url)
        self._closing.callback(self.database.close)
        self.truth = Truth(POOL)
        self.sent: list[Message] = list(self.world.messages[:TOUCHED])
        for message in self.world.messages:
            self.truth.note(message)
        with self.database.reading() as session:
            model = models.active(session)
        assert model is not None
        self.model = model.pk
        self.version = self.steps = 0
        self.answers, self.lagging = self._follow(), self._follow()
        self.overtaken = Overtaken(self.database, self.folder)
        following = Follower(self.database, self.folder, interval=0.05)
        following.start()
        self._closing.callback(following.stop)
        self.in_thread = Answerer(self.database, following)
        self.spoilt: dict[Path, bytes] = {}

    def teardown(self) -> None:
        """Drop the database and the folder."""
        self._closing.close()

    def _follow(self) -> Answerer:
        return Answerer(self.database, Follower(self.database, self.folder))

    def _product(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.world.products), "product")

    def _next(self) -> int:
        self.version += 1
        return self.version

    # -- messages ---------------------------------------------------------------------------------

    @initialize(data=st.data())
    def stock(self, data: st.DataObject) -> None:
        """Begin with some products."""
        for product in PRODUCTS[: data.draw(st.integers(0, 8), "count")]:
            picture, category = data.draw(pictures), data.draw(categories)
            self._send(_change((product, "main"), picture, category, {}, self._next()))

    @rule(data=st.data(), name=names, picture=pictures, category=categories, said=attributes)
    def add(
        self, data: st.DataObject, name: str, picture: int, category: str | None, said: Any
    ) -> None:
        """A new picture or another one, perhaps in another category."""
        key = (self._product(data), name)
        self._send(_change(key, picture, category, said, self._next()))

    @rule(data=st.data(), said=attributes)
    def reprice(self, data: st.DataObject, said: Any) -> None:
        """Other attributes, the same pictures in the same category."""
        message = self._again(data, said)
        if message is not None:
            self._send(message)

    @rule(data=st.data(), category=categories)
    def move(self, data: st.DataObject, category: str | None) -> None:
        """Another category, the same pictures."""
        message = self._again(data, None)
        if message is not None:
            self._send(replace(message, category=category))

    @rule(data=st.data(), tie=st.booleans())
    def remove(self, data: st.DataObject, tie: bool) -> None:
        """Out of the catalogue, whether it was in it or not; of the same version as a change, it wins."""
        self._send(ProductRemoval(self._product(data), self.version if tie else self._next()))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A message that was there before."""
        self._send(data.draw(st.sampled_from(self.sent), "message"))

    @rule(data=st.data(), name=names, picture=pictures, said=attributes, back=st.integers(1, 5))
    def come_late(self, data: st.DataObject, name: str, picture: int, said: Any, back: int) -> None:
        """A message that newer ones have overtaken."""
        self.version += 6
        key = (self._product(data), name)
        self._send(_change(key, picture, "dress", said, self.version - back))

    @rule(data=st.data(), name=names, some=st.lists(st.tuples(pictures, attributes), max_size=6))
    def chunk(self, data: st.DataObject, name: str, some: list[tuple[int, Any]]) -> None:
        """Several messages in one transaction, old ones and a removal among them."""
        messages: list[Message] = [
            _change((self._product(data), name), picture, "skirt", said, self._next())
            for picture, said in some
        ]
        if self.sent:
            messages += data.draw(st.lists(st.sampled_from(self.sent), max_size=2), "old")
        if data.draw(st.booleans(), "removal"):
            messages.append(ProductRemoval(self._product(data), self._next()))
        self._send(*messages)

    @rule(picture=pictures)
    def lose(self, picture: int) -> None:
        """A vector is deleted, as a repair deletes bad ones; the next message with its bytes brings it back."""
        with self.database.writing() as session:
            audit.delete_embeddings(session, [_digest(picture)], self.model)
        self.truth.lose(picture)

    def _again(self, data: st.DataObject, said: Any) -> ImageChange | None:
        """The last message about a picture of a product once more, with a new version."""
        product = self._product(data)
        known = self.truth.known.get(product)
        if known is None or not known.live():
            return None
        name = data.draw(st.sampled_from(sorted(known.live())), "name")
        new = dict(known.attributes) if said is None else said
        picture = known.live()[name]
        return _change((product, name), picture, known.category, new, self._next())

    def _send(self, *messages: Message) -> None:
        embedded = send(self.database, self.model, messages)
        self.sent += messages
        for message in messages:
            self.truth.note(message)
        self.truth.find_again(embedded, {message.product_id for message in messages})

    # -- the index --------------------------------------------------------------------------------

    @rule(build=st.sampled_from(BUILDS))
    def rebuild(self, build: BuildSettings) -> None:
        """A new generation, whatever is pinned."""
        built = rebuild(self.database, self.folder, build, over_pin=True)
        assert built is not None
        assert built.number == self._current()

    @rule()
    def rebuild_by_itself(self) -> None:
        """As the service does: not over what an operator chose."""
        with self.database.reading() as session:
            before = generations.pointer(session)
        built = rebuild(self.database, self.folder, PLAIN)
        assert (built is None) == before.pinned
        assert (self._current() == before.generation) == before.pinned

    @precondition(lambda self: len(self._kept()) > 1)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Another generation that is kept becomes current."""
        current = self._current()
        whole = [
            row.number for row in self._kept() if row.number != current and self._is_whole(row)
        ]
        if whole:
            rollback(self.database, self.folder, data.draw(st.sampled_from(whole), "number"))

    @precondition(lambda self: self._current() is not None)
    @rule(
        name=st.sampled_from(["vectors.f16", "manifest.json", "slot_product.npy", "tree.ann", ""]),
        cut=st.booleans(),
    )
    def damage(self, name: str, cut: bool) -> None:
        """The current generation is not what it was, or gone; who has it open keeps what was there."""
        if not name:
            shutil.rmtree(self._directory(), ignore_errors=True)
            return
        path = self._directory() / name
        if not path.exists() or not path.stat().st_size:
            return
        data = path.read_bytes()
        self.spoilt.setdefault(path, data)
        spoilt = bytearray(data)
        spoilt[len(data) // 2] ^= 0x10
        _replace(path, bytes(spoilt[:-1] if cut else spoilt))

    @precondition(lambda self: self.spoilt)
    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        """An operator brings a file back."""
        path = data.draw(st.sampled_from(sorted(self.spoilt)), "path")
        whole = self.spoilt.pop(path)
        if path.parent.exists():
            _replace(path, whole)

    @rule()
    def start_again(self) -> None:
        """A worker that has just started."""
        self.answers = self._follow()

    def _current(self) -> int | None:
        with self.database.reading() as session:
            return catalogue.head(session).generation

    def _directory(self) -> Path:
        with self.database.reading() as session:
            row = generations.current(session)
        assert row is not None
        return self.folder / row.directory

    def _kept(self) -> list[generations.Generation]:
        with self.database.reading() as session:
            return generations.kept(session)

    def _is_whole(self, row: generations.Generation) -> bool:
        try:
            check(self.folder / row.directory, row.manifest_sha256)
        except Exception:
            return False
        return True

    # -- questions --------------------------------------------------------------------------------

    @precondition(lambda self: self.truth.certain())
    @rule(data=st.data(), selection=selections, who=st.sampled_from(["new", "lagging", "thread"]))
    def ask(self, data: st.DataObject, selection: Selection, who: str) -> None:
        """About a few products, a worker that follows closely or from afar."""
        certain = st.sampled_from(self.truth.certain())
        asked = data.draw(st.lists(certain, min_size=1, max_size=3, unique=True), "asked")
        answers = {"new": self.answers, "lagging": self.lagging, "thread": self.in_thread}[who]
        self._ask(answers, asked, selection)

    @precondition(lambda self: len(self.truth.certain()) > 2)
    @rule(data=st.data(), selection=selections)
    def ask_for_a_taste(self, data: st.DataObject, selection: Selection) -> None:
        """About several products at once, liked and disliked."""
        some = self._some(data)
        question = TasteLookup(
            id="0" * 36, expires_at=1e12, liked=tuple(some[:2]), disliked=tuple(some[2:]),
            selection=selection,
        )  # fmt: skip
        liked, disliked = ([self.truth.pictures_of(p) for p in ps] for ps in (some[:2], some[2:]))
        asked = _blend(liked, disliked)
        if asked is not None:
            (reply,) = self.answers.by_taste(question).replies
            self._judge(reply, self.truth.options([asked], set(some), selection), selection)

    @precondition(lambda self: len(self.truth.certain()) > 2)
    @rule(data=st.data(), selection=selections, picture=pictures, with_products=st.booleans())
    def ask_by_picture(
        self, data: st.DataObject, selection: Selection, picture: int, with_products: bool
    ) -> None:
        """About a picture, alone or with products."""
        some = self._some(data) if with_products else []
        question = PictureLookup(
            id="0" * 36, expires_at=1e12, images=(BytesImage(key="0" * 64),), liked=tuple(some[:2]),
            disliked=tuple(some[2:]), selection=selection,
        )  # fmt: skip
        liked, disliked = ([self.truth.pictures_of(p) for p in ps] for ps in (some[:2], some[2:]))
        asked = _blend([*liked, [POOL[picture].astype(np.float64)]], disliked)
        if asked is not None:
            reply = self.answers.by_pictures(question, [POOL[picture]], [], DIGEST)
            assert isinstance(reply, Reply)
            self._judge(reply, self.truth.options([asked], set(some), selection), selection)

    @precondition(lambda self: self.truth.certain())
    @rule(data=st.data(), selection=selections, name=names, picture=pictures, said=attributes)
    def ask_while_something_changes(
        self, data: st.DataObject, selection: Selection, name: str, picture: int, said: Any
    ) -> None:
        """A change commits after the view was taken: what it takes out must not be shown."""
        asked = data.draw(st.sampled_from(self.truth.certain()), "asked")
        other = self._product(data)
        if other == asked:
            return
        version = self._next()
        message: Message = ProductRemoval(other, version)
        if not data.draw(st.booleans(), "removal"):
            message = _change((other, name), picture, data.draw(categories), said, version)
        vectors = self.truth.pictures_of(asked)
        before = self.truth.options(vectors, {asked}, selection)
        revision = self._revision()
        self.overtaken.meanwhile = lambda: self._send(message)
        batch = Answerer(self.database, self.overtaken).by_products(_lookup([asked], selection))
        after = self.truth.options(vectors, {asked}, selection)
        (reply,) = batch.replies
        assert revision <= reply.as_of.revision <= self._revision()
        self.truth.judge(reply, either(before, after), selection)

    def _some(self, data: st.DataObject) -> list[str]:
        certain = self.truth.certain()
        return data.draw(
            st.lists(st.sampled_from(certain), min_size=3, max_size=3, unique=True), "some"
        )

    # -- what must be true after every step -------------------------------------------------------

    @invariant()
    def everything_is_found_and_nothing_else(self) -> None:
        """The nearest few, all there is, and what meets one condition after the other."""
        self.steps += 1
        certain = self.truth.certain()
        if certain:
            asked = [certain[self.steps % len(certain)], certain[-1]]
            where = WHERES[self.steps % len(WHERES)]
            for limit, each in ((4, {}), (ALL, {}), (5, where)):
                self._ask(self.answers, asked, Selection(limit=limit, where=each))

    @invariant()
    def what_is_gone_is_unknown(self) -> None:
        """Products without a live picture are not in the catalogue."""
        gone = self.truth.gone()[:2]
        if gone:
            assert self.answers.by_products(_lookup(gone, Selection())).not_found == tuple(gone)

    # -- comparing --------------------------------------------------------------------------------

    def _ask(self, answers: Answerer, asked: Sequence[str], selection: Selection) -> None:
        ids = list(dict.fromkeys(asked))
        batch = answers.by_products(_lookup(ids, selection))
        assert batch.not_found == ()
        assert [reply.product_id for reply in batch.replies] == ids
        for product, reply in zip(ids, batch.replies, strict=True):
            vectors = self.truth.pictures_of(product)
            self._judge(reply, self.truth.options(vectors, {product}, selection), selection)

    def _judge(self, reply: Reply, options: dict[str, Options], selection: Selection) -> None:
        with self.database.reading() as session:
            assert reply.as_of.revision == catalogue.head(session).revision
            row = generations.get(session, reply.generation) if reply.generation else None
            assert (row is None) == (reply.generation is None)
            since = row.revision if row else 0
            assert reply.pending == catalogue.count_changes_since(session, since)
        self.world.paths[reply.path] += 1
        self.truth.judge(reply, options, selection)

    def _revision(self) -> int:
        with self.database.reading() as session:
            return catalogue.head(session).revision


def _lookup(products: Sequence[str], selection: Selection) -> ProductLookup:
    return ProductLookup(
        id="0" * 36, expires_at=1e12, product_ids=tuple(products), selection=selection
    )


def _blend(liked: Sequence[Any], disliked: Sequence[Any]) -> Any:
    """The direction of what is liked, and away from the rest; None where there is hardly any."""
    wanted = np.mean([np.mean(each, axis=0) for each in liked], axis=0)
    if disliked:
        wanted = wanted + STEP * (wanted - np.mean([np.mean(d, axis=0) for d in disliked], axis=0))
    length = float(np.linalg.norm(wanted))
    return wanted / length if length > 0.05 else None


def _replace(path: Path, data: bytes) -> None:
    """Another file under this name, so that who has the old one mapped does not notice."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check generations here: what a child process is for has tests of its own, and costs a second each."""

    def here(directory: Path, manifest_sha256: str, stop: Any = None) -> None:
        check(directory, manifest_sha256)

    monkeypatch.setattr(builder, "check_in_child", here)


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * EXAMPLES)
@pytest.mark.parametrize("size", ["few", "many"])
def test_any_history_of_a_catalogue(
    databases: DatabaseFactory, in_process: None, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few products, as the planner searches them; or many, in the index wherever that can be used."""
    monkeypatch.setattr(faiss_engine, "PROBES", ())  # look through every list
    if size == "many":
        prefer_the_index(monkeypatch)
    with world(databases, _shelf() if size == "many" else []) as begin:
        machine = type("History", (History,), {"world": begin})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                # The same histories each time, so that a change is judged by itself; a night looks for new ones.
                derandomize="LOOKALIKE_TEST_EXAMPLES" not in os.environ,
                database=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                report_multiple_bugs=False,
            ),
        )
        print(f"{size} on {databases.kind}:", dict(begin.paths.most_common()))
        assert size == "few" or begin.paths["annoy"] + begin.paths["annoy+overlay"] > EXAMPLES
