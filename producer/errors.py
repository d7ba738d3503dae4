"""Everything that the producer raises.

LookalikeError
├── SettingsError            a LOOKALIKE_… variable is missing or wrong
├── InvalidRequest           an argument that no worker could serve (also a ValueError)
│   └── CatalogueFileError   a CSV, JSONL or folder that cannot be read, with its line
├── QueueUnavailable         Redis cannot be reached
├── QueueFull                the service is behind by more than the allowed backlog
├── ServiceUnresponsive      the question is queued, but no worker took it in time
├── JobTimeout               accepted, and neither applied nor given up yet (also a TimeoutError)
├── UnknownJob               a job that is neither waiting nor remembered
└── LookupError_             a lookup that has no reply
    ├── LookupTimeout        not yet (also a TimeoutError)
    ├── LookupExpired        not any more
    ├── UnknownLookup        never asked here
    ├── ProductNotFound      the product asked about is not in the catalogue
    ├── PictureRejected      the picture asked about cannot be used; `reason` says why
    └── LookupFailed         the worker could not answer; `reason` says why
"""

from __future__ import annotations

import inspect
from typing import ClassVar

from producer.reasons import Reason

__all__ = [
    "CatalogueFileError",
    "InvalidRequest",
    "JobTimeout",
    "LookalikeError",
    "LookupError_",
    "LookupExpired",
    "LookupFailed",
    "LookupTimeout",
    "PictureRejected",
    "ProductNotFound",
    "QueueFull",
    "QueueUnavailable",
    "ServiceUnresponsive",
    "SettingsError",
    "UnknownJob",
    "UnknownLookup",
]


class LookalikeError(Exception):
    """Lookalike could not do what was asked."""

    exit_code: ClassVar[int] = 1
    """What a command that ends with this error exits with: 1 failed, 2 bad usage."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))


class SettingsError(LookalikeError):
    """A LOOKALIKE_ variable is missing or wrong."""

    exit_code = 2


class InvalidRequest(LookalikeError, ValueError):
    """An argument is one that no worker could serve."""

    exit_code = 2


class CatalogueFileError(InvalidRequest):
    """The catalogue file cannot be read."""


class QueueUnavailable(LookalikeError):
    """Redis cannot be reached: start it, or set LOOKALIKE_REDIS_URL."""


class QueueFull(LookalikeError):
    """The service is behind: try again later, start more workers, or raise LOOKALIKE_MAX_BACKLOG."""

    accepted: int = 0
    """Rows of this call that were accepted before the queue was full."""


class ServiceUnresponsive(LookalikeError):
    """No worker answered in time: start one with `lookalike-worker up`, or wait longer."""


class JobTimeout(LookalikeError, TimeoutError):
    """The job is accepted, and neither applied nor given up yet: wait longer, nothing is lost."""


class UnknownJob(LookalikeError):
    """The job is neither waiting nor remembered: its id is wrong, or it ended too long ago."""


class LookupError_(LookalikeError):  # noqa: N801 - the builtin LookupError is something else
    """The lookup has no reply."""


class LookupTimeout(LookupError_, TimeoutError):
    """The lookup is not answered yet: ask again by its id, or check `lookalike status`."""


class LookupExpired(LookupError_):
    """The lookup's reply is kept no longer (LOOKALIKE_LOOKUP_TTL seconds): ask the question again."""


class UnknownLookup(LookupError_):
    """No lookup of this id was asked here: check the id, and that LOOKALIKE_REDIS_URL is the same."""


class _Reasoned(LookupError_):
    """A lookup that a worker gave up, with the worker's reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{detail} ({reason.value})")
        self.args = (reason, detail)  # what pickle and copy call __init__ with
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.reason.value})"


class ProductNotFound(LookupError_):
    """The product is not in the catalogue: check its id, or add it first."""

    def __init__(self, product_id: str) -> None:
        super().__init__(product_id)  # what pickle and copy call __init__ with
        self.product_id = product_id

    def __str__(self) -> str:
        return f"product {self.product_id!r} is not in the catalogue: check its id, or add it first"


class PictureRejected(_Reasoned):
    """The picture asked about cannot be used: `reason` and `detail` say why."""


class LookupFailed(_Reasoned):
    """The worker could not answer: `reason` and `detail` say why."""
