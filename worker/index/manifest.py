"""What a generation says about itself; written last, so that a directory that has one is whole."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from worker.index import durable
from worker.index.engines import EngineName
from worker.index.errors import GenerationDamaged, GenerationMissing

FORMAT: Literal[2] = 2
NAME = "manifest.json"
MAX_BYTES = 64 << 20

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Frozen):
    """Size and digest of one file of the generation."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Digest


class CategorySlice(_Frozen):
    """The slots of one category: they lie side by side."""

    name: str | None
    start: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]


class Parameters(_Frozen):
    """How the index was built and is to be searched."""

    size: Annotated[int, Field(ge=0)]
    """Trees of Annoy, lists of FAISS."""
    effort: Annotated[int, Field(ge=1)]
    """How much a search looks at: nodes of Annoy's trees, lists of FAISS."""
    rerank: Annotated[int, Field(ge=1)]
    """Candidates that are scored exactly."""
    reduced: Annotated[int, Field(ge=1)]
    """Width of the vectors in the index; equal to `dimension` when they are not reduced."""
    seed: int


class Manifest(_Frozen):
    """Everything that must be known before a file of the generation is touched."""

    format: Literal[2] = FORMAT
    number: Annotated[int, Field(ge=1)]
    engine: EngineName
    engine_version: str
    parameters: Parameters
    dimension: Annotated[int, Field(ge=1, le=65_536)]
    metric: Literal["euclidean"] = "euclidean"
    model_digest: str
    revision: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    products: Annotated[int, Field(ge=0)]
    categories: tuple[CategorySlice, ...]
    files: dict[str, FileEntry]
    recall: Annotated[float, Field(ge=0, le=1)]
    """Share of the true ten nearest that the index finds, on queries that are left out of their own answers."""
    recall_at_least: Annotated[float, Field(ge=-1, le=1)]
    """Lower bound of that, with 95 % confidence."""
    recall_target: Annotated[float, Field(ge=0, le=1)]
    """What the effort was chosen for."""
    recall_queries: Annotated[int, Field(ge=0)]
    latency_ms: Annotated[float, Field(ge=0)]
    """Median time of a search for one of those queries, without SQL, in the process that built it."""
    kept_variance: Annotated[float, Field(ge=0, le=1.001)]
    """Share of the vectors' variance that the reduced ones keep."""
    built_at: datetime
    build_seconds: Annotated[float, Field(ge=0)]
    timings: dict[str, float]
    """Seconds of each step, by its name."""
    peak_memory: Annotated[int, Field(ge=0)]
    """Greatest resident memory of the building process, in bytes."""

    @model_validator(mode="after")
    def _slices_cover_all(self) -> Self:
        expected = 0
        for part in self.categories:
            if part.start != expected:
                raise ValueError("categories do not lie side by side")
            expected += part.count
        if expected != self.images:
            raise ValueError("categories do not cover all images")
        return self

    def encoded(self) -> bytes:
        """The bytes of the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def digest_of(data: bytes) -> str:
    """The digest by which SQL knows a manifest."""
    return hashlib.sha256(data).hexdigest()


def read(directory: Path, expected_sha256: str | None = None) -> Manifest:
    """Read and check the manifest of a directory.

    Raises GenerationMissing when there is none and GenerationDamaged when it is not the one that was written.
    """
    try:
        data = durable.read(directory / NAME, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GenerationMissing(f"{directory.name} has no {NAME}") from error
    except OSError as error:
        raise GenerationDamaged(
            f"{directory.name}/{NAME} cannot be read: {error.strerror}"
        ) from error
    if expected_sha256 is not None and digest_of(data) != expected_sha256:
        raise GenerationDamaged(f"{directory.name}/{NAME} is not the manifest that was published")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GenerationDamaged(f"{directory.name}/{NAME}: {where}: {first['msg']}") from error
