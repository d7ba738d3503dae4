"""Episodes of going over to another model: what dies while it is added, rolled out, backfilled, given up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
from sqlalchemy import select

from db.models import Embedding
from db.queries import backfill, catalogue, generations, models, revisions
from db.queries.catalogue import NewEmbedding
from db.session import Database
from tests.faults.episodes import Episode
from tests.faults.episodes_index import LEASE_TTL, PATIENCE, PRODUCTS, catalogue_of
from tests.faults.episodes_process import CONFIG
from tests.faults.world import World, item, vector_of
from tests.unit.worker.index.factories import QUICK, Shop, build
from worker import rollout
from worker.backfill import Backfill
from worker.embedding import library
from worker.errors import DeviceFailed, RolloutRefused
from worker.images.decode import Decoded
from worker.index.rebuild import rebuild
from worker.serving import Serving

OLD, NEW = "d" * 64, "e" * 64


def _register(database: Database) -> models.ModelVersion:
    with database.writing() as session:
        return models.register(session, NEW, "new", 16, {})


def _begin(database: Database) -> models.ModelVersion:
    model = _register(database)
    with database.writing() as session:
        revisions.lock(session)
        models.begin_rollout(session, model.pk, without_missing=False)
    return model


def check_models(world: World, active: str, incoming: str | None) -> list[str]:
    """Which models serve, and that the index is of the active one."""
    with catalogue_of(world) as database, database.reading() as session:
        serving, current = models.serving(session), generations.current(session)
    problems = []
    if serving.active is None or serving.active.digest != active:
        problems.append(f"{serving.active} is active")
    if (serving.incoming.digest if serving.incoming else None) != incoming:
        problems.append(f"{serving.incoming} is incoming")
    if current is not None and current.model_digest != active:
        problems.append(f"generation {current.number} is of {current.model_digest[:12]}")
    return problems


# -- adding ---------------------------------------------------------------------------------------


def _saved(world: World) -> None:
    library.save(CONFIG, {"w": np.zeros(4, np.float32)}, world.folder / "mine")


def _add(world: World) -> None:
    with catalogue_of(world) as database:
        rollout.add(database, world.data_dir, str(world.folder / "mine"))


def _check_added(world: World) -> list[str]:
    with catalogue_of(world) as database, database.reading() as session:
        (known,) = models.listed(session)
    source = library.resolve(str(world.data_dir / "models" / known.model.digest))
    return [] if source.config.digest == known.model.digest else ["other files are on the shelf"]


# -- rolling out ----------------------------------------------------------------------------------


def _indexed(world: World) -> None:
    with catalogue_of(world) as database:
        Shop(database).fill(PRODUCTS)
        build(database, world.data_dir)
        _register(database)


def _activate(world: World) -> None:
    with catalogue_of(world) as database:
        rollout.activate(database, NEW)
        rollout.cancel(database)
        rollout.activate(database, NEW)


def _embedded_anew(world: World) -> None:
    """Everything has a vector under the new model, too."""
    _indexed(world)
    with catalogue_of(world) as database:
        model = _begin(database)
        with database.writing() as session:
            rows = session.execute(select(Embedding.content_sha256, Embedding.vector)).all()
            turned = [NewEmbedding(row[0], 16, row[1][4:] + row[1][:4]) for row in rows]
            catalogue.add_embeddings(session, model.pk, turned)


def _switch(world: World) -> None:
    with catalogue_of(world) as database:
        rebuild(database, world.data_dir, QUICK, lease_ttl=LEASE_TTL)


def _switched(world: World) -> None:
    """The next ticks, until the dead builder's lease has run out."""
    until = time.monotonic() + PATIENCE
    while check_models(world, NEW, None):
        assert time.monotonic() < until, "it never became active"
        _switch(world)
        time.sleep(0.05)


# -- backfilling ----------------------------------------------------------------------------------


class _Network:
    """Makes of a picture what the world's worker does."""

    busy_for = 0.0
    network = SimpleNamespace(device="cpu")

    def decode_bare(self, pictures: Sequence[bytes]) -> list[Decoded]:
        return [
            Decoded(np.frombuffer(hashlib.sha256(data).digest(), np.uint8), b"", 1, 1)
            for data in pictures
        ]

    def embed(self, pixels: Any) -> Any:
        return np.stack([vector_of(each.tobytes()) for each in pixels])

    def close(self) -> None: ...


