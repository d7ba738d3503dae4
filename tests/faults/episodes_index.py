"""Episodes of the index: what dies while a generation is built, opened, chosen or repaired."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import make_url, select

from db.models import Embedding, Thumbnail
from db.queries import catalogue, generations, revisions
from db.session import Database
from tests.faults.episodes import Episode
from tests.faults.world import World
from tests.integration import damaged_catalogue as damaged
from tests.unit.worker.index.factories import QUICK, Shop, answerer, assert_same, build, found
from worker.audit.auditor import Auditor
from worker.audit.repair import Repairer
from worker.audit.requeue import Requeue
from worker.index.generation import Expected, damage
from worker.index.rebuild import rebuild
from worker.index.rollback import RollbackRefused, rollback
from worker.settings import WorkerSettings

PRODUCTS = 40
LEASE_TTL = 0.4
PATIENCE = 20.0


@contextmanager
def catalogue_of(world: World) -> Iterator[Database]:
    """The world's catalogue."""
    database = Database(world.database_url)
    yield database
    database.close()


def _generations(count: int) -> Callable[[World], None]:
    """Build so many generations, or copy those that were built for another world."""

    def prepare(world: World) -> None:
        made = world.folder.parent / f"{count}-generations"
        file = Path(make_url(world.database_url).database or "")
        if not made.exists():
            _build(world, count)
            shutil.copytree(world.data_dir, made / "data")
            shutil.copy(file, made)
            (made / file.name).rename(made / "catalogue.db")
            return
        shutil.copytree(made / "data", world.data_dir, dirs_exist_ok=True)
        shutil.copy(made / "catalogue.db", file)

    return prepare


def _build(world: World, count: int) -> None:
    with catalogue_of(world) as database:
        shop = Shop(database)
        shop.fill(PRODUCTS)
        for number in range(count):
            shop.remove(f"p{number}")
            build(database, world.data_dir)


def _rebuild(world: World) -> None:
    with catalogue_of(world) as database:
        rebuild(database, world.data_dir, QUICK, lease_ttl=LEASE_TTL, over_pin=True)


def _rebuilt(world: World) -> None:
    """The next tick, and those after it, until the dead builder's lease has run out."""
    until = time.monotonic() + PATIENCE
    with catalogue_of(world) as database:
        while rebuild(database, world.data_dir, QUICK, lease_ttl=LEASE_TTL, over_pin=True) is None:
            assert time.monotonic() < until, "its lease never ran out"
            time.sleep(0.05)


def check_index(world: World) -> list[str]:
    """The pointer names a whole generation, that answers truly, and there is no other but those that SQL keeps."""
    with catalogue_of(world) as database:
        with database.reading() as session:
            current, kept = generations.current(session), generations.kept(session)
            live = catalogue.count(session).products
        if current is None:
            return ["no generation is current"]
        expected = Expected(current.number, current.model_digest, current.manifest_sha256)
        problems = [f"damaged: {damage(world.data_dir / current.directory, expected)}"]
        problems = [each for each in problems if not each.endswith("None")]
        problems += _answers(world, database, PRODUCTS - live)
    folders = {path.name for path in world.data_dir.iterdir()}
    problems += [f"litter: {each}" for each in folders - {row.directory for row in kept}]
    parts = world.data_dir.glob("*/*.part")
    return problems + [f"litter: {part.name}" for part in parts]


def _answers(world: World, database: Database, removed: int) -> list[str]:
    truth = Shop(database)
    truth.remember(PRODUCTS)
    for number in range(removed):
        del truth.items[f"p{number}"]
    answers = answerer(database, world.data_dir)
    try:
        for product_id in (f"p{removed}", f"p{PRODUCTS - 1}"):
            assert_same(found(answers, product_id, limit=5), truth.nearest(product_id, 5))
    except AssertionError as error:
        return [f"untrue answer: {error}"]
    return []


# -- opening, choosing, repairing -----------------------------------------------------------------


def _unverified(world: World) -> None:
    _generations(1)(world)
    for note in world.data_dir.glob("*/verified-*"):
        note.unlink()


def _open(world: World) -> None:
    with catalogue_of(world) as database:
        found(answerer(database, world.data_dir), f"p{PRODUCTS - 1}")


def _roll_back(world: World) -> None:
    with catalogue_of(world) as database:
        rollback(database, world.data_dir, 1, lease_ttl=LEASE_TTL)


def _rolled_back(world: World) -> None:
    """The operator tries again, until the lease of the process that died has run out."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            _roll_back(world)
        except RollbackRefused as refused:
            if "current already" in str(refused):
                return
            time.sleep(0.05)
        else:
            return
    raise AssertionError("its lease never ran out")


def _damaged(world: World) -> None:
    with catalogue_of(world) as database:
        shop = Shop(database)
        shop.fill(PRODUCTS)
        damaged.put_vector(shop, "p0", b"\0" * 64)
        damaged.add_unused(database, shop.model.pk)
        damaged.set_counter(database, 0)


def _repair(world: World) -> None:
    settings = WorkerSettings(redis_url=SecretStr(world.redis_url), data_dir=world.data_dir)
    with catalogue_of(world) as database, Requeue(settings, 1.0) as embedders:
        auditor = Auditor(database, world.data_dir, overlay_limit=5000)
        repairer = Repairer(database, world.data_dir, QUICK, auditor=auditor, embedders=embedders)
        repairer.repair(auditor.audit())


def _check_repaired(world: World) -> list[str]:
    with catalogue_of(world) as database, database.reading() as session:
        vectors = len(session.scalars(select(Embedding.content_sha256)).all())
        thumbnails = len(session.scalars(select(Thumbnail.content_sha256)).all())
        counter = revisions.current(session)
    problems = [] if counter else ["the counter is below revisions in use"]
    if (vectors, thumbnails) != (PRODUCTS - 1, 0):
        problems.append(f"{vectors} vectors and {thumbnails} thumbnails are left")
    return problems


INDEX: tuple[Episode, ...] = (
    Episode("rebuild", _generations(2), _rebuild, _rebuilt, check_index),
    Episode("open", _unverified, _open, _open, check_index, only="verified"),
    Episode("roll back", _generations(2), _roll_back, _rolled_back, check_index, only="rollback"),
    Episode("repair", _damaged, _repair, _repair, _check_repaired, only="repair"),
)
"""`rebuild` syncs, renames, takes, keeps and gives back its lease, publishes and cleans up."""
