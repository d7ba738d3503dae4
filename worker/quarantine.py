"""Tries the pictures of a chunk that workers died with one by one, in a process that may die of them instead.

The one that still does is given up; the others come back as if nothing had been. Only a living witness blames a
picture: where processes are killed for other reasons, nothing is held against what they worked on.

`python -m worker.quarantine DESCRIPTOR MODEL` is that process: an `Embedder` of the model with that key in the
catalogue, that answers on a socket, in JSON.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from db.queries import catalogue, models
from db.session import Database
from producer.messages import ImageItem, ImageRef
from producer.reasons import Reason
from producer.settings import load
from producer.transport import connect
from worker import shelf
from worker.embedding.library import ModelSource
from worker.errors import DeviceFailed
from worker.images.errors import ImageError
from worker.preparing import NO_VECTOR, Pictured, Prepared, Refused
from worker.settings import WorkerSettings
from worker.tether import PARENT, tether

if TYPE_CHECKING:
    from worker.embedder import Embedder

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.quarantine")
START_TIMEOUT = 120.0
IDLE = 60.0
"""Seconds without a chunk after which the process, and its copy of the network, are let go."""
MAX_ANSWER = 1 << 20
_REF: TypeAdapter[ImageRef] = TypeAdapter(ImageRef)


class _Died(Exception):
    """The process ended, or did not answer in time, over a picture."""


@dataclass(frozen=True)
class _Tried:
    """What came of a picture."""

    pictured: Pictured
    vector: NDArray[np.float32]
    thumbnail: bytes


class Quarantine:
    """One process for suspects, started when it is needed. Safe to call from several threads, which take turns."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        model_version_pk: int,
        command: Sequence[str] | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._model_version_pk = model_version_pk
        self._command = command or COMMAND
        self._timeout = settings.fetch_timeout + settings.decode_timeout + settings.embed_timeout
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._idle: threading.Timer | None = None

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """As `Preparer.prepare`, of a chunk that workers died with: what kills its process is refused for good.

        Raises DatabaseUnavailable, and DeviceFailed when no process can be started.
        """
        log.warning("trying %d pictures one by one: workers died with them", len(items))
        with self._lock:
            self._wake()
            results = [self._try(item) for item in items]
            self._rest()
        tried = [each for each in results if isinstance(each, _Tried)]
        new = self._new({each.pictured.sha256 for each in tried})
        return Prepared(
            [each.pictured for each in tried],
            [each for each in results if isinstance(each, Refused)],
            {each.pictured.sha256: each.vector for each in tried if each.pictured.sha256 in new},
            {each.pictured.sha256: each.thumbnail for each in tried if each.pictured.sha256 in new},
        )

    def _new(self, digests: set[bytes]) -> set[bytes]:
        """Those of which the catalogue has no vector."""
        with self._database.reading() as session:
            return digests - catalogue.known_embeddings(session, digests, self._model_version_pk)

    def _try(self, item: ImageItem) -> _Tried | Refused:
        if self._child is None:
            self._child = _Child(self._command, self._settings, self._model_version_pk)
        try:
            answer = self._child.ask(item.image, self._timeout)
        except _Died as died:
            log.error("a picture of %r is given up: %s", item.product_id, died)  # noqa: TRY400
            self._stop()
            return Refused(item, ImageError(Reason.WORKER_FAILED, str(died)))
        if "reason" in answer:
            reason, detail = Reason(answer["reason"]), answer["detail"]
            return Refused(item, ImageError(reason, detail, transient=answer["transient"]))
        return _Tried(
            Pictured(item, bytes.fromhex(answer["sha256"]), answer["source"]),
            np.frombuffer(base64.b64decode(answer["vector"]), "<f4"),
            base64.b64decode(answer["thumbnail"]),
        )

    # -- its process ------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _rest(self) -> None:
        self._idle = threading.Timer(IDLE, self.close)
        self._idle.daemon = True
        self._idle.start()

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def close(self) -> None:
        """Let the process go; the next suspect starts another."""
        with self._lock:
            self._wake()
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Child:
    """The process, and our end of its socket."""

    def __init__(
        self, command: Sequence[str], settings: WorkerSettings, model_version_pk: int
    ) -> None:
        """Raises DeviceFailed when it does not come up."""
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            (*command, str(theirs.fileno()), str(model_version_pk)),
            env=os.environ | settings.environment() | {PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        try:
            self._receive(START_TIMEOUT)
        except _Died as died:
            self.close()
            raise DeviceFailed(f"no process to try pictures in could be started: {died}") from died

    def ask(self, image: ImageRef, timeout: float) -> dict[str, Any]:
        """What it makes of a picture; raises _Died."""
        try:
            self._connection.send_bytes(_REF.dump_json(image))
        except OSError as error:
            raise _Died(self._end()) from error
        answer: dict[str, Any] = json.loads(self._receive(timeout))
        return answer

    def _receive(self, timeout: float) -> bytes:
        if not self._connection.poll(timeout):
            raise _Died(f"it was not done in {timeout:.0f} s, and workers had died with it before")
        try:
            return self._connection.recv_bytes(MAX_ANSWER)
        except (EOFError, OSError) as error:
            raise _Died(self._end()) from error

    def _end(self) -> str:
        code = self._process.wait(timeout=10)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"it ended a process of its own ({how}), and workers had died with it before"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


# -- in the process -------------------------------------------------------------------------------


def main() -> None:
    """Answer until the other end hangs up."""
    from worker.embedder import Embedder

    tether()
    settings = load(WorkerSettings)
    connection = Connection(int(sys.argv[1]))
    source = _source(settings, int(sys.argv[2]))
    with connect(settings) as redis, Embedder(settings, redis, source) as embedder:
        connection.send_bytes(b"ready")
        while True:
            try:
                image = _REF.validate_json(connection.recv_bytes())
            except EOFError:
                return
            connection.send_bytes(json.dumps(_answer(embedder, image)).encode())


def _source(settings: WorkerSettings, model_version_pk: int) -> ModelSource:
    """The files of the model that the pictures are of."""
    database = Database(settings.database)
    try:
        with database.reading() as session:
            model = models.by_pk(session, model_version_pk)
    finally:
        database.close()
    assert model is not None, "models are never deleted"
    return shelf.find(settings, model)


def _answer(embedder: Embedder, image: ImageRef) -> dict[str, object]:
    try:
        picture = embedder.fetch(image)
        (decoded,) = embedder.decode_many([picture.data])
    except ImageError as error:
        return _refusal(error)
    if isinstance(decoded, ImageError):
        return _refusal(decoded)
    (vector,) = embedder.embed(decoded.pixels[np.newaxis])
    if not np.isfinite(vector).all():
        return _refusal(ImageError(Reason.BAD_VECTOR, NO_VECTOR))
    return {
        "sha256": picture.content_sha256.hex(),
        "source": picture.source,
        "vector": base64.b64encode(vector.astype("<f4").tobytes()).decode(),
        "thumbnail": base64.b64encode(decoded.thumbnail).decode(),
    }


def _refusal(error: ImageError) -> dict[str, object]:
    return {"reason": error.reason, "detail": error.detail, "transient": error.transient}


if __name__ == "__main__":
    main()
