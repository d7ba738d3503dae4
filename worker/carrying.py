"""Threads that work for whoever calls them, and carry the call's context: which message it is for, its trace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class CarryingExecutor(ThreadPoolExecutor):
    """Runs each call in a copy of its caller's context."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As of any executor."""
        return super().submit(copy_context().run, fn, *args, **kwargs)
