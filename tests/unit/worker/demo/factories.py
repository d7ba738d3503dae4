"""Replies and producers for the demo's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from producer.messages import (
    AsOf,
    BatchReply,
    GenerationStatus,
    Match,
    Question,
    Reply,
    StatusReply,
)
from producer.recording import RecordingProducer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def match(product_id: str, category: str | None = None, distance: float = 0.5) -> Match:
    """One match."""
    return Match(product_id=product_id, name="main", distance=distance, category=category)


def reply(*matches: Match, generation: int | None = 1) -> Reply:
    """A reply of these matches."""
    return Reply(
        matches=matches,
        generation=generation,
        model_version="f" * 64,
        as_of=AsOf(revision=7, at=NOW),
        pending=0,
        path="annoy",
    )


@dataclass
class Index:
    """A pretended index: rebuilt when asked, to the newest revision or to what the test says."""

    revision: int = 1
    built: list[int] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)
    """How many revisions each of the next rebuilds lacks."""

    def rebuild(self) -> None:
        """Build one more generation."""
        self.built.append(self.revision - (self.lags.pop(0) if self.lags else 0))

    def status(self) -> StatusReply:
        """What the service would say."""
        return StatusReply(
            products=3,
            images=3,
            revision=self.revision,
            pending=0,
            model_version="f" * 64,
            model_name="net",
            generation=GenerationStatus(
                number=len(self.built), revision=self.built[-1], images=3, built_at=NOW, recall=1.0
            )
            if self.built
            else None,
        )


def shop_with(index: Index, matches: Sequence[str] = ("b", "c")) -> RecordingProducer:
    """A producer whose status is the index's, and whose lookups are answered by its newest generation."""
    shop = RecordingProducer()
    recording = shop._recording
    plain = recording._reply

    def answer(question: Question) -> object:
        if question.task == "lookalike.status":
            return index.status()
        batch = plain(question)
        if isinstance(batch, BatchReply):
            number = len(index.built) or None
            found = tuple(match(each) for each in matches)
            return BatchReply(
                replies=tuple(reply(*found, generation=number) for _ in batch.replies)
            )
        return batch

    _replace(recording, answer)
    return shop


def _replace(recording: object, answer: Callable[[Question], object]) -> None:
    recording._reply = answer  # type: ignore[attr-defined]
