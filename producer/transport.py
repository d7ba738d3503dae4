"""What carries a producer's messages: Redis, or in a shop's own tests a recording (`producer.recording`)."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from producer.depths import depths, lengths
from producer.errors import QueueUnavailable, SettingsError
from producer.ledger import Ledger
from producer.mailbox import LookupState, Mailbox
from producer.messages import (
    Answer,
    Job,
    Message,
    Outcome,
    Question,
    QueueStatus,
)
from producer.pictures import PictureStore
from producer.settings import ProducerSettings
from producer.signing import Signer

if TYPE_CHECKING:
    from celery import Celery

C = TypeVar("C")

CONNECT_TIMEOUT = 3.0
SOCKET_TIMEOUT = 30.0
"""Seconds; longer than the workers' blocking pop, so that waiting for work is no error."""
HEALTH_CHECK_EVERY = 25
CONNECTIONS = 10
"""Threads of one process that can publish at the same moment; more wait for their turn."""


_ADDRESS = re.compile(
    r"(?:(?P<scheme>rediss?)://(?:[^/?#]*@)?(?P<server>(?:[\w.-]*|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?)"
    r"(?P<database>/\d*)?"
    r"|unix://(?:[^/?#]*@)?(?P<socket>/[^?#@]*))"
    r"(?:\?[^#@]*)?"
)
_BAD_ADDRESS = (
    "LOOKALIKE_REDIS_URL is not a Redis address: write redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]; "
    "in the user and password every character but letters and digits must be percent-encoded (@ is %40, / is %2F)"
)


class Transport(Protocol):
    """What a producer needs of the other side. Any call may raise QueueUnavailable."""

    def backlog(self) -> int:
        """Jobs accepted and not yet applied."""

    def store(self, pictures: Mapping[str, bytes], ttl: float) -> None:
        """Keep bytes for at least `ttl` seconds, by their SHA-256, for the messages that name them."""

    def accept(self, jobs: Sequence[Job]) -> int:
        """Write jobs down, then publish them; returns the backlog after it."""

    def ask(self, question: Question) -> None:
        """Open the question's mailbox, then publish it."""

    def state_of(self, question_id: str) -> LookupState:
        """The state of a question."""

    def wait(self, question_id: str, timeout: float | None) -> tuple[LookupState, Answer | None]:
        """The state and answer of a question, once final or after `timeout` seconds."""

    def outcomes(self, job_ids: Sequence[str]) -> list[Outcome | None]:
        """What became of each job."""

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs that are neither waiting nor remembered."""

    def queues(self) -> tuple[QueueStatus, ...]:
        """The messages of each queue."""

    def close(self) -> None:
        """Let go of every connection."""


@dataclass(frozen=True)
class _Sender:
    """A Celery app with connections of its own, of one process: a fork must not share its sockets."""

    pid: int
    app: Celery
    connections: Any  # kombu has no types
    producers: Any

    @classmethod
    def make(cls, settings: ProducerSettings) -> _Sender:
        """A sender for this process; nothing is connected yet."""
        from kombu.pools import ProducerPool

        from producer.broker import celery_app

        app = celery_app(settings)
        connections = app.connection_for_write().Pool(limit=CONNECTIONS)
        return cls(os.getpid(), app, connections, ProducerPool(connections, limit=CONNECTIONS))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Let go of the connections."""
        self.producers.force_close_all()
        self.connections.force_close_all()
        self.app.close()


