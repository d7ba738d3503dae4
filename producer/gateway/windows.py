"""The addresses behind the lookbook: its page, and what it shows and changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Path, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from producer.browsing import MAX_PAGE
from producer.gateway import described_lookbook as described
from producer.gateway.access import Scope
from producer.gateway.browsing import Browsing
from producer.gateway.gateway import Gateway
from producer.gateway.lookbook import Lookbook
from producer.reasons import Reason

Route = Callable[..., None]
"""Adds an operation that only some may use."""
READ, WRITE = frozenset({Scope.READ}), frozenset({Scope.WRITE})
PLACE = "/lookbook/"
_TEXT = r"^[^\u0000]*$"

ProductId = Annotated[str, Path(min_length=1, max_length=255, pattern=_TEXT, examples=["sku-42"])]
OfProduct = Annotated[str, Query(min_length=1, max_length=255, pattern=_TEXT, examples=["sku-42"])]
MaybeOfProduct = Annotated[
    str | None, Query(min_length=1, max_length=255, pattern=_TEXT, description="Of this product.")
]
Name = Annotated[
    str,
    Query(
        min_length=1,
        max_length=255,
        pattern=_TEXT,
        description="Name of the picture. A product without one called main is shown by its first.",
    ),
]
Category = Annotated[
    str | None,
    Query(min_length=1, max_length=255, pattern=_TEXT, description="Only those of this category."),
]
Uncategorised = Annotated[bool, Query(description="Only those without a category.")]
Prefix = Annotated[
    str, Query(max_length=255, pattern=_TEXT, description="What their product ids begin with.")
]
Cursor = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=1400,
        pattern="^[A-Za-z0-9_-]+$",
        description="What the page before said as `next`.",
    ),
]
Before = Annotated[
    str | None,
    Query(pattern="^[1-9][0-9]{0,17}$", description="What the page before said as `next`."),
]
OfReason = Annotated[Reason | None, Query(description="Only those of this reason.")]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def add_lookbook(app: FastAPI, gateway: Gateway, route: Route) -> None:
    """Add them to an application."""
    browsing = Browsing(gateway)
    _page(app)
    _access(app, gateway)
    _catalogue(browsing, route)
    _service(browsing, route)
    _failures(browsing, route)
    _judgements(browsing, route)


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


def _catalogue(browsing: Browsing, route: Route) -> None:
    async def catalogue(
        category: Category = None,
        uncategorised: Uncategorised = False,
        prefix: Prefix = "",
        after: Cursor = None,
        limit: PageSize = 60,
    ) -> Response:
        """What is in the catalogue: a page of products with a picture, in the order of their ids."""
        return await browsing.catalogue(
            after, category=category, uncategorised=uncategorised, prefix=prefix, limit=limit
        )

    async def categories() -> Response:
        """How many products each category has, the largest first."""
        return await browsing.categories()

    async def thumbnail(request: Request, product_id: ProductId, name: Name = "main") -> Response:
        """A small picture of a product."""
        return await browsing.thumbnails.response(request, product_id, name)

    route("GET /catalogue", catalogue, READ, described.catalogue())
    route("GET /categories", categories, READ, described.categories())
    route("GET /thumbnails/{product_id:path}", thumbnail, READ, described.thumbnail())


def _service(browsing: Browsing, route: Route) -> None:
    async def status() -> Response:
        """How the queue is, and what the service says of itself."""
        return await browsing.status()

    async def generations() -> Response:
        """The generations of the index that can be asked: those whose files are kept."""
        return await browsing.generations()

    route("GET /status", status, READ, described.status())
    route("GET /generations", generations, READ, described.generations())


def _failures(browsing: Browsing, route: Route) -> None:
    async def failures(
        reason: OfReason = None,
        product_id: MaybeOfProduct = None,
        after: Before = None,
        limit: PageSize = 50,
    ) -> Response:
        """What was given up, with the reason of each, the newest first."""
        return await browsing.failures(after, reason=reason, product_id=product_id, limit=limit)

    async def requeue(request: Request) -> Response:
        """Send what was given up once more, as it was; what the shop has said of it since holds."""
        return await browsing.requeue(request)

    async def discard(request: Request) -> Response:
        """Forget what was given up, for good."""
        return await browsing.discard(request)

    route("GET /failures", failures, READ, described.failures())
    route(
        "POST /failures/requeue",
        requeue,
        WRITE,
        described.requeued(),
        described.choosing_failures(),
    )
    route(
        "POST /failures/discard",
        discard,
        WRITE,
        described.discarded(),
        described.choosing_failures(),
    )


def _judgements(browsing: Browsing, route: Route) -> None:
    async def judgements(request: Request, product_id: OfProduct) -> Response:
        """What people think of the matches of a product."""
        return await browsing.judgements(request, product_id)

    async def judge(request: Request) -> Response:
        """Say whether a match is a good one, in place of what the caller said before; null takes it back."""
        return await browsing.judge(request)

    route("GET /judgements", judgements, READ, described.judgements())
    route("PUT /judgements", judge, WRITE, described.judged(), described.judging())
