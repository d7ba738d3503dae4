"""What an operator decides about models: which are known, which one is rolled out, and which are given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from db.queries import backfill, catalogue, generations, models, revisions
from db.queries.backfill import Progress
from db.queries.generations import LEASE
from db.queries.models import ModelVersion, Registered
from db.session import Database
from worker import shelf
from worker.errors import RolloutRefused
from worker.index import cleanup
from worker.lease import TTL, Lease, LeaseHeld

VECTORS_AT_ONCE = 2000
"""Vectors that are deleted in one transaction: others wait for it."""


@dataclass(frozen=True)
class Known:
    """A model, and how much of the catalogue is embedded under it."""

    registered: Registered
    progress: Progress

    @property
    def state(self) -> str:
        """In a word."""
        if self.registered.active:
            return "active"
        if self.registered.incoming:
            return "incoming"
        return "retired" if self.registered.retired_at else "idle"


@dataclass(frozen=True)
class Activated:
    """What came of it."""

    model: ModelVersion
    at_once: bool
    """Whether it is active already: it was, or there are no pictures that it would have to embed."""


@dataclass(frozen=True)
class Retired:
    """What was deleted of a model."""

    model: ModelVersion
    vectors: int
    generations: tuple[str, ...]
    """Directories that were deleted."""
    held: tuple[str, ...]
    """Directories that some process has open: they are deleted when it is retired again."""


def add(database: Database, data_dir: Path, spec: str) -> ModelVersion:
    """Verify a model, have its files on this host and its row in the catalogue; raises ModelError, OSError.

    A retired one can be activated again from then on. In a catalogue without any model it is the active one.
    """
    source = shelf.keep(data_dir, spec)
    config, name = source.config, shelf.name_of(spec)
    with database.writing() as session:
        model = models.register(
            session,
            digest=config.digest,
            name=config.name,
            dimension=config.dimension,
            config=config.model_dump(mode="json"),
            source=name,
        )
        models.add_again(session, model.pk, name)
    return model


def known(database: Database) -> list[Known]:
    """All of them, in the order in which they were added."""
    with database.reading() as session:
        return [
            Known(each, backfill.progress(session, each.model.pk))
            for each in models.listed(session)
        ]


def named(session: Session, which: str) -> Registered:
    """The one model of this name, or whose digest begins so; raises RolloutRefused."""
    rows = models.listed(session)
    found = [each for each in rows if which in (each.model.digest, each.model.name)]
    found = found or [
        each for each in rows if len(which) >= 4 and each.model.digest.startswith(which)
    ]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{each.model.digest[:12]} ({each.model.name})" for each in found or rows)
    what = f"{which} is not one model" if found else f"there is no model {which}"
    raise RolloutRefused(
        f"{what}: name one by at least 4 characters of its digest, of {there or 'none'}; "
        "`lookalike-worker models add` makes another one known"
    )


def activate(database: Database, which: str, *, without_missing: bool = False) -> Activated:
    """Begin to roll a model out; raises RolloutRefused. `without_missing` lets pictures go that it cannot have."""
    with database.writing() as session:
        revisions.lock(session)
        chosen = named(session, which)
        model, incoming = chosen.model, models.serving(session).incoming
        if chosen.retired_at is not None:
            raise RolloutRefused(
                f"{model.name} was retired: run `lookalike-worker models add` with it again, and its pictures "
                "are embedded anew"
            )
        if incoming is not None and incoming.pk != model.pk:
            raise RolloutRefused(
                f"{incoming.name} ({incoming.digest[:12]}) is being rolled out: wait for it, or run "
                "`lookalike-worker models cancel` first"
            )
        if chosen.active:
            return Activated(model, at_once=True)
        if _nothing_to_embed(session):
            models.activate(session, model.pk)
            return Activated(model, at_once=True)
        models.begin_rollout(session, model.pk, without_missing=without_missing)
        backfill.try_all_again(session, model.pk, datetime.now(UTC))
    return Activated(model, at_once=False)


def cancel(database: Database) -> ModelVersion | None:
    """Stop the rollout that is under way; its model. What was embedded is kept. None if there is none."""
    with database.writing() as session:
        revisions.lock(session)
        incoming = models.serving(session).incoming
        models.end_rollout(session)
    return incoming


def retire(
    database: Database,
    data_dir: Path,
    which: str,
    on_share: Callable[[float], None] = lambda _: None,
    *,
    lease_ttl: float = TTL,
) -> Retired:
    """Give a model up: its vectors and its generations are deleted. Raises RolloutRefused."""
    with database.writing() as session:
        revisions.lock(session)
        chosen = named(session, which)
        model = chosen.model
        if chosen.active or chosen.incoming:
            raise RolloutRefused(
                f"{model.name} is the {'active' if chosen.active else 'incoming'} model: "
                f"{'activate another one' if chosen.active else '`lookalike-worker models cancel`'} first"
            )
        models.retire(session, model.pk)
        backfill.forget_all(session, model.pk)
    removed, held = _discard_generations(database, data_dir, model, lease_ttl)
    return Retired(model, _delete_vectors(database, model, on_share), removed, held)


def progress(database: Database, model: ModelVersion) -> tuple[Progress, models.Serving]:
    """How far its rollout is, and which models serve."""
    with database.reading() as session:
        return backfill.progress(session, model.pk), models.serving(session)


def hindrance(progress: Progress, serving: models.Serving, roles: Collection[str]) -> str | None:
    """What keeps the rollout that is under way from going on, where processes of these roles run."""
    if serving.incoming is None:
        return None
    if progress.waiting and "embed" not in roles:
        return "no embed worker runs"
    if not progress.waiting and progress.given_up and not serving.without_missing:
        return blocked(serving.incoming, progress.given_up)
    if not progress.waiting and not {"index", "beat"} <= set(roles):
        return "its index is not built: no index worker or no beat runs"
    return None


def blocked(model: ModelVersion, given_up: Mapping[str, int]) -> str:
    """Why a model does not become active under which pictures were given up, and what to do."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in given_up.items())
    return (
        f"{model.name} does not become active, since pictures could not be embedded anew ({reasons}). "
        "`lookalike sync` or `lookalike add` sends them again, and the rollout goes on by itself; "
        f"`lookalike-worker models activate {model.digest[:12]} --without-missing` does without them"
    )


