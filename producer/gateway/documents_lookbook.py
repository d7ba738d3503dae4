"""The documents behind the lookbook."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class AccessDocument(BaseModel):
    """What the caller may do."""

    open: bool
    """Whether there are no keys: whoever is on this machine may do everything."""
    scopes: list[Literal["read", "write"]]
