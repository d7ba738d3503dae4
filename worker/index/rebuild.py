"""When to rebuild the index, and doing it: one process at a time, swapped in by compare-and-set."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from db.errors import DatabaseError_
from db.queries import catalogue, generations, leases, models
from db.queries.generations import LEASE, NewGeneration
from db.session import Database
from worker.index import builder, cleanup, comparing, identity
from worker.index.builder import Builder, BuildSettings, Built, Checkpoint, Progress
from worker.index.comparing import Compared
from worker.index.errors import BuildFailed, BuildStopped, BuildSuperseded
from worker.index.generation import Expected, damage
from worker.lease import TTL, Lease, LeaseHeld, LeaseLost

__all__ = [
    "BuildSettings",
    "IndexState",
    "RebuildLimits",
    "Rebuilt",
    "due",
    "outgrown",
    "read_state",
    "rebuild",
]

log = logging.getLogger(__name__)


ATTRIBUTES_PER_PICTURE = 10
"""Products with other attributes that weigh as much as one changed picture: only filtered lookups look at them."""
LONGEST_PAUSE = timedelta(minutes=15)
"""From a failed rebuild to the next one, however many failed before."""


@dataclass(frozen=True)
class RebuildLimits:
    """When an index is out of date."""

    max_age: timedelta = timedelta(minutes=15)
    """Age at which pending changes are taken in."""
    max_pending: int = 5000
    """Pending changes at which they are taken in whatever the age: every lookup searches them one by one."""


@dataclass(frozen=True)
class IndexState:
    """What `due` decides by."""

    generation: int | None
    built_at: datetime | None
    images: int
    """Live pictures in the catalogue."""
    pending: int
    """Pictures that changed since the generation."""
    model_changed: bool
    """Whether the generation is of another model than the active one."""
    changed_products: int = 0
    """Products that changed since, be it in their attributes only."""
    damage: str | None = None
    """Why the generation cannot be used: its files are not what they were, or of an earlier version."""
    pinned: bool = False
    """Whether a rollback chose the generation."""
    ready: str | None = None
    """Name of the incoming model, once the catalogue has all of its vectors."""
    failures: int = 0
    """Rebuilds that failed since one succeeded; the caller knows."""
    failed_at: datetime | None = None
    """When the last of them did."""


def read_state(database: Database, data_dir: Path) -> IndexState:
    """Read it from SQL, in one snapshot, and look at the files; the caller adds failures (with `replace`)."""
    with database.reading() as session:
        current = generations.current(session)
        model = models.active(session)
        incoming = builder.incoming_if_complete(session)
        revision = current.revision if current else 0
        return IndexState(
            generation=current.number if current else None,
            built_at=current.created_at if current else None,
            images=catalogue.count(session).images,
            pending=catalogue.count_changes_since(session, revision),
            changed_products=catalogue.count_products_since(session, revision),
            damage=damage(data_dir / current.directory, _expected(current)) if current else None,
            model_changed=bool(current and model and current.model_version_pk != model.pk),
            pinned=generations.pointer(session).pinned,
            ready=incoming.name if incoming else None,
        )


def _expected(row: generations.Generation) -> Expected:
    return Expected(row.number, row.model_digest, row.manifest_sha256)


def due(state: IndexState, limits: RebuildLimits, now: datetime) -> str | None:
    """Why the index should be rebuilt, or None. After failures it waits: 1, 2, 4 … minutes, 15 at most.

    What a rollback pinned is not due: it waits for the operator, who may also roll out another model.
    """
    if (state.pinned and not state.ready) or _resting(state, now):
        return None
    return next(_wanted(state, limits, now), None)


def outgrown(state: IndexState, limits: RebuildLimits) -> str | None:
    """Why a pinned generation should not stay for long; None where nothing is wrong with it."""
    if not state.pinned:
        return None
    if state.damage:
        return f"it cannot be used: {state.damage}"
    if state.model_changed:
        return "another model is active"
    if state.pending >= limits.max_pending:
        return f"{state.pending} changes are pending, which slow every lookup"
    if state.changed_products >= ATTRIBUTES_PER_PICTURE * limits.max_pending:
        return (
            f"the attributes of {state.changed_products} products are pending, which slow filters"
        )
    return None


def _resting(state: IndexState, now: datetime) -> bool:
    """Whether the last failure is too near; on either side of now, since another machine's clock noted it."""
    if not state.failures or state.failed_at is None:
        return False
    pause = min(timedelta(minutes=2.0 ** min(state.failures - 1, 10)), LONGEST_PAUSE)
    return abs(now - state.failed_at) < pause


