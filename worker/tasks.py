"""The Celery tasks: parse the message, give it to its handler. Nothing imports this module but Celery.

Signatures were looked at by then (`worker.intake`).
"""

from __future__ import annotations

from celery import shared_task

from producer.browsing import (
    Browse,
    CategoryList,
    Discard,
    FailureList,
    GenerationList,
    PastLookup,
    Requeue,
)
from producer.comparison import Comparison, ProductList
from producer.judging import JudgeMatch, JudgementList
from producer.messages import (
    IngestChunk,
    PictureLookup,
    ProductLookup,
    Reindex,
    RemoveChunk,
    StatusRequest,
    SweepLedger,
    TasteLookup,
    ThumbnailRequest,
    WatchIndex,
)
from worker.process import handle


@shared_task(name=IngestChunk.task)
def ingest(body: object, signature: str = "") -> None:
    """Make a chunk of pictures searchable."""
    handle(IngestChunk, body)


@shared_task(name=RemoveChunk.task)
def remove(body: object, signature: str = "") -> None:
    """Take products out."""
    handle(RemoveChunk, body)


@shared_task(name=ProductLookup.task)
def lookup(body: object, signature: str = "") -> None:
    """Answer a lookup by products."""
    handle(ProductLookup, body)


@shared_task(name=TasteLookup.task)
def taste(body: object, signature: str = "") -> None:
    """Answer a lookup by several products together."""
    handle(TasteLookup, body)


@shared_task(name=PictureLookup.task)
def query(body: object, signature: str = "") -> None:
    """Answer a lookup by picture."""
    handle(PictureLookup, body)


@shared_task(name=StatusRequest.task)
def status(body: object, signature: str = "") -> None:
    """Say how the service is."""
    handle(StatusRequest, body)


@shared_task(name=ThumbnailRequest.task)
def thumbnails(body: object, signature: str = "") -> None:
    """Give small pictures of products."""
    handle(ThumbnailRequest, body)


@shared_task(name=Comparison.task)
def compare(body: object, signature: str = "") -> None:
    """Compare a shop's pictures with the catalogue's."""
    handle(Comparison, body)


@shared_task(name=ProductList.task)
def products(body: object, signature: str = "") -> None:
    """List the catalogue's products."""
    handle(ProductList, body)


@shared_task(name=Browse.task)
def browse(body: object, signature: str = "") -> None:
    """Give a page of the catalogue."""
    handle(Browse, body)


@shared_task(name=CategoryList.task)
def categories(body: object, signature: str = "") -> None:
    """Count the products of each category."""
    handle(CategoryList, body)


@shared_task(name=GenerationList.task)
def generations(body: object, signature: str = "") -> None:
    """List the generations that are kept."""
    handle(GenerationList, body)


@shared_task(name=PastLookup.task)
def past(body: object, signature: str = "") -> None:
    """Answer a lookup as a kept generation would have."""
    handle(PastLookup, body)


@shared_task(name=FailureList.task)
def failures(body: object, signature: str = "") -> None:
    """Give a page of what was given up."""
    handle(FailureList, body)


@shared_task(name=Requeue.task)
def requeue(body: object, signature: str = "") -> None:
    """Send again what was given up."""
    handle(Requeue, body)


@shared_task(name=Discard.task)
def discard(body: object, signature: str = "") -> None:
    """Forget what was given up."""
    handle(Discard, body)


@shared_task(name=JudgeMatch.task)
def judge(body: object, signature: str = "") -> None:
    """Keep what somebody thinks of a match."""
    handle(JudgeMatch, body)


@shared_task(name=JudgementList.task)
def judgements(body: object, signature: str = "") -> None:
    """Give what anybody thinks of a product's matches."""
    handle(JudgementList, body)


@shared_task(name=WatchIndex.task)
def watch_index(body: object, signature: str = "") -> None:
    """Ask for a rebuild when one is due."""
    handle(WatchIndex, body)


@shared_task(name=Reindex.task, acks_late=False)
def reindex(body: object, signature: str = "") -> None:
    """Rebuild the index. Acknowledged at once: it outlasts the visibility timeout, and its lease guards it."""
    handle(Reindex, body)


@shared_task(name=SweepLedger.task)
def sweep_ledger(body: object, signature: str = "") -> None:
    """Send again what is overdue."""
    handle(SweepLedger, body)
