"""How the gateway is watched: whether it is stuck, whether it is ready, and its figures, on a port apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as NotInTime
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from producer.endpoint import Verdict, offered
from producer.gateway import measures
from producer.gateway.gateway import Gateway
from producer.gateway.settings import GatewaySettings
from producer.metering import exposition
from producer.transport import client, unavailable

TURNS_WITHIN = 3.0
"""Seconds in which an event loop that is not stuck comes to everything that waits for it."""
ANSWERS_WITHIN = 2.0
"""Seconds in which Redis must answer."""


@contextmanager
def watched(settings: GatewaySettings, gateway: Gateway) -> Iterator[None]:
    """Serve LOOKALIKE_METRICS_PORT while the block runs; a port that is taken keeps nobody from working."""
    if not settings.metrics_port:
        yield
        return
    measures.watch(gateway)
    redis = client(
        Redis.from_url, settings, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWERS_WITHIN
    )
    try:
        with offered(
            settings.metrics_host,
            settings.metrics_port,
            metrics=exposition(measures.REGISTRY),
            live=lambda: live(gateway.loop),
            ready=lambda: ready(settings, redis, gateway),
        ):
            yield
    finally:
        redis.close()


def live(loop: asyncio.AbstractEventLoop | None) -> Verdict:
    """Whether the event loop still turns."""
    if loop is None or loop.is_closed():
        return Verdict(well=True, document={"role": "gateway", "state": "starting"})
    turned = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
    try:
        turned.result(TURNS_WITHIN)
    except NotInTime:
        turned.cancel()
        complaint = f"the event loop has not turned for {TURNS_WITHIN:.0f} s"
        return Verdict(False, {"role": "gateway", "state": "stuck", "complaints": [complaint]})
    return Verdict(True, {"role": "gateway", "state": "working", "complaints": []})


def ready(settings: GatewaySettings, redis: Redis, gateway: Gateway) -> Verdict:
    """Whether it takes requests, and reaches the queue."""
    document: dict[str, object] = {"role": "gateway", "redis": _answers(settings, redis.ping)}
    if gateway.loop is None:
        document["state"] = "starting"
    elif gateway.mailboxes.closing:
        document["state"] = "stopping"
    else:
        document["state"] = "consuming"
    well = document["redis"] == "ok" and document["state"] == "consuming"
    return Verdict(well, document)


def _answers(settings: GatewaySettings, ask: Callable[[], object]) -> str:
    try:
        ask()
    except (RedisError, OSError) as error:
        return str(unavailable(error, settings.redis_url.get_secret_value()))
    return "ok"
