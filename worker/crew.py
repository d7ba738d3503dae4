"""Does ingest with the networks that are there at the moment: whoever serves when a chunk is begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from db.queries.models import ModelVersion
from db.session import Database
from producer.ledger import Claim, Ledger
from producer.messages import ImageRef, IngestChunk, Outcome
from worker.images.fetch import Picture
from worker.ingest import Ingester
from worker.preparing import Preparer, Target
from worker.quarantine import Quarantine
from worker.serving import Loaded, Present, Serving


@dataclass(frozen=True)
class Crew:
    """Embeds each chunk under the active model, and under the incoming one besides. Several threads may call it.

    A model that was replaced a moment ago counts, too: some process may still answer by it.
    """

    database: Database
    ledger: Ledger
    serving: Serving
    fetch: Callable[[ImageRef], Picture]
    executor: Executor
    open_quarantine: Callable[[ModelVersion], Quarantine]
    on_commit: Callable[[int, float], object] | None = None
    """As `Ingester.on_commit`."""
    _quarantines: dict[int, Quarantine] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ingest(self, claim: Claim[IngestChunk]) -> Outcome:
        """As `Ingester.ingest`; also raises DeviceFailed when the active model's network cannot be loaded."""
        with self.serving.present() as present:
            return self._ingester(present).ingest(claim)

    def close(self) -> None:
        """Let the quarantines' processes go."""
        with self._lock:
            for each in self._quarantines.values():
                each.close()

    def _ingester(self, present: Present) -> Ingester:
        active = present.active
        preparer = Preparer(
            database=self.database,
            model_version_pk=active.model.pk,
            fetch=self.fetch,
            decode_many=active.embedder.decode_many,
            embed=active.embedder.embed,
            executor=self.executor,
            beside=[_target(each) for each in present.beside],
        )
        return Ingester(
            database=self.database,
            ledger=self.ledger,
            model_version_pk=active.model.pk,
            prepare=preparer.prepare,
            quarantine=lambda items: self._quarantine(active.model).prepare(items),
            on_commit=self.on_commit,
        )

    def _quarantine(self, model: ModelVersion) -> Quarantine:
        with self._lock:
            if model.pk not in self._quarantines:
                self._quarantines[model.pk] = self.open_quarantine(model)
            return self._quarantines[model.pk]


def _target(loaded: Loaded) -> Target:
    embedder = loaded.embedder
    return Target(loaded.model.pk, embedder.decode_bare, embedder.embed)