class RedisTransport:
    """Redis, by connections that are made on first use, shared by threads and made anew after a fork."""

    def __init__(self, settings: ProducerSettings) -> None:
        self._settings = settings
        self._redis = connect(settings)
        self._mailbox = Mailbox(self._redis, settings.lookup_ttl)
        self._ledger = Ledger(self._redis, signer=Signer.of(settings.signing_keys))
        self._pictures = PictureStore(self._redis)
        self._may_look = True
        self._sender: _Sender | None = None
        self._lock = threading.Lock()

    def backlog(self) -> int:
        """Jobs accepted and not yet applied."""
        with self._reaching():
            return self._ledger.size()

    def store(self, pictures: Mapping[str, bytes], ttl: float) -> None:
        """Keep bytes for at least `ttl` seconds, by their SHA-256, for the messages that name them."""
        with self._reaching():
            self._pictures.put(pictures, ttl)

    def accept(self, jobs: Sequence[Job]) -> int:
        """Write jobs down, then publish them; returns the backlog after it."""
        with self._reaching():
            backlog = self._ledger.accept(jobs)
            self._publish(jobs)
            return backlog

    def ask(self, question: Question) -> None:
        """Open the question's mailbox, then publish it."""
        with self._reaching():
            left = question.expires_at - time.time()
            self._mailbox.open(question.id, max(left, question.kept))
            self._publish([question])

    def state_of(self, question_id: str) -> LookupState:
        """The state of a question."""
        with self._reaching():
            return self._mailbox.state(question_id)

    def wait(self, question_id: str, timeout: float | None) -> tuple[LookupState, Answer | None]:
        """The state and answer of a question, once final or after `timeout` seconds."""
        with self._reaching():
            answer = self._mailbox.wait(question_id, timeout)
            return self._mailbox.state_of(question_id, answer), answer

    def outcomes(self, job_ids: Sequence[str]) -> list[Outcome | None]:
        """What became of each job."""
        with self._reaching():
            return self._ledger.outcomes(job_ids)

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the jobs that are neither waiting nor remembered."""
        with self._reaching():
            return self._ledger.missing(job_ids)

    def queues(self) -> tuple[QueueStatus, ...]:
        """The messages of each queue, in one round trip; to a user who may not look, how many wait."""
        with self._reaching():
            if self._may_look:
                try:
                    return depths(self._redis)
                except ResponseError:
                    self._may_look = False
            return lengths(self._redis)

    def close(self) -> None:
        """Let go of every connection; the next call would make new ones."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None and sender.pid == os.getpid():
            sender.close()
        self._redis.close()

    def _publish(self, messages: Sequence[Message]) -> None:
        from producer.broker import send

        sender = self._current_sender()
        with sender.producers.acquire(block=True) as producer:
            for message in messages:
                send(sender.app, message, producer=producer)

    def _current_sender(self) -> _Sender:
        with self._lock:
            if self._sender is None or self._sender.pid != os.getpid():
                self._sender = _Sender.make(self._settings)
            return self._sender

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn whatever a lost connection raises into one error that says what to do."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise self._unavailable(error) from error
        except Exception as error:
            from kombu.exceptions import OperationalError

            if not isinstance(error, OperationalError):
                raise
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> QueueUnavailable:
        return unavailable(error, self._settings.redis_url.get_secret_value())


def connect(settings: ProducerSettings) -> Redis:
    """A client of the settings' Redis; nothing is connected yet. Raises SettingsError for a bad address.

    The one way to a client: all of the shop and the service have the same timeouts, and give up alike.
    """
    return client(Redis.from_url, settings, retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2))


def client(from_url: Callable[..., C], settings: ProducerSettings, **options: Any) -> C:
    """A client of any kind that redis-py has, made by its `from_url`. Raises SettingsError for a bad address."""
    url = settings.redis_url.get_secret_value()
    if _address(url) is None:
        raise SettingsError(_BAD_ADDRESS)
    # A Unix socket refuses the option instead of ignoring it.
    keepalive = {} if url.startswith("unix://") else {"socket_keepalive": True}
    timeouts = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": SOCKET_TIMEOUT}
    try:
        return from_url(
            url, health_check_interval=HEALTH_CHECK_EVERY, **keepalive, **(timeouts | options)
        )
    except (ValueError, TypeError):
        # What the parser says may quote a password that it took for a port.
        raise SettingsError(f"{_BAD_ADDRESS} (it is {public_address(url)})") from None


def unavailable(error: BaseException, url: str) -> QueueUnavailable:
    """What to raise for `error`, met while using the Redis at `url`: it says what is wrong and what to do."""
    address = public_address(url)
    causes = (error, error.__cause__, error.__context__)  # the broker wraps what it met
    if any(isinstance(each, AuthenticationError | NoPermissionError) for each in causes):
        return QueueUnavailable(
            f"Redis at {address} refused the user or password ({error}): set them in LOOKALIKE_REDIS_URL"
        )
    if any(isinstance(each, OutOfMemoryError) for each in causes):
        return QueueUnavailable(
            f"Redis at {address} is full ({error}): raise its maxmemory, and everything goes on"
        )
    if any(isinstance(each, TimeoutError | RedisTimeoutError) for each in causes):
        return QueueUnavailable(
            f"Redis at {address} does not answer in time ({error}): it is overloaded, or "
            "LOOKALIKE_REDIS_URL names a host that cannot be reached"
        )
    return QueueUnavailable(
        f"Redis at {address} cannot be used ({error}): start it (`lookalike-worker up` brings its own), "
        "or set LOOKALIKE_REDIS_URL"
    )


def public_address(url: str) -> str:
    """The address of a server without user, password and options, fit for a message.

    Built from the parts that are surely no secret; of anything else only the scheme is shown.
    """
    shown = _address(url)
    if shown is not None:
        return shown
    scheme = next(
        (each for each in ("redis", "rediss", "unix") if url.startswith(f"{each}://")), ""
    )
    return f"{scheme}://…"


def _address(url: str) -> str | None:
    """Scheme, host, port and database; None where a secret might be taken for one of them.

    A password that is not percent-encoded may hold any of `/?#@:`, and moves the bounds of what follows: then
    an `@` is left behind the first of `/?#`.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return None
    parts = found.groupdict()
    if parts["socket"] is not None:
        return f"unix://{parts['socket']}"
    return f"{parts['scheme']}://{parts['server']}{parts['database'] or ''}"
