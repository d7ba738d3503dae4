"""What must be right before a process starts, and what had better be; each problem names what to change."""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from dotenv import dotenv_values
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from db.errors import DatabaseError_
from db.queries import catalogue, generations, models
from db.session import Database
from migrations import check_schema
from producer.transport import unavailable
from worker.embedding import library
from worker.embedding.errors import ModelError
from worker.errors import StartError
from worker.index.engines import engine
from worker.index.errors import EngineBroken
from worker.index.generation import Expected, damage
from worker.settings import WorkerSettings
from worker.tether import PARENT

log = logging.getLogger(__name__)

LEAST_FREE = 64 << 20
"""Bytes of disk without which nothing can be done."""
OLDEST_REDIS = (6, 2)
_PREFIX = "LOOKALIKE_"
_OURS = frozenset({PARENT, "LOOKALIKE_TEST_EXAMPLES"})


class Severity(StrEnum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    FATAL = "fatal"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    subject: str
    severity: Severity = Severity.FINE
    message: str = ""


def check(settings: WorkerSettings, database: Database, redis: Redis) -> None:
    """Look at what every process needs; raise StartError with all that is fatal, and log the rest."""
    findings = examine(settings, database, redis, _EVERY)
    for finding in findings:
        if finding.severity is Severity.WARNING:
            log.warning("%s", finding.message)
    if fatal := [each.message for each in findings if each.severity is Severity.FATAL]:
        raise StartError("; ".join(fatal))


def examine(
    settings: WorkerSettings,
    database: Database,
    redis: Redis,
    checks: Iterable[Check] | None = None,
) -> list[Finding]:
    """What these checks find, or all of them, in order."""
    return [check(settings, database, redis) for check in checks or (*_EVERY, *_ONCE)]


Check = Callable[[WorkerSettings, Database, Redis], Finding]

# -- the machine ----------------------------------------------------------------------------------


def _variables(settings: WorkerSettings, *_: object) -> Finding:
    """A name that is nearly right does nothing, and nobody would know."""
    known = {f"{_PREFIX}{name.upper()}" for name in type(settings).model_fields} | _OURS
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    unknown = sorted(name for name in given - known if name.startswith(_PREFIX))
    if not unknown:
        return Finding("settings")
    hints = []
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return Finding("settings", Severity.WARNING, f"not settings of ours: {', '.join(hints)}")


def _folder(settings: WorkerSettings, *_: object) -> Finding:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir) as file:
            file.write(b"\0")
    except OSError as error:
        message = f"LOOKALIKE_DATA_DIR cannot be written to: {error}"
        return Finding("data folder", Severity.FATAL, message)
    return Finding("data folder")


def _disk(settings: WorkerSettings, database: Database, _: object) -> Finding:
    try:
        free = shutil.disk_usage(settings.data_dir).free
    except OSError:
        return Finding("disk")  # the folder's own check says what is wrong
    said = f"{free >> 20:,} MB are free on the disk of LOOKALIKE_DATA_DIR"
    if free < LEAST_FREE:
        return Finding("disk", Severity.FATAL, said)
    try:
        needed = _next_build(database)
    except DatabaseError_:
        needed = 0
    if free < needed:
        message = f"{said}, and the next build of the index may take {needed >> 20:,} MB"
        return Finding("disk", Severity.WARNING, message)
    return Finding("disk")


def _next_build(database: Database) -> int:
    """Bytes that a build of the catalogue's index may take for a while."""
    with database.reading() as session:
        model = models.active(session)
        images = catalogue.count(session).images
    return images * (4 * model.dimension + 4096) if model else 0


def _roots(settings: WorkerSettings, *_: object) -> Finding:
    missing = [str(root) for root in settings.roots if not root.is_dir()]
    if not missing:
        return Finding("image folders")
    message = f"not a folder, at the moment: {', '.join(missing)} (LOOKALIKE_IMAGE_ROOTS)"
    return Finding("image folders", Severity.WARNING, message)


# -- the catalogue and the index ------------------------------------------------------------------


def _schema(_: object, database: Database, __: object) -> Finding:
    try:
        check_schema(database)
    except DatabaseError_ as error:
        return Finding("catalogue", Severity.FATAL, str(error))
    return Finding("catalogue")


def _index(settings: WorkerSettings, database: Database, _: object) -> Finding:
    try:
        with database.reading() as session:
            current = generations.current(session)
    except DatabaseError_:
        return Finding("index")  # the catalogue's own check says what is wrong
    if current is None:
        return Finding("index")
    expected = Expected(current.number, current.model_digest, current.manifest_sha256)
    found = damage(settings.data_dir / current.directory, expected)
    if found is None:
        return Finding("index")
    message = (
        f"generation {current.number} cannot be used ({found}): an earlier one or exact search answers until it "
        "is rebuilt; if other workers can use it, LOOKALIKE_DATA_DIR is not the folder that they share"
    )
    return Finding("index", Severity.WARNING, message)


def _engine(settings: WorkerSettings, *_: object) -> Finding:
    try:
        engine(settings.engine).self_test()
    except EngineBroken as error:
        return Finding("engine", Severity.FATAL, str(error))
    return Finding("engine")


def _model(settings: WorkerSettings, database: Database, _: object) -> Finding:
    try:
        config = library.resolve(settings.model).config
        with database.reading() as session:
            active = models.active(session)
    except ModelError as error:
        return Finding("model", Severity.FATAL, str(error))
    except DatabaseError_:
        return Finding("model")
    if active is not None and active.digest != config.digest:
        message = (
            f"LOOKALIKE_MODEL is {config.name}, but the catalogue's vectors are by {active.name}"
        )
        return Finding("model", Severity.FATAL, message)
    return Finding("model")


# -- Redis ----------------------------------------------------------------------------------------


def _redis(settings: WorkerSettings, _: object, redis: Redis) -> Finding:
    """How Redis is set up, as far as it says; one that is away is waited for."""
    try:
        info = cast("dict[str, Any]", redis.info("server"))
        problems = list(_redis_problems(redis, str(info.get("redis_version", ""))))
    except NoPermissionError:
        return Finding("Redis")  # a user that may not ask
    except RedisError as error:
        gone = unavailable(error, settings.redis_url.get_secret_value())
        return Finding("Redis", Severity.WARNING, str(gone))
    if problems:
        return Finding("Redis", Severity.WARNING, f"Redis: {'; '.join(problems)}")
    return Finding("Redis")


def _redis_problems(redis: Redis, version: str) -> Iterator[str]:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_REDIS:
        yield f"version {version} is too old, 6.2 is the least"
    policy, file = _config(redis, "maxmemory-policy"), _config(redis, "appendonly")
    if policy not in (None, "noeviction"):
        yield f"with maxmemory-policy {policy} it throws work away when it is full: set noeviction"
    if file == "no":
        yield "without an append-only file a restart loses what waits: set appendonly yes"


def _config(redis: Redis, name: str) -> str | None:
    """None where the user may not ask."""
    try:
        return cast("dict[str, str]", redis.config_get(name)).get(name)
    except RedisError:
        return None


_EVERY: tuple[Check, ...] = (_variables, _folder, _disk, _roots, _schema, _redis)
"""What every process looks at when it starts."""
_ONCE: tuple[Check, ...] = (_index, _engine, _model)
"""What the processes that need it find out by using it."""
