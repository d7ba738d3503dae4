"""The models that serve, and their networks in this process: what comes is loaded, what went is let go.

Which models serve is looked up in SQL about once a second. A network is loaded aside, while the others work on, so
that a switch of models costs nobody the seconds that loading takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.errors import DatabaseError_
from db.queries import models
from db.queries.models import ModelVersion
from db.session import Database
from worker.embedding.errors import ModelError, ModelUnavailable
from worker.errors import DeviceFailed

if TYPE_CHECKING:
    from worker.embedder import Embedder

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks at which models serve."""
RETRY_AFTER = 30.0
"""Seconds after which a network that could not be loaded is tried again: its files may have been added."""
LINGER = 60.0
"""Seconds that a network stays after its model ceased to serve: a question may still be answered by it."""
OVERLAP = 30.0
"""Seconds in which new pictures are still embedded under a model that was replaced: a process may answer by it."""


@dataclass(eq=False)
class Loaded:
    """A model whose network this process has."""

    model: ModelVersion
    embedder: Embedder
    users: int = 0
    served_at: float = 0.0
    """When its model was seen to serve last, on the monotonic clock."""
    was_active: bool = False


@dataclass(frozen=True)
class Present:
    """Networks that new pictures are embedded with."""

    active: Loaded
    beside: Sequence[Loaded]
    """Of the incoming model, and of one that was replaced a moment ago."""
    incoming: Loaded | None


