"""The operations behind the lookbook as OpenAPI describes them, with an example of each."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from producer.gateway.described import Responses, problems
from producer.gateway.documents_lookbook import AccessDocument
from producer.gateway.problems import Refusal


def access() -> Responses:
    """Responses of who may what."""
    examples = {
        "with a key": {"open": False, "scopes": ["read", "write"]},
        "without": {"open": False, "scopes": []},
    }
    found = problems(Refusal.FORBIDDEN)
    return {**_shown(AccessDocument, "What the caller may do.", examples), 403: found[403]}


def _shown(model: type[BaseModel], said: str, examples: dict[str, Any]) -> Responses:
    shown = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"examples": shown}}
    return {200: {"model": model, "description": said, "content": content}}
