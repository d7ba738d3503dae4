"""The one place that says how Celery talks to Redis; the producer sends with it, the workers extend it."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import quote

from celery import Celery
from kombu.entity import Queue as BrokerQueue
from redis.connection import parse_url

from producer import keys, tracing
from producer.ids import new_id
from producer.messages import Message, Queue
from producer.settings import ProducerSettings
from producer.signing import Signer
from producer.transport import CONNECT_TIMEOUT, HEALTH_CHECK_EVERY, SOCKET_TIMEOUT

VISIBILITY_TIMEOUT = 600
"""Seconds after which Redis gives an un-acknowledged message to another worker.

Longer than the longest late-acknowledged task, and the same in every process on this Redis.
"""


class _App(Celery):  # type: ignore[misc]
    """Celery, with ids of ours, which say when a message was sent: of beat's ticks, too."""

    def send_task(self, *args: Any, task_id: str | None = None, **options: Any) -> Any:
        """As Celery's."""
        return super().send_task(*args, task_id=task_id or new_id(), **options)


def celery_app(settings: ProducerSettings) -> Celery:
    """A Celery app of our own on the settings' Redis, beside whatever Celery app the shop has."""
    url = settings.redis_url.get_secret_value()
    app = _App("lookalike", set_as_current=False)
    app.signer = Signer.of(settings.signing_keys)
    app.conf.update(
        broker_url=_broker_url(url),
        broker_use_ssl=_ssl(url),
        broker_transport_options=_transport_options(),
        broker_connection_retry_on_startup=True,
        # An entry of the shop's own environment must not redirect our messages.
        broker_read_url=_broker_url(url),
        broker_write_url=_broker_url(url),
        task_queues=[_queue(name) for name in Queue],
        task_default_queue=Queue.CONTROL.value,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2},
        enable_utc=True,
    )
    return app


def send(
    app: Celery, message: Message, *, expires: float | None = None, producer: Any = None
) -> None:
    """Put a message on its queue. It is dropped unread after `expires` seconds, if given.

    `producer` is a kombu producer of the app's own to send with; one is taken from its pool if not given.
    """
    id_ = getattr(message, "id", None) or new_id()
    with tracing.span(
        f"send {message.queue.value}",
        "producer",
        messaging__system="celery",
        messaging__operation__type="send",
        messaging__destination__name=message.queue.value,
        messaging__message__id=id_,
        lookalike__task=message.task,
    ):
        app.send_task(
            message.task,
            args=arguments(app, message),
            queue=message.queue.value,
            task_id=id_,  # the same in the workers' logs
            argsrepr="…",  # costs more than the rest of sending, and would put the shop's data into headers
            headers=tracing.headers() or None,
            expires=expires,
            producer=producer,
        )


def arguments(app: Celery, message: Message) -> list[Any]:
    """What a task is given: the message and, where there are keys, its signature."""
    body = message.model_dump(mode="json")
    return [body, app.signer.sign(message.task, body)] if app.signer else [body]


def _queue(name: Queue) -> BrokerQueue:
    """A queue on the nameless exchange, which Redis publishes to in one step, with no look-up of bindings."""
    return BrokerQueue(name.value, routing_key=name.value)  # type: ignore[no-untyped-call]


def _url_parts(url: str) -> dict[str, Any]:
    return cast("dict[str, Any]", parse_url(url))  # type: ignore[no-untyped-call]


def _transport_options() -> dict[str, Any]:
    return {
        "global_keyprefix": keys.PREFIX,
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "queue_order_strategy": "priority",
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_EVERY,
    }


def _broker_url(url: str) -> str:
    """The same server in the broker's spelling, which knows a Unix socket by another scheme."""
    if not url.startswith("unix://"):
        return url
    parts = _url_parts(url)
    user, password = parts.get("username") or "", parts.get("password") or ""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    return f"redis+socket://{login}{parts['path']}?virtual_host={parts.get('db', 0)}"


def _ssl(url: str) -> dict[str, Any] | None:
    """TLS options that redis-py reads from the query; the certificate is checked unless they say otherwise."""
    if not url.startswith("rediss://"):
        return None
    options = {key: value for key, value in _url_parts(url).items() if key.startswith("ssl_")}
    return {"ssl_cert_reqs": "required", **options}
