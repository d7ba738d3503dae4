"""What must be right before a process starts, and what had better be; each problem names what to change."""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, cast

from dotenv import dotenv_values
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from db.errors import AccessDenied, DatabaseError_
from db.queries import catalogue, generations, models, revisions
from db.queries.generations import Generation
from db.session import Database
from migrations import check_schema
from producer.gateway.settings import GatewaySettings
from producer.transport import unavailable
from worker import shelf
from worker.embedding import library
from worker.embedding.errors import ModelError
from worker.errors import StartError
from worker.index.builder import space_needed
from worker.index.engines import engine
from worker.index.errors import EngineBroken
from worker.index.generation import Expected, damage
from worker.roles import Role, build_settings
from worker.settings import WorkerSettings
from worker.tether import PARENT

log = logging.getLogger(__name__)

LEAST_FREE = 64 << 20
"""Bytes of disk without which nothing can be done."""
OLDEST_REDIS = (6, 2)
_PREFIX = "LOOKALIKE_"
_OURS = frozenset({PARENT, "LOOKALIKE_TEST_EXAMPLES"})

_T = TypeVar("_T")


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


Check = Callable[[WorkerSettings, Database, Redis], Finding | None]
"""None: it could not look, for a reason that another check tells."""


def check(
    settings: WorkerSettings, database: Database, redis: Redis, roles: Iterable[Role]
) -> None:
    """Look at what processes of these roles need before they start.

    Raises StartError with all that is fatal; the rest is a warning in the log.
    """
    starting = frozenset(roles)
    findings = _found(
        settings, database, redis, [each for each, by in _NEEDED.items() if by & starting]
    )
    for finding in findings:
        if finding.severity is Severity.WARNING:
            log.warning("%s", finding.message)
    if fatal := [each.message for each in findings if each.severity is Severity.FATAL]:
        raise StartError("; ".join(fatal))


def examine(settings: WorkerSettings, database: Database, redis: Redis) -> list[Finding]:
    """What all checks find, in order; without those that could not look."""
    return _found(settings, database, redis, [*_NEEDED])


def _found(
    settings: WorkerSettings, database: Database, redis: Redis, checks: Sequence[Check]
) -> list[Finding]:
    found = [check(settings, database, redis) for check in checks]
    return [finding for finding in found if finding is not None]


# -- the machine ----------------------------------------------------------------------------------


def _variables(settings: WorkerSettings, *_: object) -> Finding:
    """A name that is nearly right does nothing, and nobody would know."""
    fields = {*type(settings).model_fields, *GatewaySettings.model_fields}
    known = {f"{_PREFIX}{name.upper()}" for name in fields}
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    unknown = sorted(name for name in given - known - _OURS if name.startswith(_PREFIX))
    if not unknown:
        return Finding("settings")
    hints = ", ".join(_hint(name, known) for name in unknown)
    return Finding("settings", Severity.WARNING, f"not settings of ours: {hints}")


def _hint(name: str, known: set[str]) -> str:
    """The name, with the one that was perhaps meant; the prefix, which they share, makes nothing alike."""
    endings = [each.removeprefix(_PREFIX) for each in sorted(known)]
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), endings, n=1)
    return f"{name} (did you mean {_PREFIX}{near[0]}?)" if near else name


def _folder(settings: WorkerSettings, *_: object) -> Finding:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir) as file:
            file.write(b"\0")
    except OSError as error:
        message = f"LOOKALIKE_DATA_DIR cannot be written to: {error}"
        return Finding("data folder", Severity.FATAL, message)
    return Finding("data folder")


def _disk(settings: WorkerSettings, database: Database, _: object) -> Finding | None:
    try:
        free = shutil.disk_usage(settings.data_dir).free
    except OSError:
        return None  # the folder's own check tells
    said = f"{free >> 20:,} MB are free on the disk of LOOKALIKE_DATA_DIR"
    if free < LEAST_FREE:
        return Finding("disk", Severity.FATAL, f"{said}, {LEAST_FREE >> 20} MB are the least")
    try:
        needed = _next_build(settings, database)
    except DatabaseError_:
        needed = 0
    if free < needed:
        message = f"{said}, and the next build of the index may take {needed >> 20:,} MB"
        return Finding("disk", Severity.WARNING, message)
    return Finding("disk")


def _next_build(settings: WorkerSettings, database: Database) -> int:
    """Bytes that a build of the catalogue's index may take for a while."""
    with database.reading() as session:
        model = models.active(session)
        images = catalogue.count(session).images
    trees = build_settings(settings).trees
    return space_needed(images, model.dimension, trees) if model else 0


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


