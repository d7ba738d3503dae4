"""What is kept of an item that is given up: its message, without what may be secret in it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from db.queries.dead_letters import NewDeadLetter
from producer.messages import ImageItem, Job, Removal, StoreImage, UrlImage
from producer.reasons import Reason
from producer.redaction import HIDDEN, without_secrets

CUT = f"?{HIDDEN}"


def letter_of(
    job: Job, item: ImageItem | Removal, reason: Reason, detail: str, attempts: int
) -> NewDeadLetter:
    """The dead letter of an item of a job."""
    return NewDeadLetter(
        job_id=job.id,
        product_id=item.product_id,
        name=item.name if isinstance(item, ImageItem) else None,
        reason=reason,
        detail=without_secrets(detail),
        attempts=attempts,
        message=_kept(item),
        created_at=datetime.now(UTC),
    )


def _kept(item: ImageItem | Removal) -> dict[str, Any]:
    if isinstance(item, ImageItem) and isinstance(item.image, UrlImage | StoreImage):
        bare = item.image.model_copy(update={"url": without_secrets(item.image.url)})
        item = item.model_copy(update={"image": bare})
    return item.model_dump(mode="json")


def is_complete(item: ImageItem | Removal) -> bool:
    """Whether it can be sent again as it is kept: an address that was signed was cut, and has run out anyway."""
    if isinstance(item, ImageItem) and isinstance(item.image, UrlImage | StoreImage):
        return not item.image.url.endswith(CUT)
    return True
