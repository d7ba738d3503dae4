"""The `lookalike` command."""

from producer.cli.commands import main

__all__ = ["main"]
