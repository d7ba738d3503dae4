"""Where a host keeps its models, LOOKALIKE_DATA_DIR/models/<digest>, and where else it finds the one it needs."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from db.queries import models
from db.queries.models import ModelVersion
from db.session import Database
from worker.embedding import library
from worker.embedding.errors import ModelError, ModelUnavailable
from worker.embedding.library import CONFIG, WEIGHTS, ModelSource
from worker.errors import StartError
from worker.index import durable
from worker.settings import WorkerSettings

FOLDER = "models"
PART = ".part-"
ABANDONED = 86_400.0
"""Seconds after which what a copy that was interrupted left is deleted."""


def find(settings: WorkerSettings, model: ModelVersion) -> ModelSource:
    """The files of a registered model, verified: by LOOKALIKE_MODEL, from the shelf, or by how it was added.

    Raises ModelUnavailable when this host has them in none of these places.
    """
    looked: list[str] = []
    for spec in _places(settings, model):
        try:
            source = library.resolve(spec)
        except ModelError as error:
            looked.append(str(error))
            continue
        if source.config.digest == model.digest:
            return source
        named = f"LOOKALIKE_MODEL={spec}" if spec == settings.model else spec
        looked.append(f"{named} is another model, {source.config.digest[:12]}")
    raise ModelUnavailable(
        f"the model {model.name} ({model.digest[:12]}) is not on this host: run `lookalike-worker models add` "
        f"here with its name or its directory ({'; '.join(looked)})"
    )


def beside_the_active(settings: WorkerSettings, database: Database) -> str | None:
    """What LOOKALIKE_MODEL names besides the catalogue's active model, which serves all the same; None if nothing.

    Raises StartError when it names a model that the catalogue does not know.
    """
    if "model" not in settings.model_fields_set:
        return None
    with database.reading() as session:
        active = models.active(session)
        known = {each.model.digest for each in models.listed(session)}
    if active is None:
        return None
    serves = f"the catalogue's active model, {active.name} ({active.digest[:12]}), serves"
    try:
        named = library.resolve(settings.model).config
    except ModelError as error:
        return f"{error}; {serves}"
    said = f"LOOKALIKE_MODEL is {named.name} ({named.digest[:12]})"
    if named.digest == active.digest:
        return None
    if named.digest in known:
        return f"{said}; {serves}"
    raise StartError(
        f"{said}, but the catalogue's vectors are by {active.name} ({active.digest[:12]}): take LOOKALIKE_MODEL "
        f"away and run `lookalike-worker models add {settings.model}` and `models activate`, or use another "
        "LOOKALIKE_DATABASE_URL"
    )


def keep(data_dir: Path, spec: str) -> ModelSource:
    """Verify a model and, if it is a directory, copy its two files onto the shelf, whole or not at all.

    Raises ModelError, and OSError when it cannot be written.
    """
    source = library.resolve(spec)
    if not Path(spec).is_dir():
        return source
    target = _place(data_dir, source.config.digest)
    if not target.exists():
        _copy(Path(spec), target)
    return library.resolve(str(target))


def _places(settings: WorkerSettings, model: ModelVersion) -> Iterator[str]:
    shelf = _place(settings.data_dir, model.digest)
    if shelf.is_dir():
        yield str(shelf)
    yield settings.model
    if model.source is not None and model.source != settings.model:
        yield model.source


def _place(data_dir: Path, digest: str) -> Path:
    return data_dir / FOLDER / digest


def _copy(directory: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{PART}*"):
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=PART, dir=target.parent))
    try:
        for name in (WEIGHTS, CONFIG):
            shutil.copyfile(directory / name, part / name)
            durable.sync_file(part / name)
        durable.sync_folder(part)
        part.chmod(0o755)
        part.rename(target)
        durable.sync_folder(target.parent)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not target.exists():  # another process may have put it there meanwhile
            raise


def name_of(spec: str) -> str:
    """How a model is named for other hosts: a directory by its whole path."""
    return os.path.realpath(spec) if Path(spec).is_dir() else spec
