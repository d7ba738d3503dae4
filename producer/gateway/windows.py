"""The addresses behind the lookbook: its page, and what it shows and changes."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from producer.gateway import described_lookbook as described
from producer.gateway.gateway import Gateway
from producer.gateway.lookbook import Lookbook

Route = Callable[..., None]
PLACE = "/lookbook/"


def add_lookbook(app: FastAPI, gateway: Gateway, route: Route) -> None:
    """Add them; `route` adds an operation that only some may use."""
    _page(app)
    _access(app, gateway)


def _page(app: FastAPI) -> None:
    lookbook = Lookbook()

    async def elsewhere() -> Response:
        return RedirectResponse(PLACE, 307)

    async def page(request: Request) -> Response:
        return lookbook.response(request)

    async def asset(request: Request, name: str) -> Response:
        return lookbook.response(request, name)

    for path in ("/", PLACE.rstrip("/")):
        app.add_api_route(path, elsewhere, methods=["GET"], include_in_schema=False)
    app.add_api_route(PLACE, page, methods=["GET"], include_in_schema=False)
    app.add_api_route(f"{PLACE}{{name}}", asset, methods=["GET"], include_in_schema=False)


def _access(app: FastAPI, gateway: Gateway) -> None:
    async def access(request: Request) -> Response:
        """What the caller's key is good for; without a key, whether one is needed."""
        return gateway.scopes(request)

    app.add_api_route(
        "/access", access, methods=["GET"], responses=described.access(), response_model=None
    )