class Serving:
    """Follows which models serve. Its methods may be called from any thread, once it was started."""

    def __init__(self, database: Database, load: Callable[[ModelVersion], Embedder]) -> None:
        """`load` makes the network of a model; it raises ModelError."""
        self._database = database
        self._load = load
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._loaded: dict[int, Loaded] = {}
        self._failed: dict[int, tuple[float, ModelError]] = {}
        self._serving = models.Serving(None, None)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="serving", daemon=True)

    def start(self) -> None:
        """Load the active model, which there must be, then follow in a thread; raises ModelError."""
        self.look()
        with self._changed:
            active = self._serving.active
            if active is not None and active.pk in self._failed:
                raise self._failed[active.pk][1]
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and let all networks go."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            self._changed.notify_all()
            gone, self._loaded = list(self._loaded.values()), {}
        for each in gone:
            each.embedder.close()

    @contextmanager
    def present(self) -> Iterator[Present]:
        """The networks of now, which stay while the block runs; waits until that of the active model is loaded.

        Raises DeviceFailed when that cannot be loaded: the process is of no use then.
        """
        with self._changed:
            self._changed.wait_for(self._is_ready)
            present = self._present()
            using = {present.active.model.pk: present.active}
            using |= {each.model.pk: each for each in present.beside}
            for each in using.values():
                each.users += 1
        try:
            yield present
        finally:
            self._release(using.values())

    @contextmanager
    def of(self, digest: str | None) -> Iterator[Loaded]:
        """The network of the model with this digest, or of the active one; it is loaded if need be.

        Raises ModelError when it cannot be.
        """
        loaded = self._held(digest)
        if loaded is None:
            self._load_one(self._model(digest))
            loaded = self._held(digest)
        if loaded is None:
            raise self._failure(digest)
        try:
            yield loaded
        finally:
            self._release([loaded])

    @property
    def busy_for(self) -> float:
        """Seconds that any network has been at its batch."""
        with self._changed:
            return max((each.embedder.busy_for for each in self._loaded.values()), default=0.0)

    @property
    def loaded(self) -> list[ModelVersion]:
        """The models whose networks are there."""
        with self._changed:
            return [each.model for each in self._loaded.values()]

    # -- following --------------------------------------------------------------------------------

    def look(self) -> None:
        """See which models serve, load what is missing, let go of what nobody needs. May raise DatabaseError_."""
        with self._database.reading() as session:
            serving = models.serving(session)
        with self._changed:
            self._note(serving)
        for model in (serving.active, serving.incoming):
            if model is not None:
                self._load_one(model)
        with self._changed:
            self._note(serving)
            self._serving = serving
            self._changed.notify_all()
            gone = self._unneeded()
        for each in gone:
            log.info("%s is not needed any more", each.model.name)
            each.embedder.close()

    def _follow(self) -> None:
        while not self._stopping.wait(EVERY):
            try:
                self.look()
            except DatabaseError_ as error:
                log.warning("which models serve is not known at the moment: %s", error)
            except Exception:
                log.exception("a model could not be followed; trying again")

    def _note(self, serving: models.Serving) -> None:
        now = time.monotonic()
        active, incoming = serving.active, serving.incoming
        for pk, each in self._loaded.items():
            is_active = active is not None and active.pk == pk
            if is_active or (incoming is not None and incoming.pk == pk):
                each.served_at, each.was_active = now, is_active

    def _load_one(self, model: ModelVersion) -> None:
        """Load the network of a model, unless it is there, or failed a moment ago."""
        with self._loading:
            with self._changed:
                at, _ = self._failed.get(model.pk, (-RETRY_AFTER, None))
                if model.pk in self._loaded or time.monotonic() - at < RETRY_AFTER:
                    return
            try:
                embedder = self._load(model)
            except Exception as caught:  # a card without room, a folder that is not ours to read
                error = _as_model_error(model, caught)
                log.error("%s is not loaded: %s", model.name, error)  # noqa: TRY400
                with self._changed:
                    self._failed[model.pk] = (time.monotonic(), error)
                return
            with self._changed:
                self._failed.pop(model.pk, None)
                self._loaded[model.pk] = Loaded(model, embedder, served_at=time.monotonic())
            log.info("%s (%s) on %s", model.name, model.digest[:12], embedder.network.device)

    def _unneeded(self) -> list[Loaded]:
        """Take out what nobody needs; the caller closes it."""
        now = time.monotonic()
        gone = [
            each
            for each in self._loaded.values()
            if not each.users and now - each.served_at > LINGER
        ]
        for each in gone:
            del self._loaded[each.model.pk]
        return gone

    # -- what there is ----------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        active = self._serving.active
        if self._stopping.is_set() or active is None:
            raise DeviceFailed("the process is stopping, or no model is active")
        if active.pk in self._loaded:
            return True
        if active.pk in self._failed:
            raise DeviceFailed(str(self._failed[active.pk][1]))
        return False

    def _present(self) -> Present:
        active, incoming = self._serving.active, self._serving.incoming
        assert active is not None
        next_ = self._loaded.get(incoming.pk) if incoming is not None else None
        now = time.monotonic()
        replaced = [
            each
            for each in self._loaded.values()
            if each.was_active and each.model.pk != active.pk and now - each.served_at < OVERLAP
        ]
        beside = [*replaced, *([next_] if next_ is not None and next_ not in replaced else [])]
        return Present(self._loaded[active.pk], beside, next_)

    def _held(self, digest: str | None) -> Loaded | None:
        with self._changed:
            if digest is None and self._serving.active is not None:
                digest = self._serving.active.digest
            for each in self._loaded.values():
                if each.model.digest == digest:
                    each.users += 1
                    each.served_at = max(each.served_at, time.monotonic() - LINGER / 2)
                    return each
        return None

    def _release(self, using: Iterable[Loaded]) -> None:
        with self._changed:
            for each in using:
                each.users -= 1

    def _model(self, digest: str | None) -> ModelVersion:
        with self._database.reading() as session:
            found = models.by_digest(session, digest) if digest else models.active(session)
        if found is None:
            raise ModelError(f"no model {digest or ''} is registered")
        return found

    def _failure(self, digest: str | None) -> ModelError:
        model = self._model(digest)
        with self._changed:
            _, error = self._failed.get(model.pk, (0.0, None))
        return error or ModelError(f"the model {model.name} is not loaded; the log says why")


def _as_model_error(model: ModelVersion, error: Exception) -> ModelError:
    if isinstance(error, ModelError):
        return error
    return ModelUnavailable(f"{model.name} cannot be loaded here: {error}")