def _pictured(world: World) -> None:
    with world.worker() as worker:
        worker.do(worker.accept(item("a"), item("b"), item("gone")))
        _begin(worker.database)


def _backfill(world: World) -> None:
    with world.worker() as worker:
        serving = Serving(worker.database, lambda _: cast(Any, _Network()))
        serving.look()
        with patch("worker.backfill.CHUNK", 1), patch("worker.backfill.LEASE_TTL", LEASE_TTL):
            Backfill(worker.database, serving, worker._fetch, worker.executor).work()
        serving.stop()


def _backfilled(world: World) -> None:
    """The next looks, until the leases of the one that died have run out."""
    until = time.monotonic() + PATIENCE
    while not _is_complete(world):
        assert time.monotonic() < until, "it never ends"
        _backfill(world)
        time.sleep(0.05)


def _is_complete(world: World) -> bool:
    with catalogue_of(world) as database, database.reading() as session:
        incoming = models.serving(session).incoming
        assert incoming is not None
        return backfill.is_complete(session, incoming.pk, without_missing=False)


def _check_backfilled(world: World) -> list[str]:
    """The network is the same, so the vectors must be."""
    with catalogue_of(world) as database, database.reading() as session:
        rows = session.execute(select(Embedding.content_sha256, Embedding.vector)).all()
        revision = revisions.current(session)
    vectors: dict[bytes, set[bytes]] = {}
    for digest, vector in rows:
        vectors.setdefault(digest, set()).add(vector)
    problems = [] if len(rows) == 6 else [f"{len(rows)} vectors of 3 pictures under 2 models"]
    problems += [f"wrong vector of {d.hex()[:8]}" for d, each in vectors.items() if len(each) != 1]
    return problems if revision == 1 else [*problems, f"lookups were told {revision} changes"]


def _failing(world: World) -> None:
    """The device fails in the middle."""
    with (
        patch.object(_Network, "embed", side_effect=DeviceFailed("it is broken")),
        suppress(DeviceFailed),
    ):
        _backfill(world)


# -- giving up ------------------------------------------------------------------------------------


def _rolled_out(world: World) -> None:
    _embedded_anew(world)
    _switch(world)


def _retire(world: World) -> None:
    with catalogue_of(world) as database, patch("worker.rollout.VECTORS_AT_ONCE", 15):
        rollout.retire(database, world.data_dir, OLD, lease_ttl=LEASE_TTL)


def _retired(world: World) -> None:
    """The operator tries again, until the lease of the process that died has run out."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            _retire(world)
        except RolloutRefused:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("its lease never ran out")


def _check_retired(world: World) -> list[str]:
    with catalogue_of(world) as database, database.reading() as session:
        old = models.by_digest(session, OLD)
        assert old is not None
        left = backfill.count_vectors(session, old.pk)
        kept = [row.directory for row in generations.kept(session)]
    there = [path.name for path in world.data_dir.glob("generation-*")]
    problems = [f"{left} vectors are left"] if left else []
    if there != kept or len(kept) != 1:
        problems.append(f"{there} lie there, SQL keeps {kept}")
    return problems + check_models(world, NEW, None)


ROLLOUT: tuple[Episode, ...] = (
    Episode("add a model", _saved, _add, _add, _check_added),
    Episode(
        "activate", _indexed, _activate, _activate, lambda world: check_models(world, OLD, NEW)
    ),
    Episode(
        "switch",
        _embedded_anew,
        _switch,
        _switched,
        lambda world: check_models(world, NEW, None),
        only="rebuild.publish",
    ),
    Episode("backfill", _pictured, _backfill, _backfilled, _check_backfilled, only="backfill"),
    Episode(
        "backfill fails",
        _pictured,
        _failing,
        _backfilled,
        _check_backfilled,
        only="backfill.Backfill._withdraw",
    ),
    Episode("retire", _rolled_out, _retire, _retired, _check_retired, only="rollout"),
)
