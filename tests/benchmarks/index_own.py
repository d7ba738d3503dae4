"""Lookalike's own index as a system to compare: built by its rebuild, asked by its search, or by whole lookups."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.queries import catalogue as queries
from db.session import Database
from producer.ids import new_id
from producer.messages import BatchReply, ProductLookup, Selection
from tests.benchmarks.catalogue import Vectors, number_of, product_id, sqlite_url
from tests.benchmarks.index_run import LIMIT
from tests.benchmarks.index_systems import Build, Searcher, Setting
from worker.index import manifest
from worker.index.engines import EngineName
from worker.index.follower import Follower
from worker.index.generation import Generation
from worker.index.manifest import Manifest
from worker.index.rebuild import BuildSettings, rebuild
from worker.index.search import walk
from worker.index.view import View
from worker.lookup import Answerer

COUNTED = ("rotate", "index")
"""Steps of a rebuild that are an index's own: the others read SQL, sort, tune, sync, check and swap."""
FACTORS = (0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0)
"""Of the effort that the build found by measurement: what the index is asked with."""
ENGINES: dict[EngineName, tuple[str, ...]] = {"annoy": (), "faiss": ("faiss-cpu",)}
"""Engines, and what has to be installed for each."""
DATABASE = "catalogue.db"


@dataclass(frozen=True)
class Own:
    """Lookalike's index: vectors in, vectors out."""

    engine: EngineName
    catalogue: Path
    """The SQLite file with the products; it is copied, since a rebuild writes to it."""
    shares: str | None = None

    @property
    def name(self) -> str:
        """Of the index, or of the lookups that ask it."""
        return f"Lookalike {self.engine}"

    @property
    def needs(self) -> tuple[str, ...]:
        """What the engine needs."""
        return ENGINES[self.engine]

    def build(self, rows: Path, folder: Path) -> Build:
        """The whole rebuild with the settings' defaults, of which the index's own steps are counted."""
        if not (folder / DATABASE).exists():
            shutil.copy(self.catalogue, folder / DATABASE)
        begun = time.perf_counter()
        rebuilt(folder, self.engine)
        whole = time.perf_counter() - begun
        described = newest(folder)
        parts = dict(described.timings)
        size = sum(entry.bytes for entry in described.files.values())
        return Build(sum(parts[name] for name in COUNTED), size, parts | {"whole rebuild": whole})

    def settings(self, folder: Path) -> list[Setting]:
        """Around what the build found."""
        tuned = newest(folder).parameters.effort
        values = sorted({max(1, round(factor * tuned)) for factor in FACTORS})
        return [Setting("effort", value, value == tuned) for value in values]

    def open(self, folder: Path) -> Searcher:
        """Follow it as a search worker does."""
        return _Index(folder)

    def servers(self) -> list[int]:
        """None: SQLite and the index are files."""
        return []


@dataclass(frozen=True)
class Lookups(Own):
    """The same index, asked by whole lookups: refresh, vector by id, search, final check in SQL, reply."""

    @property
    def name(self) -> str:
        """Of the lookups."""
        return f"Lookalike {self.engine} lookups"

    def open(self, folder: Path) -> Searcher:
        """Answer as a search worker does."""
        return _Lookups(folder)


def own(engine: EngineName, catalogue: Path) -> list[Own]:
    """An engine's index, and the lookups that ask it."""
    index = Own(engine, catalogue)
    return [index, Lookups(engine, catalogue, shares=index.name)]


def rebuilt(folder: Path, engine: EngineName = "annoy") -> None:
    """Rebuild the index of the catalogue in `folder`, with the settings' defaults."""
    database = Database(sqlite_url(folder / DATABASE))
    made = rebuild(database, folder, BuildSettings(engine=engine))
    database.close()
    assert made is not None


def newest(folder: Path) -> Manifest:
    """What the last build in `folder` says of itself."""
    return manifest.read(max(folder.glob("generation-*")))


def question(numbers: list[int], selection: Selection) -> ProductLookup:
    """A lookup of products."""
    return ProductLookup(
        id=new_id(),
        expires_at=time.time() + 60,
        product_ids=tuple(map(product_id, numbers)),
        selection=selection,
    )


class _Follows(Follower):
    """Follows as ever, and has the index searched with another effort than the build found."""

    _effort: int | None = None
    _changed: tuple[Generation, Generation] | None = None

    def search_with(self, effort: int) -> None:
        self._effort, self._changed = effort, None

    def refresh(self) -> View:
        view = super().refresh()
        if view.generation is None or self._effort is None:
            return view
        if self._changed is None or self._changed[0] is not view.generation:
            self._changed = view.generation, _searched_with(view.generation, self._effort)
        return replace(view, generation=self._changed[1])


def _searched_with(generation: Generation, effort: int) -> Generation:
    described = generation.manifest
    parameters = described.parameters.model_copy(update={"effort": effort})
    changed = described.model_copy(update={"parameters": parameters})
    return replace(generation, manifest=changed)


class _Opened:
    """An index with its catalogue."""

    def __init__(self, folder: Path) -> None:
        self._database = Database(sqlite_url(folder / DATABASE))
        self._follower = _Follows(self._database, folder)
        self._follower.refresh()

    def use(self, setting: Setting) -> None:
        self._follower.search_with(setting.value)


class _Index(_Opened):
    """The search alone: candidates and their exact ranking, as a lookup begins with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._view = self._follower.refresh()

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self._view = self._follower.refresh()

    def ask(self, number: int, vector: Vectors) -> NDArray[np.int64]:
        base = self._view.generation
        assert base is not None
        parameters = base.manifest.parameters
        slots, squared = walk(
            base, vector.reshape(1, -1), max(parameters.rerank, LIMIT + 1), parameters.effort
        )
        nearest = np.argpartition(squared[0], LIMIT)[: LIMIT + 1]
        nearest = nearest[np.argsort(squared[0][nearest])]
        found: NDArray[np.int64] = base.slots.image_pks[slots[0][nearest]]
        return found

    def numbers(self, found: NDArray[np.int64]) -> list[int]:
        pks = found.tolist()
        with self._database.reading() as session:
            described = queries.describe(session, pks)
        return [number_of(described[pk].product_id) for pk in pks]


class _Lookups(_Opened):
    """The whole way of a lookup but the queue."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._answerer = Answerer(self._database, self._follower)
        self._selection = Selection(limit=LIMIT)

    def ask(self, number: int, vector: Vectors) -> BatchReply:
        return self._answerer.by_products(question([number], self._selection))

    def numbers(self, found: Any) -> list[int]:
        return [number_of(match.product_id) for match in found.replies[0].matches]
