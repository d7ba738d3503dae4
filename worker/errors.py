"""Errors of the service that are not about a picture, a model, the index or SQL."""

from __future__ import annotations


class StartError(Exception):
    """A process that cannot start as it is set up; the message names what to change."""


class RolloutRefused(Exception):
    """A model that cannot be rolled out, or given up: everything stays as it is, and the message says why."""


class DeviceFailed(Exception):
    """The network cannot embed even a blank picture: the device is to blame, and a new process may help."""
