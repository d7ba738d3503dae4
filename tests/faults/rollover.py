"""Another model is rolled out, and back, while lookups by product and by picture run and pictures are added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from db.models import Embedding, Image, IndexGeneration, ModelVersion, Product
from db.queries import backfill, models
from db.session import Database
from producer.client import Producer
from producer.messages import Reply
from tests.faults.group import Group, add, group
from tests.faults.promise import Scale, Shown
from worker.demo import sample

OLD, NEW = "efficientnet-lite0:128", "efficientnet-lite0:96"
"""Two networks whose vectors have the same number of dimensions, so that nothing but care keeps them apart."""
SLOWER = 1.5
"""Bar: p95 of lookups during the backfill / before it."""
PACE, PICTURE_PACE, ADD_EVERY = 0.03, 0.15, 0.5
"""Seconds between two lookups by product, by picture, and between two additions."""
TOLERANCE = 2e-3
"""Of a distance, since the index keeps vectors in half precision; two models differ by a hundred times as much."""
PATIENCE = 900.0

BEFORE, DURING, BUILDING, SWITCHED, BACK = "before", "backfill", "build", "after", "rolled back"
PHASES = (BEFORE, DURING, BUILDING, SWITCHED, BACK)


@dataclass(frozen=True)
class _Asked:
    """A lookup and its answer."""

    phase: str
    kind: str
    product_id: str
    """What was asked for, or whose picture."""
    milliseconds: float
    reply: Reply | None
    error: str | None
    at: float
    """When it was asked, on the monotonic clock."""


@dataclass
class _Load:
    """Asks and adds until it is told to stop."""

    service: Group
    known: Mapping[str, Path]
    coming: list[Path]
    seed: int
    phase: str = BEFORE
    asked: list[_Asked] = field(default_factory=list)
    added: dict[str, Path] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def by_product(self) -> None:
        """One after the other."""
        self._asking("product", PACE, lambda shop, id_: shop.find_similar(id_).result(30.0))

    def by_picture(self) -> None:
        """Pictures of products that are in the catalogue: then their vectors are in SQL."""
        self._asking(
            "picture",
            PICTURE_PACE,
            lambda shop, id_: shop.find_similar(image=self.known[id_]).result(30.0),
        )

    def adding(self) -> None:
        """A new product now and then."""
        with Producer(self.service.settings) as shop:
            while self.coming and not self.stop.wait(ADD_EVERY):
                path = self.coming.pop()
                shop.add(f"new{path.stem}", path)
                self.added[f"new{path.stem}"] = path

    def _asking(self, kind: str, pace: float, ask: Callable[[Producer, str], Reply]) -> None:
        ids, chance = list(self.known), Random(f"{kind} {self.seed}")
        with Producer(self.service.settings) as shop:
            while not self.stop.wait(pace):
                id_, phase = ids[chance.randrange(len(ids))], self.phase
                reply, error, began = None, None, time.perf_counter()
                try:
                    reply = ask(shop, id_)
                except Exception as failure:  # whatever it is, it is an error that the shop sees
                    error = f"{type(failure).__name__}: {failure}"
                took = 1000 * (time.perf_counter() - began)
                self.asked.append(_Asked(phase, kind, id_, took, reply, error, began))


def show(scale: Scale, folder: Path) -> Shown:
    """No errors, no mixed answers, no slower lookups; back again by one command."""
    count, seconds = scale.of(3000, 120), scale.of(30, 2)
    paths = _pictures(folder / "pictures", count + scale.of(600, 60))
    old, new = (OLD, NEW) if not scale.short else ("efficientnet-lite0:64", "efficientnet-lite0:32")
    known = {f"p{i}": path for i, path in enumerate(paths[:count])}
    with group(folder, image_roots=(folder,), model=old) as service:
        service.start()
        service.ready()
        with Producer(service.settings) as shop:
            add(shop, known)
            service.settle(PATIENCE)
            service.wait(lambda: shop.status().generation is not None, 120.0, "no first index")
        _command(service, "models", "add", new)
        with _catalogue(service) as database, _loaded(service, known, paths[count:], scale) as load:
            _wait(service, seconds)
            _command(service, "models", "activate", new, "--no-wait")
            load.phase = DURING
            progress = _rolled_out(service, database, load)
            load.phase = SWITCHED
            _wait(service, seconds)
            _command(service, "rollback")
            load.phase = BACK
            _wait(service, seconds)
            load.stop.set()
            service.settle()
            _healed(service, database)
        with _catalogue(service) as database:
            truth = _Truth.read(database)
            with Producer(service.settings) as shop:
                lost = [each for each in load.added if not _is_found(shop, each)]
            state = _command(service, "models", "--json")
    return _judged(load, truth, lost, _Seen(progress, json.loads(state)), scale)


def _pictures(folder: Path, count: int) -> list[Path]:
    """Real garments, some of them several times with other bytes."""
    garments = sorted(sample.unpack(folder / "sample").catalogue.rglob("*.png"))
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        # What follows the end of a PNG is read by nobody.
        path.write_bytes(garments[number % len(garments)].read_bytes() + f"{number}".encode())
        paths.append(path)
    return paths


@contextmanager
def _catalogue(service: Group) -> Iterator[Database]:
    database = Database(service.settings.database)
    yield database
    database.close()


@contextmanager
def _loaded(
    service: Group, known: Mapping[str, Path], coming: list[Path], scale: Scale
) -> Iterator[_Load]:
    """The load, while the block runs; nothing of it counts before all of it was asked once."""
    load = _Load(service, known, coming, scale.seed)
    threads = [
        threading.Thread(target=each) for each in (load.by_product, load.by_picture, load.adding)
    ]
    for thread in threads:
        thread.start()
    try:
        service.wait(
            lambda: {"product", "picture"} <= {each.kind for each in list(load.asked)},
            60.0,
            "nothing is answered",
        )
        load.asked.clear()
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()


def _wait(service: Group, seconds: float) -> None:
    until = time.monotonic() + seconds
    service.wait(lambda: time.monotonic() > until, seconds + 5.0, "the clock stands still")


def _rolled_out(service: Group, database: Database, load: _Load) -> list[int]:
    """Wait for the switch, and kill the worker that embeds half way; pictures embedded at each look."""
    seen: list[int] = []
    killed = False

    def is_done() -> bool:
        nonlocal killed
        with database.reading() as session:
            serving = models.serving(session)
            if serving.incoming is None:
                return True
            now = backfill.progress(session, serving.incoming.pk)
        seen.append(now.embedded)
        if not now.waiting:
            load.phase = BUILDING
        if not killed and now.embedded > now.images // 2:
            killed = True
            service.kill("embed")
            service.start("embed")
        return False

    began = time.monotonic()
    while not is_done():
        service.tend()
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"it did not become active: {seen[-1]} pictures are embedded")
        time.sleep(0.5)
    if not killed:
        raise AssertionError("the backfill was over before it could be interrupted")
    return seen


def _healed(service: Group, database: Database) -> None:
    """Wait until the model that is active again has all vectors."""

    def is_healed() -> bool:
        with database.reading() as session:
            active = models.active(session)
            return active is not None and backfill.is_complete(
                session, active.pk, without_missing=False
            )

    service.wait(is_healed, 120.0, "not every picture is embedded again after the rollback")


def _is_found(shop: Producer, product_id: str) -> bool:
    try:
        return bool(shop.find_similar(product_id).result(30.0).matches)
    except Exception:
        return False


def _command(service: Group, *words: str) -> str:
    """Run `lookalike-worker` as an operator does; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", *words],
        env=os.environ | service.settings.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