def _wanted(state: IndexState, limits: RebuildLimits, now: datetime) -> Iterator[str]:
    """What speaks for a rebuild, the weightiest first."""
    if state.ready is not None:
        yield f"every picture is embedded by {state.ready}, which is to be the active model"
    if state.generation is None or state.built_at is None:
        if state.images:
            yield "the first index"
        return
    if state.damage:
        yield f"generation {state.generation} cannot be used: {state.damage}"
    if state.model_changed:
        yield "another model is active"
    if state.pending >= limits.max_pending:
        yield f"{state.pending} changes are pending"
    if state.changed_products >= ATTRIBUTES_PER_PICTURE * limits.max_pending:
        yield f"the attributes of {state.changed_products} products are pending"
    age = now - state.built_at
    if (state.pending or state.changed_products) and age >= limits.max_age:
        yield f"the index is {age.total_seconds():.0f} s old, {state.pending} changes are pending"


@dataclass(frozen=True)
class Rebuilt:
    """A generation that was made and is current now."""

    number: int
    revision: int
    images: int
    recall: float
    seconds: float
    peak_memory: int
    """Bytes."""


def rebuild(
    database: Database,
    data_dir: Path,
    settings: BuildSettings,
    *,
    on_progress: Progress = lambda step, share: None,
    checkpoint: Checkpoint = lambda step: None,
    over_pin: bool = False,
    lease_ttl: float = TTL,
    stop: Callable[[], bool] = lambda: False,
) -> Rebuilt | None:
    """Build, verify and publish a generation, then clean up.

    Of the active model, or of the incoming one, which becomes the active one then, when all pictures have a
    vector under it. None when another process is at it, no model was ever registered, or a rollback pinned the
    current one; `over_pin` replaces that too, as an incoming model does: the operator says so.

    `on_progress` gets the step and its share done; `checkpoint` the name of each step of `builder.STEPS` when it
    has been done. `stop` is asked between the steps and, often, while vectors are read, laid down, given to Annoy
    and checked; Annoy's own build and the tuning cannot be interrupted and are waited for. Raises BuildFailed
    (BuildStopped leaves no files, and the lease free), OSError or DatabaseUnavailable; the generation that was
    current then still is.
    """
    began = time.monotonic()
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with Lease(database, LEASE, ttl=lease_ttl) as lease:
            catalogue_id, pinned = identity.of(database), _pinned(database)
            if catalogue_id is None or (pinned and not over_pin and not _is_ready(database)):
                return None
            cleanup.clean(database, data_dir, settings.keep, lease.token, beginning=True)
            building = Builder(
                database,
                data_dir,
                settings,
                token=lease.token,
                catalogue_id=catalogue_id,
                on_progress=_interruptible(stop, on_progress),
                checkpoint=_guarded(lease, checkpoint, stop),
                stop=stop,
            )
            built = _build(building, database, lease.token)
            if built is not None:
                compared = _compared(database, data_dir, built)
                publish(database, built, lease.token, over_pin=over_pin, compared=compared)
                checkpoint("published")
                if pinned:
                    _discard_rejected(database, data_dir, built)
                cleanup.clean(database, data_dir, settings.keep, lease.token)
    except LeaseHeld as held:
        log.info("no rebuild: %s", held)
        return None
    return None if built is None else _rebuilt(built, time.monotonic() - began)


