"""Keeps a process's view of the index at the newest revision.

Every refresh is one statement: the revision counter and the pointer. Changes go into the overlay at once; a new
generation is opened aside, while lookups go on with the old one, and put in place with its own overlay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.orm import Session

from db.errors import DatabaseError_
from db.queries import catalogue, generations, models
from db.queries.catalogue import Head
from db.queries.models import ModelVersion
from db.session import Database
from worker.index.engines import engine
from worker.index.errors import EngineBroken, GenerationRefused
from worker.index.generation import Expected, Generation
from worker.index.overlay import Overlay
from worker.index.view import View

log = logging.getLogger(__name__)

RETRY_AFTER = 30.0
"""Seconds after which a generation that was refused is tried again: a disk may have been mounted meanwhile."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries while the catalogue cannot be read."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class _State:
    """What is published to readers, and the writer's side of its overlay."""

    view: View
    overlay: Overlay
    wanted: int | None
    """The generation that the pointer named when this one was chosen; another one serves when that is refused."""
    tried_at: float


class Follower:
    """Follows the revision counter and the index pointer in SQL; one per process, for all of its threads."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        *,
        clock: Callable[[], datetime] = _utc_now,
        interval: float = 0.25,
        on_revision: Callable[[int], object] | None = None,
    ) -> None:
        """`on_revision` is told each revision once the view has all changes up to it; it must not wait."""
        self._database = database
        self._data_dir = data_dir
        self._clock = clock
        self._interval = interval
        self._on_revision = on_revision
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: _State | None = None
        self._refused: dict[tuple[int, str], float] = {}

    @property
    def view(self) -> View:
        """The view of the last refresh; makes the first one when there is none."""
        state = self._state
        return state.view if state is not None else self.refresh()

    def refresh(self) -> View:
        """Bring the view up to every change committed before the call, and return it.

        Costs one statement when nothing changed. Raises DatabaseUnavailable.
        """
        at = self._clock()
        with self._database.reading() as session:
            head = catalogue.head(session)
            state = self._state
            if state is not None and not _is_other_index(state, head):
                state = self._caught_up(session, state, head)
        if state is None or _is_other_index(state, head):
            state = self._change_index(state)
        if state.view.revision != head.revision:
            state = self._advance(state)
        return replace(state.view, at=at)

    def start(self) -> None:
        """Test Annoy, make the first view, then follow in a thread; raises EngineBroken, DatabaseUnavailable."""
        engine("annoy").self_test()
        self.refresh()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._follow, name="index-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; the last view stays usable."""
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _follow(self) -> None:
        pause = self._interval
        trouble: Exception | None = None
        while not self._stopping.is_set():
            # A lookup that wakes us has read the database; what fails all the same is not for it to hurry.
            (self._woken if _is_away(trouble) else self._stopping).wait(pause)
            self._woken.clear()
            if self._stopping.is_set():
                return
            before, trouble = trouble, self._tried()
            if trouble is None:
                pause = self._interval
                if before is not None:
                    log.warning("the index is followed again")
                continue
            pause = min(2 * pause, LONGEST_PAUSE)
            if type(trouble) is not type(before):
                unknown = None if _is_away(trouble) else trouble
                log.error("the index is not followed: %s", trouble, exc_info=unknown)

    def _tried(self) -> Exception | None:
        """Refresh; what went wrong. The thread must outlive it, and lookups report it themselves."""
        try:
            self.refresh()
        except Exception as error:
            return error
        return None

    # -- another generation -----------------------------------------------------------------------

    def _change_index(self, state: _State | None) -> _State:
        """Open what the pointer names: at once if there is no view yet, else aside, by one thread."""
        if state is not None:
            if self._thread not in {None, threading.current_thread()}:
                self._woken.set()
                return state
            if not self._opening.acquire(blocking=False):
                return state
        else:
            self._opening.acquire()
        try:
            newer = self._state
            return newer if newer is not None and newer is not state else self._open_index()
        finally:
            self._opening.release()

    def _open_index(self) -> _State:
        """Load a generation with its overlay while lookups use the old one; then catch up and publish."""
        with self._database.reading() as session:
            generation, model = self._choose(session)
            loaded = self._loaded(session, generation, model)
        with self._writing:
            state = self._publish(self._advanced(loaded))
            log.info(
                "answering from generation %s at revision %s",
                state.view.number,
                state.view.revision,
            )
            return state

    def _choose(self, session: Session) -> tuple[Generation | None, ModelVersion | None]:
        """The current generation or, where it is refused, the newest one before that can be opened."""
        for row in generations.candidates(session):
            generation = self._opened(row)
            if generation is not None:
                return generation, models.by_pk(session, row.model_version_pk)
        return None, models.active(session)

    def _opened(self, row: generations.Generation) -> Generation | None:
        """Open a generation, which reads all of it: not the one that is open, nor one refused a moment ago."""
        published = (row.number, row.manifest_sha256)
        serving = self._state.view.generation if self._state is not None else None
        if serving is not None and serving.published == published:
            return serving
        if time.monotonic() - self._refused.get(published, -RETRY_AFTER) < RETRY_AFTER:
            return None
        try:
            expected = Expected(row.number, row.model_digest, row.manifest_sha256)
            return Generation.open(self._data_dir / row.directory, expected)
        except (GenerationRefused, EngineBroken) as error:
            self._refused[published] = time.monotonic()
            log.error("generation %s is not used: %s", row.number, error)  # noqa: TRY400
            return None

    def _loaded(
        self, session: Session, generation: Generation | None, model: ModelVersion | None
    ) -> _State:
        overlay = Overlay(model.dimension if model else 0, generation.slots if generation else None)
        view = View(
            revision=generation.manifest.revision if generation else 0,
            at=self._clock(),
            model_version_pk=model.pk if model else None,
            model_digest=model.digest if model else None,
            dimension=model.dimension if model else 0,
            generation=generation,
            overlay=overlay.snapshot(),
        )
        state = _State(view, overlay, catalogue.head(session).generation, time.monotonic())
        return _brought_up(session, state)

    # -- changes ----------------------------------------------------------------------------------

    def _caught_up(self, session: Session, seen: _State, head: Head) -> _State:
        """The usual case, in the snapshot that is open already."""
        if head.revision <= seen.view.revision:
            return seen
        with self._writing:
            return self._publish(_brought_up(session, self._state or seen))

    def _advance(self, seen: _State) -> _State:
        with self._writing:
            return self._publish(self._advanced(self._state or seen))

    def _publish(self, state: _State) -> _State:
        """Answer lookups from this state; the caller holds the writer's lock."""
        before, self._state = self._state, state
        view = state.view
        if self._on_revision is not None and (
            before is None or before.view.revision != view.revision
        ):
            self._on_revision(view.revision)
        return state

    def _advanced(self, state: _State) -> _State:
        """The state with every committed change; the caller holds the writer's lock."""
        with self._database.reading() as session:
            if catalogue.head(session).revision < state.view.revision:
                # Only a restored backup does this: what was followed has never happened.
                log.error("the catalogue went back in time; reading the index again")
                generation, model = self._choose(session)
                return self._loaded(session, generation, model)
            return _brought_up(session, state)


def _is_away(trouble: Exception | None) -> bool:
    """Whether nothing is wrong but the database."""
    return trouble is None or isinstance(trouble, DatabaseError_)


def _is_other_index(state: _State, head: Head) -> bool:
    if head.generation != state.wanted:
        return True
    if head.generation is None:
        return bool(head.model_version_pk != state.view.model_version_pk)
    refused = state.view.number != head.generation
    return refused and time.monotonic() - state.tried_at > RETRY_AFTER


def _brought_up(session: Session, state: _State) -> _State:
    """Put the changes that the snapshot of this transaction has and the state has not into the overlay."""
    revision = catalogue.head(session).revision
    view = state.view
    if revision <= view.revision:
        return state
    if view.model_version_pk is not None:
        changes = list(catalogue.changes_since(session, view.revision, view.model_version_pk))
        refused = state.overlay.apply(changes)
        state.overlay.reprice(list(catalogue.attributes_since(session, view.revision)))
        if refused:
            log.error("pictures %s have no usable vector and cannot be found", refused[:20])
    return replace(state, view=replace(view, revision=revision, overlay=state.overlay.snapshot()))