# -- what was answered ----------------------------------------------------------------------------

Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class _Truth:
    """Vectors of each product's picture, by the digest of the model; and each generation's model."""

    vectors: Mapping[str, Vectors]
    generations: Mapping[int, str]

    @classmethod
    def read(cls, database: Database) -> _Truth:
        """Out of SQL."""
        statement = (
            select(ModelVersion.digest, Product.product_id, Embedding.vector)
            .join(Embedding, Embedding.model_version_pk == ModelVersion.pk)
            .join(Image, Image.content_sha256 == Embedding.content_sha256)
            .join(Product, Product.pk == Image.product_pk)
        )
        built = select(IndexGeneration.number, ModelVersion.digest).join(
            ModelVersion, ModelVersion.pk == IndexGeneration.model_version_pk
        )
        vectors: dict[str, Vectors] = {}
        with database.reading() as session:
            for digest, product_id, blob in session.execute(statement):
                vectors.setdefault(digest, {})[product_id] = np.frombuffer(blob, "<f4")
            generations = {number: digest for number, digest in session.execute(built)}  # noqa: C416
        return cls(vectors, generations)

    def problem(self, asked: _Asked) -> str | None:
        """What is untrue of an answer."""
        reply = asked.reply
        assert reply is not None
        if reply.generation is None or reply.model_version is None:
            return "no generation answered"
        if self.generations[reply.generation] != reply.model_version:
            return f"generation {reply.generation} does not answer by its own model"
        own = self.vectors[reply.model_version]
        if not reply.matches:
            return "nothing was found"
        for match in reply.matches:
            distance = float(np.linalg.norm(own[asked.product_id] - own[match.product_id]))
            if abs(distance - match.distance) > TOLERANCE:
                return f"{match.product_id} is {distance:.4f} away, not {match.distance:.4f}"
        return None


