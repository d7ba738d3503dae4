"""Episodes of whole processes: starting, consuming, watching, migrating; and of saving a model."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from alembic import command
from celery.exceptions import SecurityWarning
from pydantic import SecretStr
from redis import Redis

import migrations
from db.queries import dead_letters, models
from db.session import Database
from producer.messages import Queue, Reindex, Removal
from tests.fake_worker import take_all
from tests.faults.episodes import Episode, check_jobs
from tests.faults.episodes_index import catalogue_of
from tests.faults.world import World, item
from tests.unit.worker.index.factories import Shop
from worker import roles, startup
from worker.app import worker_app
from worker.embedding import library
from worker.embedding.config import ModelConfig
from worker.embedding.library import ModelSource
from worker.index.pin import PinReminder
from worker.intake import Intake, Refused
from worker.process import run
from worker.roles import Process, Role
from worker.settings import WorkerSettings


def _settings(world: World) -> WorkerSettings:
    return WorkerSettings(
        redis_url=SecretStr(world.redis_url),
        database_url=SecretStr(world.database_url),
        data_dir=world.data_dir,
    )


# -- a real worker process ------------------------------------------------------------------------


def _published(world: World) -> None:
    with world.worker() as worker:
        worker.do(worker.accept(item("a"), item("b")))
        worker.send(worker.accept(Removal(product_id="a", version=2)))


def _consume(world: World) -> None:
    """A real worker, which is asked to stop when there is nothing left to do."""
    threading.Thread(target=_stop_when_done, args=[world.redis_url], daemon=True).start()
    warnings.simplefilter("ignore", SecurityWarning)  # whoever runs the tests may be root
    run(Role.INDEX, _settings(world))


def _stop_when_done(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        while redis.exists("lookalike:ledger", "lookalike:unacked", "lookalike:control"):
            time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def _settled(world: World) -> None:
    with world.worker() as worker:
        worker.settle()


# -- a process that starts, and one that watches --------------------------------------------------


def _process(world: World, closing: ExitStack) -> Process:
    settings = _settings(world)
    redis = closing.enter_context(Redis.from_url(world.redis_url))
    database = Database(world.database_url)
    closing.callback(database.close)
    return Process(settings, worker_app(settings), redis, database, threading.Event(), closing)


CONFIG = ModelConfig(
    architecture="resnet18",
    layer="fc",
    dimension=8,
    image_size=32,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    weights_sha256="0" * 64,
)


def _resolved(_: str) -> ModelSource:
    """Stands for a real one, whose network takes seconds to load."""
    return ModelSource(CONFIG, Path("nowhere"))


def _start(world: World) -> None:
    with ExitStack() as closing, patch("worker.embedding.library.resolve", _resolved):
        process = _process(world, closing)
        startup.check(process.settings, process.database, process.redis, [Role.EMBED])
        roles._register_first(process.settings, process.database)


def _check_started(world: World) -> list[str]:
    with catalogue_of(world) as database, database.reading() as session:
        active = models.active(session)
    return [] if active and active.digest == CONFIG.digest else ["no model is active"]


def _pictures(world: World) -> None:
    with catalogue_of(world) as database:
        Shop(database).fill(3)


def _watch(world: World) -> None:
    with ExitStack() as closing:
        roles._watch_index(_process(world, closing), PinReminder())


def _check_asked(world: World) -> list[str]:
    with Redis.from_url(world.redis_url) as redis:
        asked = take_all_reindex(redis)
    return [] if asked else ["nobody asked for the first index"]


def take_all_reindex(redis: Redis) -> list[Any]:
    """The requests for a rebuild that wait."""
    with patch.dict("tests.fake_worker.TYPES", {Reindex.task: Reindex}):
        return take_all(redis, Queue.INDEX)


# -- what is no message ---------------------------------------------------------------------------

_NONSENSE = Refused("it is no message", id="0" * 8 + "-0000-7000-8000-" + "0" * 12)


def _refuse(world: World) -> None:
    with catalogue_of(world) as database:
        Intake(database, ()).refuse(_NONSENSE)


def _check_refused(world: World) -> list[str]:
    """The broker brings it again until somebody has refused it; however often, it is kept once."""
    with catalogue_of(world) as database, database.reading() as session:
        kept = dead_letters.list_(session)
    return [] if [each.job_id for each in kept] == [_NONSENSE.id] else [f"kept: {kept}"]


# -- the schema -----------------------------------------------------------------------------------


def _fresh(world: World) -> Database:
    return Database(f"sqlite:///{world.folder / 'fresh.db'}")


def _migrate(world: World) -> None:
    database = _fresh(world)
    migrations.upgrade(database)
    database.close()


def _there_and_back(world: World) -> None:
    database = _fresh(world)
    migrations.upgrade(database)
    migrations.downgrade(database, "0001")
    database.close()


def _by_alembic(world: World) -> None:
    """As `alembic upgrade head` does it."""
    address = {"LOOKALIKE_DATABASE_URL": f"sqlite:///{world.folder / 'fresh.db'}"}
    with patch.dict(os.environ, address):
        command.upgrade(migrations._config(), "head")


def _check_schema(world: World) -> list[str]:
    database = _fresh(world)
    migrations.check_schema(database)
    database.close()
    return []


# -- a model --------------------------------------------------------------------------------------


def _folder(world: World) -> Path:
    return world.folder / "models" / "mine"


def _save(world: World) -> None:
    library.save(CONFIG, {"w": np.zeros(4, np.float32)}, _folder(world))


def _saved(world: World) -> None:
    if not _folder(world).exists():
        _save(world)


def _check_saved(world: World) -> list[str]:
    source = library.resolve(str(_folder(world)))
    return [] if source.weights.exists() else ["the weights are not there"]


PROCESSES: tuple[Episode, ...] = (
    Episode("consume", _published, _consume, _settled, check_jobs("b"), only="acknowledge"),
    Episode("start", lambda _: None, _start, _start, _check_started),
    Episode("watch", _pictures, _watch, _watch, _check_asked),
    Episode("refuse", lambda _: None, _refuse, _refuse, _check_refused),
    Episode("migrate", lambda _: None, _migrate, _migrate, _check_schema),
    Episode(
        "migrate back", lambda _: None, _there_and_back, _migrate, _check_schema, only="downgrade"
    ),
    Episode("alembic", lambda _: None, _by_alembic, _by_alembic, _check_schema),
    Episode("save a model", lambda _: None, _save, _saved, _check_saved),
)
