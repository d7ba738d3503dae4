"""The operations behind the lookbook as OpenAPI describes them, with an example of each."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from producer.gateway import documents_lookbook as documents
from producer.gateway.described import SCHEMAS, Responses, json_body, problems
from producer.gateway.problems import Refusal
from producer.reasons import Reason

_OF_QUESTIONS = (Refusal.MALFORMED, Refusal.INVALID_REQUEST, Refusal.NO_WORKER)
_OF_CHANGES = (
    *_OF_QUESTIONS,
    Refusal.TOO_SLOW,
    Refusal.BODY_TOO_LARGE,
    Refusal.UNSUPPORTED_MEDIA_TYPE,
)
_DIGEST = "ab" * 32
_AT = "2026-11-25T12:00:00Z"
_JUDGED = {
    "product_id": "sku-42",
    "match": "sku-7",
    "verdict": "up",
    "judge": "merchandiser",
    "mine": True,
    "at": _AT,
    "generation": 3,
    "model_version": _DIGEST,
    "distance": 0.31,
}
_STATUS = {
    "backlog": 0,
    "queues": [],
    "service": None,
    "problem": "No worker has answered in time. The question waits for a worker.",
}
_CHOSEN: dict[str, Any] = {
    "by their ids": {"ids": [1, 2]},
    "by a reason": {"reason": Reason.NOT_FOUND.value},
    "all": {"all": True},
}


def access() -> Responses:
    """Responses of who may what."""
    examples = {
        "with a key": {"open": False, "scopes": ["read", "write"]},
        "without": {"open": False, "scopes": []},
    }
    found = problems(Refusal.FORBIDDEN)
    return {
        **_shown(documents.AccessDocument, "What the caller may do.", examples),
        403: found[403],
        500: found[500],
    }


def catalogue() -> Responses:
    """Responses of a page of the catalogue."""
    product = {
        "product_id": "sku-42",
        "name": "main",
        "category": "dress",
        "attributes": {"price": 49.0},
    }
    example = {"a page": {"products": [product], "next": "c2t1LTQy"}}
    return _answered(documents.CatalogueDocument, "A page of products.", example)


def categories() -> Responses:
    """Responses of the categories."""
    counts = [{"category": "dress", "products": 80}, {"category": None, "products": 20}]
    example = {"two": {"total": 100, "categories": counts}}
    return _answered(documents.CategoriesDocument, "The largest first.", example)


def thumbnail() -> Responses:
    """Responses of a picture."""
    headers = {
        name: {"schema": {"type": "string"}, "description": said}
        for name, said in {
            "ETag": "Of these bytes.",
            "Cache-Control": "How long it may be shown without asking again.",
        }.items()
    }
    schema = {"type": "string", "contentMediaType": "image/jpeg"}
    content = {"image/jpeg": {"schema": schema, "example": "the bytes of a JPEG"}}
    return {
        200: {"description": "A JPEG.", "headers": headers, "content": content},
        304: {"description": "If-None-Match says that the client has it.", "headers": headers},
        **problems(*_OF_QUESTIONS, Refusal.NO_PICTURE),
    }


def status() -> Responses:
    """Responses of the status."""
    example = {"no worker runs": _STATUS}
    return _answered(documents.StatusDocument, "How the queue and the service are.", example)


def generations() -> Responses:
    """Responses of the generations."""
    generation = {
        "number": 3,
        "model_name": "efficientnet-lite0:128",
        "model_version": _DIGEST,
        "images": 1000,
        "revision": 1042,
        "recall": 0.987,
        "built_at": _AT,
        "current": True,
    }
    example = {"one": {"generations": [generation]}}
    return _answered(documents.GenerationsDocument, "The newest first.", example)


def failures() -> Responses:
    """Responses of what was given up."""
    failure = {
        "id": 7,
        "product_id": "sku-42",
        "name": "main",
        "reason": Reason.NOT_FOUND.value,
        "detail": "the server says 404",
        "attempts": 1,
        "at": _AT,
    }
    example = {"one": {"failures": [failure], "next": None}}
    return _answered(documents.FailuresDocument, "The newest first.", example)


def requeued() -> Responses:
    """Responses of sending again."""
    example = {"two": {"requeued": 2, "left": 0}}
    return _changed(documents.RequeuedDocument, "They are on the queue.", example)


def discarded() -> Responses:
    """Responses of forgetting."""
    example = {"two": {"discarded": 2, "left": 0}}
    return _changed(documents.DiscardedDocument, "They are forgotten.", example)


def choosing_failures() -> dict[str, Any]:
    """What says which failures."""
    names = ("FailuresById", "FailuresByReason", "AllFailures")
    return json_body({"anyOf": [{"$ref": f"{SCHEMAS}{name}"} for name in names]}, _CHOSEN)


def judgements() -> Responses:
    """Responses of what people think."""
    example = {"one": {"judgements": [_JUDGED]}}
    return _answered(documents.JudgementsDocument, "By match.", example)


def judged() -> Responses:
    """Responses of a judgement."""
    examples = {"kept": _JUDGED, "taken back": {**_JUDGED, "verdict": None}}
    return _changed(documents.JudgementDocument, "What is thought of it now.", examples)


def judging() -> dict[str, Any]:
    """What `PUT /judgements` takes."""
    asked = {name: _JUDGED[name] for name in ("product_id", "match", "verdict")}
    examples = {
        "a good one": asked | {"generation": 3, "distance": 0.31},
        "taken back": asked | {"verdict": None},
    }
    return json_body({"$ref": f"{SCHEMAS}Vote"}, examples)


def _answered(model: type[BaseModel], said: str, examples: dict[str, Any]) -> Responses:
    return {**_shown(model, said, examples), **problems(*_OF_QUESTIONS)}


def _changed(model: type[BaseModel], said: str, examples: dict[str, Any]) -> Responses:
    return {**_shown(model, said, examples), **problems(*_OF_CHANGES)}


def _shown(model: type[BaseModel], said: str, examples: dict[str, Any]) -> Responses:
    shown = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"examples": shown}}
    return {200: {"model": model, "description": said, "content": content}}