def _build(building: Builder, database: Database, token: int) -> Built | None:
    """Build. Who fails after losing the lease blames that: whoever took it removed the files of this build."""
    try:
        return building.build()
    except (BuildStopped, BuildSuperseded):
        raise
    except BuildFailed as error:
        if not _holds(database, token):
            raise BuildSuperseded(
                f"the build stopped: the lease {LEASE!r} ran out, or another process took it"
            ) from error
        raise


def _compared(database: Database, data_dir: Path, built: Built) -> Compared | None:
    """How a generation of another model compares with the one that it is to replace, if that can be read."""
    if not built.switches or built.replaces is None:
        return None
    with database.reading() as session:
        before = generations.get(session, built.replaces)
    try:
        compared = comparing.compare(data_dir, before, built) if before is not None else None
    except Exception:  # a verified index must not be lost for want of a figure beside it
        log.exception("the new index could not be compared with the one before")
        return None
    if compared is not None:
        log.info("%s", compared)
    return compared


def _holds(database: Database, token: int) -> bool:
    """Whether the lease is still held, as far as anybody can tell."""
    try:
        with database.reading() as session:
            holder = leases.holder(session, LEASE)
    except DatabaseError_:
        return True
    return holder is not None and holder.token == token


def _pinned(database: Database) -> bool:
    with database.reading() as session:
        return generations.pointer(session).pinned


def _is_ready(database: Database) -> bool:
    with database.reading() as session:
        return builder.incoming_if_complete(session) is not None


def _discard_rejected(database: Database, data_dir: Path, built: Built) -> None:
    """Delete what a rollback turned away from, so that the one it chose is what stays beside the new one."""
    with database.reading() as session:
        rows = generations.kept(session)
    for row in rows:
        if built.replaces is not None and built.replaces < row.number < built.manifest.number:
            cleanup.discard(database, data_dir, row.number)


def _rebuilt(built: Built, seconds: float) -> Rebuilt:
    described = built.manifest
    return Rebuilt(
        number=described.number,
        revision=described.revision,
        images=described.images,
        recall=described.recall,
        seconds=seconds,
        peak_memory=described.peak_memory,
    )


def _interruptible(stop: Callable[[], bool], on_progress: Progress) -> Progress:
    def progress(step: str, share: float) -> None:
        if stop():
            raise BuildStopped(f"stopped in {step!r}, as asked")
        on_progress(step, share)

    return progress


def _guarded(
    lease: Lease, checkpoint: Checkpoint, stop: Callable[[], bool]
) -> Callable[[str], None]:
    """At every step before the publication, stop if the lease is lost, or when asked to."""

    def step(name: str) -> None:
        try:
            lease.check()
        except LeaseLost as error:
            raise BuildSuperseded(f"the build stopped: {error}") from error
        if stop():
            raise BuildStopped(f"stopped after {name!r}, as asked")
        checkpoint(name)

    return step


def publish(
    database: Database,
    built: Built,
    token: int,
    *,
    over_pin: bool = False,
    compared: Compared | None = None,
) -> None:
    """Make a generation current, unless anything happened since its data were read; raises BuildSuperseded.

    A pointer that a rollback pinned is moved with `over_pin`, or by the incoming model, only. `compared` is kept
    with the model.
    """
    described = built.manifest
    row = NewGeneration(
        number=described.number,
        model_version_pk=built.model_version_pk,
        revision=described.revision,
        images=described.images,
        directory=built.directory.name,
        manifest_sha256=built.manifest_sha256,
        recall=described.recall,
        created_at=described.built_at,
    )
    with database.writing() as session:
        done = generations.publish(
            session,
            row,
            expected_current=built.replaces,
            lease_token=token,
            over_pin=over_pin or built.switches,
        )
        if done and compared is not None:
            models.compared(session, built.model_version_pk, asdict(compared))
    if not done:
        shutil.rmtree(built.directory, ignore_errors=True)
        raise BuildSuperseded(
            f"generation {row.number} was not published: another one was meanwhile, or chosen by a rollback, "
            "or its model is not rolled out any more, or the lease was lost"
        )
