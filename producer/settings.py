"""Settings of the producer, from the environment and `.env`, checked before anything is connected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from producer.errors import SettingsError
from producer.signing import SHORTEST_KEY, split

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_REDIS_URL = "redis://127.0.0.1:6390/0"
"""Where `lookalike-worker up` starts its own server."""

_S = TypeVar("_S", bound="ProducerSettings")


class ProducerSettings(BaseSettings):
    """What a shop's process needs to know. Every field is the variable LOOKALIKE_<FIELD>."""

    model_config = SettingsConfigDict(
        env_prefix="LOOKALIKE_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: SecretStr = SecretStr(DEFAULT_REDIS_URL)
    chunk_size: int = Field(32, ge=1, le=64)
    """Pictures in one message."""
    max_backlog: int = Field(2000, ge=1)
    """Jobs accepted and not yet applied, above which `add` waits or raises QueueFull."""
    lookup_ttl: float = Field(900.0, gt=0)
    """Seconds that a lookup and its reply are kept."""
    picture_ttl: float = Field(86_400.0, gt=0)
    """Seconds that the bytes of a product's picture are kept; those of a question for `lookup_ttl`."""
    outcome_ttl: float = Field(86_400.0, gt=0)
    """Seconds that it is remembered what became of a job, for whoever waits for it."""
    signing_keys: SecretStr | None = None
    """Keys with commas between them: messages are signed with the first, and workers take none but those that one
    of theirs has signed. Every process of the shop and the service needs them."""

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return url

    @field_validator("signing_keys")
    @classmethod
    def _long_enough(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and any(len(key) < SHORTEST_KEY for key in split(keys)):
            raise ValueError(f"every key must have at least {SHORTEST_KEY} characters")
        return keys

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment; raise SettingsError naming every variable that is wrong."""
        return load(cls)


class WatchedSettings(ProducerSettings):
    """What a process that runs on needs to know besides, to be watched."""

    metrics_port: int | None = Field(None, ge=0, le=65_535)
    """Port on which the process serves /metrics, /live and /ready; none when not set, or 0."""
    metrics_host: str = Field("127.0.0.1", min_length=1)
    log_format: Literal["text", "json"] = "text"
    """How it logs: as text for people, or one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    """Address of it. It asks for no key: keep it to machines that may read figures."""


def load(settings: Callable[[], _S]) -> _S:
    """Build `settings` from the environment, turning validation errors into one readable SettingsError."""
    try:
        return settings()
    except ValidationError as error:
        problems: dict[str, list[str]] = {}  # several of one setting are those of its allowed types
        for problem in error.errors(include_input=False, include_url=False):
            problems.setdefault(str(problem["loc"][0]), []).append(_in_words(problem))
        lines = [
            f"LOOKALIKE_{name.upper()}: {' or '.join(each)}" for name, each in problems.items()
        ]
        raise SettingsError("; ".join(lines)) from None


def _in_words(problem: ErrorDetails) -> str:
    kind = problem["type"]
    if kind.startswith("int_"):
        return "must be a whole number"
    if kind.startswith("float_"):
        return "must be a number"
    if kind == "string_pattern_mismatch":
        return _forms(str(problem.get("ctx", {}).get("pattern", "")))
    return problem["msg"].removeprefix("Value error, ")


def _forms(pattern: str) -> str:
    """A pattern of plain alternatives, with an optional number at most, in words."""
    text = re.sub(r"\(([^()|]*)\)\?", r"[\1]", pattern.replace(r"\d+", "NUMBER"))
    found = re.fullmatch(r"\^\(([^()\\^$*+?{}.]+)\)\$", text)
    if found is None:
        return "is not one of the allowed forms"
    return f"must look like {' or '.join(found[1].split('|'))}"
