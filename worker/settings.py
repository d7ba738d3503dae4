"""Settings of the service, from the environment and `.env`, checked before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from producer.settings import WatchedSettings
from worker.images.stores import bucket_rule, store_options
from worker.index.engines import EngineName


class WorkerSettings(WatchedSettings):
    """What every process of the service needs to know. Every field is the variable LOOKALIKE_<FIELD>."""

    database_url: SecretStr | None = None
    """SQLAlchemy address of the catalogue; SQLite in the data directory when not set."""
    data_dir: Path = Path("lookalike-data")
    """Index generations, logs, and, when embedded, the databases. All workers of a host share it."""

    model: str = Field("efficientnet-lite0:128", min_length=1)
    """What a catalogue without a model begins with: `efficientnet-lite0[:SIZE]`, `resnet152[:SIZE]` (and other
    ResNets), or a model directory."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    model_threads: int = Field(0, ge=0)
    """CPU threads of the network; 0: one for each core."""
    decoders: int = Field(0, ge=0)
    """Child processes that decode pictures; 0: one for each core, at most 8."""
    max_batch: int = Field(64, ge=1, le=1024)

    image_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders under which a worker may read pictures given by path; the current one when not set."""
    image_hosts: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Hosts a worker may fetch pictures from; `*`: any public address."""
    image_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    """Buckets a worker may fetch pictures from, `s3://bucket` or `s3://bucket/prefix`; none when not set."""
    store_options: SecretStr | None = None
    """How a worker gets into object stores, a JSON object by scheme: `{"s3": {"key": …, "secret": …}}`."""
    fetch_timeout: float = Field(20.0, gt=0)
    decode_timeout: float = Field(10.0, gt=0)
    embed_timeout: float = Field(120.0, gt=0)
    """Seconds that the network may take for one batch: then its process is started anew."""

    engine: EngineName = "annoy"
    """What finds candidates: `annoy`; `exact`, no index at all; or `faiss`, with its package installed."""
    trees: int | Literal["auto", "categories"] = Field("auto", union_mode="left_to_right")
    """Trees of an Annoy index; `auto`: as few as reach the target; `categories`: one for each, the classic way."""
    search_k: int = Field(0, ge=0)
    """Nodes that Annoy visits in a lookup; 0: found by measurement, for the target."""
    reduce_to: int = Field(64, ge=0)
    """Dimensions that the index works on, by PCA; 0: the vectors as they are. Ranking is always exact."""
    rerank: int = Field(200, ge=1)
    """Most candidates that are ranked exactly."""
    recall_target: float = Field(0.98, gt=0, le=1)
    """Share of the true ten nearest that an index is tuned to find."""
    recall_margin: float = Field(0.03, ge=0, le=1)
    """An index that is farther below the target is not used."""
    rebuild_every: float = Field(900.0, gt=0)
    """Age in seconds at which an index with pending changes is rebuilt."""
    rebuild_after_changes: int = Field(5000, ge=1)
    """Pending changes at which it is rebuilt earlier."""
    keep_generations: int = Field(2, ge=2)

    recall_sample: float = Field(10.0, ge=0)
    """Least seconds between two lookups that a process answers once more exactly, to measure recall; 0: never."""

    task_events: bool = False
    """Whether workers tell Flower, or whoever listens to Celery's events, of each task: three messages more."""

    grace: float = Field(30.0, gt=0)
    """Seconds that a stopping worker may take to finish what it is doing."""
    stuck_after: float = Field(600.0, gt=0)
    """Seconds after which work that does not end has its process started anew; a rebuild may take longer."""

    @field_validator("image_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("image_hosts", "image_buckets", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(each.strip() for each in value.split(",") if each.strip())

    @field_validator("image_buckets")
    @classmethod
    def _known_buckets(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        for each in buckets:
            bucket_rule(each)
        return buckets

    @field_validator("store_options")
    @classmethod
    def _usable_options(cls, options: SecretStr | None) -> SecretStr | None:
        if options is not None:
            store_options(options.get_secret_value())
        return options

    @field_validator("trees")
    @classmethod
    def _some_trees(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 10_000:
            raise ValueError("must be between 1 and 10000, `auto`, or `categories`")
        return value

    @property
    def database(self) -> str:
        """Address of the catalogue, with its password if it has one: not for messages."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'catalogue.db'}"

    @property
    def embedded_redis(self) -> bool:
        """Whether nobody named a Redis, so that `up` has to bring its own."""
        return "redis_url" not in self.model_fields_set

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders for pictures given by path, resolved."""
        return tuple(root.resolve() for root in self.image_roots or (Path.cwd(),))

    def with_(self, **changes: object) -> Self:
        """A checked copy with some values changed."""
        values = {name: getattr(self, name) for name in self.model_fields_set} | changes
        return type(self)(**values)

    def environment(self) -> dict[str, str]:
        """The settings as LOOKALIKE_… variables, to hand to a child process."""
        return {
            f"LOOKALIKE_{name.upper()}": _as_text(getattr(self, name))
            for name in self.model_fields_set
            if getattr(self, name) is not None
        }


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        separator = os.pathsep if value and isinstance(value[0], Path) else ","
        return separator.join(str(part) for part in value)
    return str(value)
