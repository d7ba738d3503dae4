"""The one error of a picture that cannot be used, with the reason code that reaches the caller."""

from __future__ import annotations

from producer.reasons import Reason


class ImageError(Exception):
    """A picture that could not be fetched, decoded or embedded.

    `reason` is a stable code, `detail` one line for people and free of secrets; `transient` is true
    where trying again later may help.
    """

    def __init__(self, reason: Reason, detail: str, *, transient: bool = False) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.transient = transient
