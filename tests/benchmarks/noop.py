"""A task that does nothing, on the same worker process as Lookalike's own: what Celery itself costs.

`python -m tests.benchmarks.noop` runs a search worker that knows it, with settings from the environment.
"""

from __future__ import annotations

import logging
import sys
from functools import cached_property

from celery import Task, shared_task
from celery.backends.redis import RedisBackend

from producer.settings import load
from worker.process import run
from worker.roles import Role
from worker.settings import WorkerSettings
from worker.tether import tether

NAME = "benchmarks.noop"
MESSAGE = "{}"


class Ordinary(Task):  # type: ignore[misc]
    """As Celery's defaults are: acknowledged early, its result kept by Celery's Redis backend."""

    acks_late = False
    ignore_result = False

    @cached_property
    def backend(self) -> RedisBackend:
        """A backend of its own: the app of Lookalike's workers has none."""
        return RedisBackend(app=self.app, url=self.app.conf.broker_url)


@shared_task(base=Ordinary, name=NAME)
def noop(_message: str) -> None:
    """Do nothing with a message: workers refuse a task that has none."""


if __name__ == "__main__":
    tether()
    logging.basicConfig(level=logging.INFO)
    sys.exit(run(Role.SEARCH, load(WorkerSettings), include=["tests.benchmarks.noop"]))
