"""The gateway as a FastAPI application: which address does what, and what is described at /openapi.json."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version as installed
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Match, Route

from producer.errors import LookalikeError, QueueUnavailable
from producer.gateway import described
from producer.gateway.access import Scope
from producer.gateway.gateway import Gateway, looked_after, problem_response
from producer.gateway.page import render
from producer.gateway.problems import Problem, Refusal, Refused, refuse, refused
from producer.gateway.windows import add_lookbook

log = logging.getLogger(__name__)

LONGEST_WAIT = 30.0
ABOUT = (
    "Show me products that look like this one: the HTTP gateway of the Lookalike visual similarity service. "
    "What is accepted goes on a queue; lookups are polled, waited for, or listened to."
)
DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
READ, WRITE = frozenset({Scope.READ}), frozenset({Scope.WRITE})

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=LONGEST_WAIT,
        description="Seconds that the answer may take to come.",
        examples=[0.5],
    ),
]
Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A request that is sent again with its key does nothing again.",
        examples=["6f1ed002-ab55-4f6e-9a4d-2d1f0a3c5b7e"],
    ),
]
ProductId = Annotated[str, Path(min_length=1, max_length=255, examples=["sku-42"])]
Version = Annotated[
    int | None,
    Query(ge=0, lt=2**63, description="Orders the changes of a product: the greatest wins."),
]
Id = Annotated[str, Path(examples=["0197a1b2-c3d4-7e5f-8a6b-9c0d1e2f3a4b"])]


def application(gateway: Gateway) -> FastAPI:
    """The application that answers with this gateway."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async for _nothing in looked_after(gateway):
            yield

    app = FastAPI(
        title="Lookalike",
        version=installed("lookalike"),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
        # Its own would put queries and the texts of errors into spans; ours are in `producer.gateway.spans`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _products(app, gateway)
    _lookups(app, gateway)
    add_lookbook(app, gateway, _router(app, gateway))
    _service(app, gateway)
    _errors(app)
    _describe(app, gateway)
    return app


def _products(app: FastAPI, gateway: Gateway) -> None:
    async def add(request: Request, idempotency_key: Once = None) -> Response:
        """Make products searchable: one, or many; pictures by address, or in the request."""
        return await gateway.add(request)

    async def remove(
        request: Request,
        product_id: ProductId,
        version: Version = None,
        idempotency_key: Once = None,
    ) -> Response:
        """Take a product out: it is gone from answers when this is applied, and no error if it was not there."""
        return await gateway.remove(request, product_id, version)

    async def job(job_id: Id) -> Response:
        """What became of what was accepted, retries included."""
        return await gateway.job(job_id)

    route = _router(app, gateway)
    route("POST /products", add, WRITE, described.accepted(), described.adding())
    route("DELETE /products/{product_id:path}", remove, WRITE, described.removed())
    route("GET /jobs/{job_id}", job, READ | WRITE, described.job())


def _lookups(app: FastAPI, gateway: Gateway) -> None:
    async def ask(
        request: Request,
        wait: Wait = 0.0,
        idempotency_key: Once = None,
    ) -> Response:
        """Ask for products that look like a product, like a picture, or like several together; or a batch."""
        return await gateway.ask(request, wait)

    async def lookup(lookup_id: Id, wait: Wait = 0.0) -> Response:
        """How far a lookup is, and its reply once it is done."""
        return await gateway.lookup(lookup_id, wait)

    async def events(request: Request, lookup_id: Id) -> Response:
        """The states of a lookup as server-sent events, the last with its reply."""
        return await gateway.events(request, lookup_id)

    route = _router(app, gateway)
    route("POST /lookups", ask, READ, described.asked(), described.asking())
    route("GET /lookups/{lookup_id}", lookup, READ, described.lookup())
    route("GET /lookups/{lookup_id}/events", events, READ, described.events())


def _service(app: FastAPI, gateway: Gateway) -> None:
    async def health() -> Response:
        """Whether the gateway answers and reaches the queue; needs no key."""
        return await gateway.health()

    async def docs() -> Response:
        """The page."""
        headers = {"Content-Security-Policy": DOCS_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(rendered(), headers=headers)

    @cache
    def rendered() -> str:
        """Once: it takes the time of ten other requests, and needs no key."""
        return render(app.openapi())

    app.add_api_route(
        "/health", health, methods=["GET"], responses=described.health(), response_model=None
    )
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)


def _router(app: FastAPI, gateway: Gateway) -> Callable[..., None]:
    """Adds operations that only some may use."""

    def route(
        operation: str,
        does: Callable[..., Any],
        scopes: frozenset[Scope],
        responses: described.Responses,
        more: dict[str, Any] | None = None,
    ) -> None:
        async def allowed(request: Request) -> None:
            gateway.allow(request, scopes)

        method, path = operation.split()
        keys = {} if gateway.access.is_open else {"security": [{described.KEY: sorted(scopes)}]}
        app.add_api_route(
            path,
            does,
            methods=[method],
            status_code=next(status for status in responses if isinstance(status, int)),
            responses=responses,
            response_model=None,
            response_class=Response,
            dependencies=[Depends(allowed)],
            openapi_extra=(more or {}) | keys,
        )

    return route


def _errors(app: FastAPI) -> None:
    async def of_refusal(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return problem_response(error)

    async def of_producer(_: Request, error: Exception) -> Response:
        assert isinstance(error, LookalikeError)
        if isinstance(error, QueueUnavailable):
            log.warning("%s", error)
        return problem_response(refused(error))

    async def of_parameters(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"][1:]))
        return problem_response(refuse(Refusal.MALFORMED, f"{place}: {problem['msg']}"))

    async def of_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason, headers = Refusal.NO_SUCH_ADDRESS, error.headers
        if error.status_code == 405:
            reason, headers = Refusal.METHOD_NOT_ALLOWED, {"Allow": ", ".join(_allowed(request))}
        detail = "What there is, and how to use it, is described at /docs."
        return problem_response(Refused(Problem.of(reason, detail), headers))

    async def of_anything(_: Request, _error: Exception) -> Response:
        detail = "Send the request again; if it fails again, tell the operator."
        return problem_response(refuse(Refusal.FAILURE, detail))

    app.add_exception_handler(Refused, of_refusal)
    app.add_exception_handler(LookalikeError, of_producer)
    app.add_exception_handler(RequestValidationError, of_parameters)
    app.add_exception_handler(HTTPException, of_routing)
    app.add_exception_handler(Exception, of_anything)


def _allowed(request: Request) -> list[str]:
    """Methods of this address: each has a route of its own, and the first does not know of the others."""
    routes = (each for each in request.app.routes if isinstance(each, Route))
    return sorted(
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    )


def _describe(app: FastAPI, gateway: Gateway) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document.setdefault("components", {})
            components["schemas"] = components.get("schemas", {}) | described.schemas()
            for unused in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(unused, None)
            if not gateway.access.is_open:
                components["securitySchemes"] = {
                    described.KEY: {"type": "http", "scheme": "bearer"}
                }
            _without_their_422(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _without_their_422(document: dict[str, Any]) -> None:
    """Take out the response that FastAPI describes for wrong parameters, which is another here."""
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in content:
                del operation["responses"]["422"]