def _nothing_to_embed(session: Session) -> bool:
    return generations.current(session) is None and not catalogue.count(session).images


def _delete_vectors(
    database: Database, model: ModelVersion, on_share: Callable[[float], None]
) -> int:
    with database.reading() as session:
        total = max(backfill.count_vectors(session, model.pk), 1)
    deleted, after = 0, b""
    while True:
        with database.writing() as session:
            revisions.lock(session)
            if not models.is_retired(session, model.pk):
                raise RolloutRefused(
                    f"{model.name} was added again meanwhile: the rest of its vectors stay"
                )
            count, after = backfill.delete_vectors(session, model.pk, after, VECTORS_AT_ONCE)
        if not count:
            return deleted
        deleted += count
        on_share(min(deleted / total, 1.0))


def _discard_generations(
    database: Database, data_dir: Path, model: ModelVersion, lease_ttl: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Directories that are deleted, and those that are held."""
    try:
        with Lease(database, LEASE, ttl=lease_ttl):
            with database.reading() as session:
                rows = [
                    row for row in generations.kept(session) if row.model_version_pk == model.pk
                ]
            gone = {row.directory: cleanup.discard(database, data_dir, row.number) for row in rows}
    except LeaseHeld as error:
        raise RolloutRefused(
            f"{model.name} is noted as retired, but nothing was deleted, since {error}: retire it again later"
        ) from error
    held = tuple(name for name, deleted in gone.items() if not deleted)
    return tuple(name for name, deleted in gone.items() if deleted), held
