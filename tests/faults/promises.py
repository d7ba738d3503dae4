"""Every promise that is tried, in the order in which they are printed."""

from __future__ import annotations

from tests.faults.promise import Promise

PROMISES: tuple[Promise, ...] = ()
