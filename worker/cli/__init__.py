"""The `lookalike-worker` command."""

from worker.cli.main import app, main
from worker.cli.shell import ProcessName

__all__ = ["ProcessName", "app", "main"]