@dataclass(frozen=True)
class _Seen:
    """What an operator sees."""

    progress: list[int]
    """Pictures that were embedded, at each look."""
    models: list[dict[str, object]]
    """At the end."""


def _judged(load: _Load, truth: _Truth, lost: list[str], seen: _Seen, scale: Scale) -> Shown:
    errors = [each for each in load.asked if each.error is not None]
    mixed = [(each, truth.problem(each)) for each in load.asked if each.error is None]
    untrue = [(each, problem) for each, problem in mixed if problem is not None]
    times = {kind: _p95(load.asked, kind) for kind in ("product", "picture")}
    ratios = {kind: each[DURING] / each[BEFORE] for kind, each in times.items()}
    answered = {each.reply.model_version for each in load.asked if each.reply is not None}
    broken = [f"{each.phase}, by {each.kind}: {each.error}" for each in errors]
    broken += [f"{each.phase}, by {each.kind} {each.product_id}: {why}" for each, why in untrue]
    broken += [f"not found at the end: {each}" for each in lost]
    if len(answered) != 2:
        broken.append(f"answers are by {len(answered)} models, not by two")
    first, second = seen.models
    if first["state"] != "active" or not second["comparison"]:
        broken.append(f"the models are {seen.models}")
    # A few dozen lookups, on a machine that also does other things, say nothing of the slowest of a hundred.
    if not scale.short:
        broken += [
            f"lookups by {kind} are {ratio:.2f} times slower during the backfill"
            for kind, ratio in ratios.items()
            if ratio > SLOWER
        ]
    said = "; ".join(
        f"p95 by {kind} {each[BEFORE]:.1f} ms, in the backfill {each[DURING]:.1f} ms = {ratios[kind]:.2f} times, "
        f"after it {each[SWITCHED]:.1f} ms"
        for kind, each in times.items()
    )
    return Shown(
        f"{len(load.known):,} pictures, {len(load.added)} added meanwhile, {len(load.asked):,} lookups: "
        f"{len(errors)} errors, {len(untrue)} mixed or untrue answers, {len(lost)} lost; {said}",
        tuple(broken),
        {"p95_ms": times, "ratios": ratios, "progress": seen.progress, "models": seen.models},
    )


def _p95(asked: list[_Asked], kind: str) -> dict[str, float]:
    found = {}
    for phase in PHASES:
        times = [each.milliseconds for each in asked if (each.kind, each.phase) == (kind, phase)]
        found[phase] = float(np.percentile(times, 95)) if times else float("nan")
    return found
