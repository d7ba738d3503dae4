"""A transport of kombu over Redis that outlives what is no message: it is refused, and does not end the worker."""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from worker.intake import Refuse, Refused

ALIAS = "lookalike"
REFUSE = "refuse"
"""The transport option with what a refused message is given to."""


class Channel(redis.Channel):
    """Takes from a queue what is JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:  # it has been taken off by then
            found = getattr(error, "doc", getattr(error, "object", b""))
            _refuse(self.connection, Refused("it is not JSON", body=found))
            raise Empty from None


class Transport(redis.Transport):
    """Hands on what has the form of kombu's messages."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        if _is_envelope(message):
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        else:
            _refuse(self, Refused("it is not a message of Celery's", queue, body=repr(message)))


def _is_envelope(message: Any) -> bool:
    """Whether it has all that is used of it before a consumer sees it."""
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        return False
    properties = message["properties"]
    return (
        isinstance(message.get("body"), str)
        and isinstance(message.get("headers"), dict)
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(properties.get("delivery_info"), dict)
        and properties.get("body_encoding") in {None, "base64"}
    )


def _refuse(transport: Any, refused: Refused) -> None:
    refuse: Refuse = transport.client.transport_options[REFUSE]
    refuse(refused)


def register() -> None:
    """Make it known to kombu by its alias."""
    TRANSPORT_ALIASES[ALIAS] = f"{__name__}:Transport"
