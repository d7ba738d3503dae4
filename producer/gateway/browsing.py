"""What the lookbook is shown and may change: requests become questions to the service, and wait for its answer."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from producer.browsing import (
    Browse,
    CataloguePage,
    Categories,
    CategoryList,
    Discard,
    Discarded,
    FailureList,
    FailurePage,
    GenerationList,
    Generations,
    Requeue,
    Requeued,
)
from producer.depths import deepest
from producer.gateway import bodies
from producer.gateway.access import OPEN
from producer.gateway.bodies import Body
from producer.gateway.documents_lookbook import AllFailures, FailuresById, FailuresByReason, Vote
from producer.gateway.gateway import Gateway, json_response
from producer.gateway.problems import Refusal, Refused, refuse
from producer.gateway.thumbnails import Thumbnails
from producer.judging import JudgeMatch, Judgement, JudgementList, Judgements
from producer.messages import StatusReply, StatusRequest

STATUS_IN, STATUS_FRESH = 3.0, 1.0
"""Seconds that the service may take to say how it is, and for which that is told to everybody."""
ANYBODY = "anybody"
"""Who judges where there are no keys."""


class Browsing:
    """The operations, each by the questions of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ask = gateway.questions.reply
        self._looking: asyncio.Task[dict[str, Any]] | None = None
        self._looked_at = float("-inf")
        self.thumbnails = Thumbnails(gateway.questions)

    async def catalogue(self, after: str | None, **wanted: Any) -> Response:
        """A page of the catalogue."""
        if wanted["category"] is not None and wanted["uncategorised"]:
            raise refuse(
                Refusal.INVALID_REQUEST, "category and uncategorised exclude each other: give one"
            )
        page = await self._ask(Browse, CataloguePage, after=_product_of(after), **wanted)
        next_ = _cursor_of(page.products[-1].product_id) if page.more else None
        return json_response({"products": _plain(page)["products"], "next": next_})

    async def categories(self) -> Response:
        """How large each category is."""
        return json_response(_plain(await self._ask(CategoryList, Categories)))

    async def generations(self) -> Response:
        """The generations that are kept."""
        return json_response(_plain(await self._ask(GenerationList, Generations)))

    async def status(self) -> Response:
        """How the queue and the service are: one look for all who ask at about the same time, and one refusal."""
        clock = asyncio.get_running_loop().time
        if self._looking is None or (
            self._looking.done() and clock() - self._looked_at > STATUS_FRESH
        ):
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(_seen)
        return json_response(await asyncio.shield(self._looking))

    async def _look(self) -> dict[str, Any]:
        backlog, queues = await self._gateway.queues()
        service, problem = None, None
        try:
            reply = await self._ask(StatusRequest, StatusReply, STATUS_IN)
            service, queues = _plain(reply), deepest(queues, reply.queues)
        except Refused as refused:
            problem = f"{refused.problem.title}. {refused.problem.detail}"
        told = [each.model_dump(mode="json") for each in queues]
        self._looked_at = asyncio.get_running_loop().time()
        return {"backlog": backlog, "queues": told, "service": service, "problem": problem}

    # -- what was given up ------------------------------------------------------------------------

    async def failures(self, after: str | None, **wanted: Any) -> Response:
        """A page of what was given up."""
        before = None if after is None else int(after)
        page = await self._ask(FailureList, FailurePage, before=before, **wanted)
        next_ = str(page.failures[-1].id) if page.more else None
        return json_response({"failures": _plain(page)["failures"], "next": next_})

    async def requeue(self, request: Request) -> Response:
        """Send what is chosen once more."""
        chosen = _chosen(await bodies.read_json(request, self._gateway.limits))
        return json_response(_plain(await self._ask(Requeue, Requeued, **chosen)))

    async def discard(self, request: Request) -> Response:
        """Forget what is chosen."""
        chosen = _chosen(await bodies.read_json(request, self._gateway.limits))
        return json_response(_plain(await self._ask(Discard, Discarded, **chosen)))

    # -- judgements -------------------------------------------------------------------------------

    async def judgements(self, request: Request, product_id: str) -> Response:
        """What anybody thinks of the matches of a product."""
        found = await self._ask(JudgementList, Judgements, product_id=product_id)
        return json_response({"judgements": [_judged(request, each) for each in found.judgements]})

    async def judge(self, request: Request) -> Response:
        """Keep what the caller thinks of a match."""
        vote = (await bodies.read_json(request, self._gateway.limits)).read(Vote)
        made = await self._ask(JudgeMatch, Judgement, judge=_judge(request), **vote.model_dump())
        return json_response(_judged(request, made))


def _seen(looking: asyncio.Task[dict[str, Any]]) -> None:
    """Whoever asked may have gone away: nothing to warn of."""
    if not looking.cancelled():
        looking.exception()


def _judge(request: Request) -> str:
    owner: str = request.state.owner
    return ANYBODY if owner == OPEN else owner


def _judged(request: Request, judgement: Judgement) -> dict[str, Any]:
    return _plain(judgement) | {"mine": judgement.judge == _judge(request)}


def _plain(reply: Any) -> dict[str, Any]:
    document: dict[str, Any] = reply.model_dump(mode="json")
    return document


def _chosen(body: Body) -> Mapping[str, Any]:
    """Which failures a request is about. Raises Refused."""
    value = body.value()
    if isinstance(value, dict) and "reason" in value:
        return {"reason": body.read(FailuresByReason).reason}
    if isinstance(value, dict) and "all" in value:
        return {"every": body.read(AllFailures).all}
    return {"ids": tuple(body.read(FailuresById).ids)}


def _cursor_of(product_id: str) -> str:
    return base64.urlsafe_b64encode(product_id.encode()).decode().rstrip("=")


def _product_of(cursor: str | None) -> str | None:
    """The id that a page ended with. Raises Refused."""
    if cursor is None:
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        detail = "after must be what a page said as `next`"
        raise refuse(Refusal.INVALID_REQUEST, detail) from None
