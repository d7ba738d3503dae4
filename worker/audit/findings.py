"""What an audit finds: gaps by kind, counted, with the first few of each by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

EXAMPLES = 5
"""How many of each kind are named."""


class Kind(StrEnum):
    """What can be wrong, in the order of a report. Stable codes."""

    MISSING_EMBEDDING = "missing_embedding"
    BAD_EMBEDDING = "bad_embedding"
    NOT_IN_VIEW = "not_in_view"
    NOT_LIVE = "not_live"
    VECTOR_DIFFERS = "vector_differs"
    WRONG_PRODUCT = "wrong_product"
    WRONG_CATEGORY = "wrong_category"
    WRONG_ATTRIBUTES = "wrong_attributes"
    DOUBLED = "doubled"
    GENERATION_MISSING = "generation_missing"
    GENERATION_DAMAGED = "generation_damaged"
    GENERATION_MISMATCH = "generation_mismatch"
    POINTER_REMOVED = "pointer_removed"
    REVISION_AHEAD = "revision_ahead"
    LITTER = "litter"
    UNUSED_EMBEDDING = "unused_embedding"
    UNUSED_THUMBNAIL = "unused_thumbnail"
    OVERLAY_LARGE = "overlay_large"


MEANING: Mapping[Kind, str] = {
    Kind.MISSING_EMBEDDING: "live pictures without an embedding of the active model",
    Kind.BAD_EMBEDDING: "pictures whose embedding has the wrong length, or is not finite or of unit length",
    Kind.NOT_IN_VIEW: "live pictures that lookups cannot find",
    Kind.NOT_LIVE: "pictures in the index that are not live",
    Kind.VECTOR_DIFFERS: "pictures whose vector in the index is not that of the catalogue",
    Kind.WRONG_PRODUCT: "pictures that the index has under another product",
    Kind.WRONG_CATEGORY: "pictures that the index has under another category",
    Kind.WRONG_ATTRIBUTES: "pictures that the index has with other attributes",
    Kind.DOUBLED: "pictures that are in a generation more than once",
    Kind.GENERATION_MISSING: "kept generations whose files are not there",
    Kind.GENERATION_DAMAGED: "kept generations whose files are damaged",
    Kind.GENERATION_MISMATCH: "kept generations that are not what the catalogue says of them",
    Kind.POINTER_REMOVED: "the current generation is one that was deleted",
    Kind.REVISION_AHEAD: "rows with a revision above the counter",
    Kind.LITTER: "directories of this catalogue that it does not know",
    Kind.UNUSED_EMBEDDING: "embeddings that no picture refers to",
    Kind.UNUSED_THUMBNAIL: "thumbnails that no picture refers to",
    Kind.OVERLAY_LARGE: "changes that every lookup searches one by one: more than a rebuild waits for",
}
NOTES = frozenset({Kind.UNUSED_EMBEDDING, Kind.UNUSED_THUMBNAIL, Kind.OVERLAY_LARGE})
"""What costs room or time, and no answer."""
OF_EMBEDDINGS = frozenset({Kind.MISSING_EMBEDDING, Kind.BAD_EMBEDDING})
OF_PICTURES = frozenset(
    {
        Kind.NOT_IN_VIEW,
        Kind.NOT_LIVE,
        Kind.VECTOR_DIFFERS,
        Kind.WRONG_PRODUCT,
        Kind.WRONG_CATEGORY,
        Kind.WRONG_ATTRIBUTES,
    }
)
"""What a lookup may answer wrongly, since the index holds something else than the catalogue."""


def counted(number: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class Example:
    """One that is wrong: a picture by its product and name, or what `detail` says."""

    product_id: str | None = None
    name: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of gap, or a note."""

    kind: Kind
    count: int
    examples: tuple[Example, ...]

    @property
    def is_gap(self) -> bool:
        """Whether it is more than a note."""
        return self.kind not in NOTES


@dataclass(frozen=True)
class Flaw:
    """What is wrong with one picture."""

    image_pk: int
    kind: Kind
    detail: str | None = None


@dataclass
class _Entry:
    count: int = 0
    examples: list[tuple[int | None, str | None]] = field(default_factory=list)
    """Key of the picture, detail."""


class Tally:
    """Counts what is found, and keeps the first few of each kind."""

    def __init__(self) -> None:
        self._entries: dict[Kind, _Entry] = {}

    def picture(self, flaw: Flaw, count: int = 1) -> None:
        """Count a picture, or so many of which this is the first."""
        self._add(flaw.kind, count, (flaw.image_pk, flaw.detail))

    def add(self, kind: Kind, *details: str, count: int | None = None) -> None:
        """Count what is no picture: as many as there are details, unless a count says otherwise."""
        self._add(kind, len(details) if count is None else count, *((None, d) for d in details))

    def _add(self, kind: Kind, count: int, *examples: tuple[int | None, str | None]) -> None:
        entry = self._entries.setdefault(kind, _Entry())
        entry.count += count
        entry.examples += examples[: EXAMPLES - len(entry.examples)]

    @property
    def image_pks(self) -> list[int]:
        """Keys of the pictures that `findings` will name."""
        return [
            pk for entry in self._entries.values() for pk, _ in entry.examples if pk is not None
        ]

    def findings(self, names: Mapping[int, tuple[str, str]]) -> tuple[Finding, ...]:
        """All kinds that were found, in the order of `Kind`; `names` are those of `image_pks`."""
        return tuple(
            Finding(kind, entry.count, tuple(_named(names, *each) for each in entry.examples))
            for kind in Kind
            if (entry := self._entries.get(kind)) is not None and entry.count
        )


def _named(
    names: Mapping[int, tuple[str, str]], image_pk: int | None, detail: str | None
) -> Example:
    if image_pk is None:
        return Example(detail=detail)
    if image_pk not in names:
        return Example(detail=detail or f"picture {image_pk}, which the catalogue does not have")
    product_id, name = names[image_pk]
    return Example(product_id, name, detail)