def _changes(_: object, database: Database, __: object) -> Finding | None:
    """Whether changes are taken; one that is only locked, for as long as a writer waits, is waited for."""
    try:
        with database.reading() as session:
            revisions.current(session)
    except DatabaseError_:
        return None  # the catalogue's own check tells
    try:
        with database.writing() as session:
            revisions.try_to_change(session)
    except DatabaseError_ as error:
        denied = isinstance(error, AccessDenied)
        return Finding("changes", Severity.FATAL if denied else Severity.WARNING, str(error))
    return Finding("changes")


def _index(settings: WorkerSettings, database: Database, _: object) -> Finding | None:
    try:
        with database.reading() as session:
            rows = list(generations.candidates(session))
            pinned = generations.pointer(session).pinned
    except DatabaseError_:
        return None  # the catalogue's own check tells
    if not rows or (found := _damage(settings, rows[0])) is None:
        return Finding("index")
    serving = next((row.number for row in rows[1:] if _damage(settings, row) is None), None)
    message = (
        f"generation {rows[0].number} cannot be used ({found}): "
        f"{'exact search' if serving is None else f'generation {serving}'} answers, {_until(pinned=pinned)}. "
        "If other workers can use it, LOOKALIKE_DATA_DIR is not the folder that they share"
    )
    return Finding("index", Severity.WARNING, message)


def _damage(settings: WorkerSettings, row: Generation) -> str | None:
    expected = Expected(row.number, row.model_digest, row.manifest_sha256)
    return damage(settings.data_dir / row.directory, expected)


def _until(*, pinned: bool) -> str:
    if pinned:  # a rollback chose it, and what it chose is not rebuilt
        return "until you run `lookalike-worker reindex`"
    return "until the index worker has rebuilt it"


def _engine(settings: WorkerSettings, *_: object) -> Finding:
    try:
        engine(settings.engine).self_test()
    except EngineBroken as error:
        return Finding("engine", Severity.FATAL, str(error))
    return Finding("engine")


def _model(settings: WorkerSettings, database: Database, _: object) -> Finding | None:
    try:
        with database.reading() as session:
            active = models.active(session)
        remark = shelf.beside_the_active(settings, database)
        if active is None:
            library.resolve(settings.model)
        else:
            shelf.find(settings, active)
    except (ModelError, StartError) as error:
        return Finding("model", Severity.FATAL, str(error))
    except DatabaseError_:
        return None  # the catalogue's own check tells
    return Finding("model", Severity.WARNING, remark) if remark else Finding("model")


# -- Redis ----------------------------------------------------------------------------------------


def _redis(settings: WorkerSettings, _: object, redis: Redis) -> Finding:
    """How Redis is set up, as far as it says. One that is away is waited for, one that refuses us is not."""
    try:
        redis.ping()
        problems = list(_redis_problems(redis))
    except RedisError as error:
        refused = isinstance(error, AuthenticationError | NoPermissionError)
        said = str(unavailable(error, settings.redis_url.get_secret_value()))
        return Finding("Redis", Severity.FATAL if refused else Severity.WARNING, said)
    if problems:
        return Finding("Redis", Severity.WARNING, f"Redis: {'; '.join(problems)}")
    return Finding("Redis")


def _redis_problems(redis: Redis) -> Iterator[str]:
    info = _told(lambda: cast("dict[str, Any]", redis.info("server"))) or {}
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_REDIS:
        yield f"version {version} is too old, {'.'.join(map(str, OLDEST_REDIS))} is the least"
    policy, file = _config(redis, "maxmemory-policy"), _config(redis, "appendonly")
    if policy not in (None, "noeviction"):
        yield f"with maxmemory-policy {policy} it throws work away when it is full: set noeviction"
    if file == "no":
        yield "without an append-only file a restart loses what waits: set appendonly yes"


def _config(redis: Redis, name: str) -> str | None:
    found = _told(lambda: cast("dict[str, str]", redis.config_get(name)))
    return None if found is None else found.get(name)


def _told(ask: Callable[[], _T]) -> _T | None:
    """None where the user may not ask, or the server does not know the question."""
    try:
        return ask()
    except ResponseError:
        return None


# -- who needs what -------------------------------------------------------------------------------

_EVERYBODY = frozenset(Role)
_FETCHING = frozenset({Role.EMBED, Role.QUERY})
_WRITING = frozenset({Role.EMBED, Role.QUERY, Role.INDEX})
"""Who embeds writes down by which model."""
_SEARCHING_OR_BUILDING = frozenset({Role.QUERY, Role.SEARCH, Role.INDEX})
_NEEDED: Mapping[Check, frozenset[Role]] = {
    _variables: _EVERYBODY,
    _folder: _EVERYBODY,
    _disk: _EVERYBODY,
    _roots: _FETCHING,
    _schema: _EVERYBODY,
    _changes: _WRITING,
    _redis: _EVERYBODY,
    _index: _SEARCHING_OR_BUILDING,
    _engine: _SEARCHING_OR_BUILDING,
    _model: frozenset(),  # found out by loading it: to read all of it twice would take seconds
}
