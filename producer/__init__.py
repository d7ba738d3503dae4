"""The client of the Lookalike visual similarity service: everything that a shop's backend needs.

::

    from producer import Producer

    with Producer.from_env() as shop:
        shop.add("sku-42", "https://cdn.example/42.jpg", category="dress", price=49.0)
        lookup = shop.find_similar("sku-42", limit=12)
        print([match.product_id for match in lookup.result(timeout=0.5).matches])
"""

from producer.catalogue import read_rows
from producer.client import Producer
from producer.errors import (
    CatalogueFileError,
    InvalidRequest,
    JobTimeout,
    LookalikeError,
    LookupError_,
    LookupExpired,
    LookupFailed,
    LookupTimeout,
    PictureRejected,
    ProductNotFound,
    QueueFull,
    QueueUnavailable,
    ServiceUnresponsive,
    SettingsError,
    UnknownJob,
    UnknownLookup,
)
from producer.lookups import BatchLookup, Lookup
from producer.mailbox import LookupState
from producer.messages import (
    AsOf,
    BatchReply,
    ItemFailure,
    Match,
    Outcome,
    QueueStatus,
    Range,
    Reply,
    StatusReply,
)
from producer.reasons import Reason
from producer.receipts import Receipt, Tracker
from producer.recording import RecordingProducer
from producer.rows import Row
from producer.settings import ProducerSettings
from producer.sync import Synced
from producer.where import parse_where

__all__ = [
    "AsOf",
    "BatchLookup",
    "BatchReply",
    "CatalogueFileError",
    "InvalidRequest",
    "ItemFailure",
    "JobTimeout",
    "LookalikeError",
    "Lookup",
    "LookupError_",
    "LookupExpired",
    "LookupFailed",
    "LookupState",
    "LookupTimeout",
    "Match",
    "Outcome",
    "PictureRejected",
    "Producer",
    "ProducerSettings",
    "ProductNotFound",
    "QueueFull",
    "QueueStatus",
    "QueueUnavailable",
    "Range",
    "Reason",
    "Receipt",
    "RecordingProducer",
    "Reply",
    "Row",
    "ServiceUnresponsive",
    "SettingsError",
    "StatusReply",
    "Synced",
    "Tracker",
    "UnknownJob",
    "UnknownLookup",
    "parse_where",
    "read_rows",
]
