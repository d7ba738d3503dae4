"""Errors of the service that are not about a picture, a model, the index or SQL."""

from __future__ import annotations


class StartError(Exception):
    """A process that cannot start as it is set up; the message names what to change."""


class DeviceFailed(Exception):
    """The network cannot embed even a blank picture: the device is to blame, and a new process may help."""
