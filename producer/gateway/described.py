"""The operations as OpenAPI describes them: parameters, documents, and an example of each, errors included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from producer.gateway import documents, documents_lookbook
from producer.gateway.answers import event
from producer.gateway.documents import (
    AcceptedDocument,
    HealthDocument,
    LookupDocument,
    OutcomeDocument,
    ProblemDocument,
)
from producer.gateway.problems import MEDIA_TYPE, SOON, Problem, Refusal
from producer.reasons import Reason

SCHEMAS = "#/components/schemas/"
KEY = "key"
"""Name of the way to show who asks."""
REQUESTS: tuple[type[BaseModel], ...] = (
    documents.Product,
    documents.PicturedProduct,
    documents.Question,
    documents.PicturedQuestion,
    documents.Batch,
    documents_lookbook.PastQuestion,
    documents_lookbook.FailuresById,
    documents_lookbook.FailuresByReason,
    documents_lookbook.AllFailures,
    documents_lookbook.Vote,
    ProblemDocument,
)
_ID = "0197a1b2-c3d4-7e5f-8a6b-9c0d1e2f3a4b"
_JOB = {"id": _ID, "url": f"/jobs/{_ID}", "items": 1}
_DRESS = {
    "product_id": "sku-42",
    "image": "https://cdn.example/42.jpg",
    "category": "dress",
    "attributes": {"price": 49.0, "in_stock": True, "sizes": ["S", "M"]},
}
_DONE = {
    "id": _ID,
    "url": f"/lookups/{_ID}",
    "state": "done",
    "replies": [
        {
            "matches": [
                {
                    "product_id": "sku-7",
                    "name": "main",
                    "distance": 0.31,
                    "similarity": 0.95195,
                    "category": "dress",
                    "attributes": {"price": 39.0},
                }
            ],
            "product_id": "sku-42",
            "generation": 3,
            "model_version": "ab" * 32,
            "as_of": {"revision": 1042, "at": "2026-11-25T12:00:00Z"},
            "pending": 2,
            "path": "annoy+overlay",
        }
    ],
    "not_found": [],
}
_QUEUED = {"id": _ID, "url": f"/lookups/{_ID}", "state": "queued"}
_FAILED = {
    **_QUEUED,
    "state": "failed",
    "problem": Problem.of_lookup(Reason.CORRUPT_IMAGE, "the picture is cut off").document,
}
_DETAILS = {
    Refusal.MALFORMED: "product_id: String should have at least 1 character (got '')",
    Refusal.INVALID_REQUEST: "product 'sku-1' is both liked and disliked: choose one",
}
_ALWAYS = (Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.UNAVAILABLE, Refusal.BUSY)
_ALWAYS_TOO = (Refusal.FAILURE,)
_OF_BODIES = (
    Refusal.MALFORMED,
    Refusal.TOO_SLOW,
    Refusal.KEY_IN_USE,
    Refusal.KEY_REUSED,
    Refusal.BODY_TOO_LARGE,
    Refusal.UNSUPPORTED_MEDIA_TYPE,
    Refusal.INVALID_REQUEST,
)
_RETRY = {
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "schema": {"type": "integer", "minimum": 1},
        "example": SOON,
    }
}
_LOCATION = {"Location": {"description": "Where to ask.", "schema": {"type": "string"}}}
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "id", "data")},
    "required": ["event", "data"],
}
"""Each event of a stream; its data is a document as JSON."""
Responses = dict[int | str, dict[str, Any]]


def schemas() -> dict[str, Any]:
    """Schemas of the documents that no response brings in by itself."""
    modes = [(each, "validation") for each in REQUESTS]
    _, found = models_json_schema(modes, ref_template=f"{SCHEMAS}{{model}}")  # type: ignore[arg-type]
    return dict(found["$defs"])


def problems(*refusals: Refusal) -> Responses:
    """The responses for these refusals, and for those that any request may meet."""
    wanted = {*refusals, *_ALWAYS, *_ALWAYS_TOO}
    found: Responses = {}
    for refusal in (each for each in Refusal if each in wanted):
        response = found.setdefault(refusal.status, _problem_response())
        response["description"] = "; ".join(
            filter(None, [response["description"], refusal.meaning])
        )
        response["content"][MEDIA_TYPE]["examples"][refusal.value] = {
            "summary": refusal.meaning,
            "value": Problem.of(refusal, _DETAILS.get(refusal, refusal.meaning)).document,
        }
        if refusal.status in (409, 503):
            response["headers"] = _RETRY
    return found


def adding() -> dict[str, Any]:
    """What `POST /products` takes."""
    many = [_DRESS, {**_DRESS, "product_id": "sku-43", "image": "https://cdn.example/43.jpg"}]
    return _body(
        _one_or_many("Product"),
        {"one": _DRESS, "many": many},
        _form(
            documents.UPLOAD,
            {"products": _one_or_many("PicturedProduct")},
            (documents.PICTURE,),
        ),
    )


def asking() -> dict[str, Any]:
    """What `POST /lookups` takes."""
    examples: dict[str, Any] = {
        "by product": {"product_id": "sku-42", "limit": 12},
        "by address": {"image": "https://cdn.example/street.jpg"},
        "filtered": {
            "product_id": "sku-42",
            "where": {"category": ["dress", "skirt"], "price": {"lt": 80}, "in_stock": True},
        },
        "a taste": {
            "product_id": ["sku-1", "sku-2"],
            "disliked": "sku-3",
            "at_most": {"brand": 2},
            "diversity": 0.3,
        },
        "a batch": {"product_ids": ["sku-1", "sku-2"], "limit": 12},
        "a kept generation": {"product_id": "sku-42", "generation": 3},
    }
    kinds = ("Question", "Batch", "PastQuestion")
    json = {"anyOf": [{"$ref": f"{SCHEMAS}{kind}"} for kind in kinds]}
    form = _form(
        "", {"lookup": {"$ref": f"{SCHEMAS}PicturedQuestion"}}, ("image", "disliked_image")
    )
    form["schema"]["required"] = ["image"]
    return _body(json, examples, form)


def accepted() -> Responses:
    """Responses of what is accepted."""
    shown = {"application/json": {"example": {"accepted": 1, "jobs": [_JOB]}}}
    return {
        202: {
            "model": AcceptedDocument,
            "description": "Accepted: it will be applied, or given up with a reason.",
            "headers": _LOCATION,
            "content": shown,
        },
        **problems(*_OF_BODIES, Refusal.QUEUE_FULL),
    }


def removed() -> Responses:
    """Responses of a removal, which has no body."""
    found = accepted()
    return {key: each for key, each in found.items() if key not in (408, 413, 415)}


def job() -> Responses:
    """Responses of a job."""
    failure = {
        "product_id": "sku-42",
        "name": "main",
        "reason": Reason.NOT_FOUND.value,
        "detail": "the server says 404",
    }
    examples = {
        "applied": {"value": {"id": _ID, "state": "ended", "applied": 1, "failures": []}},
        "given up": {"value": {"id": _ID, "state": "ended", "applied": 0, "failures": [failure]}},
        "waiting": {"value": {"id": _ID, "state": "waiting", "applied": 0, "failures": []}},
    }
    return {
        200: {
            "model": OutcomeDocument,
            "description": "What became of it so far.",
            "content": {"application/json": {"examples": examples}},
        },
        **problems(Refusal.UNKNOWN_JOB),
    }


def asked() -> Responses:
    """Responses of a question."""
    return {**_states(), **problems(*_OF_BODIES, Refusal.EXPIRED, Refusal.UNKNOWN_LOOKUP)}


def lookup() -> Responses:
    """Responses of a lookup."""
    found = problems(Refusal.MALFORMED, Refusal.UNKNOWN_LOOKUP, Refusal.EXPIRED)
    return {**_states(), **found}


def events() -> Responses:
    """Responses of a stream of events."""
    shown = (event("queued", _QUEUED) + event("done", _DONE)).decode()
    content = {"text/event-stream": {"schema": _EVENT, "example": shown}}
    return {
        200: {
            "description": "An event for each state, the last with the reply.",
            "content": content,
        },
        204: {"description": "Last-Event-ID says that the end was seen."},
        **problems(Refusal.UNKNOWN_LOOKUP, Refusal.EXPIRED),
    }


def health() -> Responses:
    """Responses of the check."""
    down = problems(Refusal.UNAVAILABLE)
    return {
        200: {"model": HealthDocument, "description": "All is well."},
        503: down[503],
        500: down[500],
    }


def _states() -> Responses:
    ended = {"done": {"value": _DONE}, "failed": {"value": _FAILED}}
    return {
        200: {
            "model": LookupDocument,
            "description": "The lookup has ended: done, with its replies, or failed.",
            "content": {"application/json": {"examples": ended}},
        },
        202: {
            "model": LookupDocument,
            "description": "Not answered yet: ask again at Location.",
            "headers": _LOCATION | _RETRY,
            "content": {"application/json": {"example": _QUEUED}},
        },
    }


def _problem_response() -> dict[str, Any]:
    schema = {"$ref": f"{SCHEMAS}ProblemDocument"}
    return {"description": "", "content": {MEDIA_TYPE: {"schema": schema, "examples": {}}}}


def _one_or_many(name: str) -> dict[str, Any]:
    one = {"$ref": f"{SCHEMAS}{name}"}
    most = documents.MAX_PRODUCTS
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": most}]}


def _form(said: str, fields: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    one = {"type": "string", "format": "binary"}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": 8}
    properties = fields | dict.fromkeys(files, one if said else several)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if said:
        schema["required"] = list(properties)
    schema["additionalProperties"] = one if said else False
    encoding = {name: {"contentType": "application/json"} for name in fields}
    return {"schema": schema, "encoding": encoding}


def json_body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """A request's body that is JSON."""
    shown = {name: {"value": value} for name, value in examples.items()}
    json = {"schema": schema, "examples": shown}
    return {"requestBody": {"required": True, "content": {"application/json": json}}}


def _body(schema: dict[str, Any], examples: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    body = json_body(schema, examples)
    body["requestBody"]["content"]["multipart/form-data"] = form
    return body
