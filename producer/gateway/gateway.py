"""The gateway: requests become calls of the producer, and hold neither the event loop nor a thread for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from producer.client import Producer
from producer.errors import LookalikeError, UnknownJob
from producer.gateway import answers, asking, bodies
from producer.gateway.access import OPEN, Access, Scope
from producer.gateway.bodies import Body, Limits
from producer.gateway.mailboxes import Mailboxes
from producer.gateway.once import HEADER, Mark, Once
from producer.gateway.problems import (
    MEDIA_TYPE,
    SOON,
    Problem,
    Refusal,
    Refused,
    refuse,
    refused,
)
from producer.gateway.questions import LARGE, Questions
from producer.gateway.settings import GatewaySettings, is_loopback
from producer.gateway.threads import Threads
from producer.gateway.turns import Turns
from producer.mailbox import LookupState, is_open, parse, state_of
from producer.messages import QueueStatus
from producer.receipts import Receipt
from producer.transport import RedisTransport, connect, unavailable

ASKING, WAITING = 8, 512
"""Threads for what is quick, and requests that may wait for one."""
LOADING, LOADS_WAITING = 2, 64
"""The same for what is large: it must not take the threads of what is quick."""
OWN_SITES = ("same-origin", "none")
"""What a browser says of a request (https://www.w3.org/TR/fetch-metadata/) of our own page, or of who types its
address; a page of another port of this machine is "same-site"."""
ALIVE_EVERY = 15.0
"""Seconds between two signs of life to whoever listens to events."""


class Gateway:
    """One process's gateway. Its methods are the operations; `run` must run beside them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.access = Access.of(settings.api_keys)
        self.mailboxes = Mailboxes(settings)
        self._transport = RedisTransport(settings)
        self._shop = Producer(settings, transport=self._transport)
        self._redis = connect(settings)
        self._once = Once(self._redis)
        self._quick = Threads("asking", ASKING, WAITING)
        self._slow = Threads("loading", LOADING, LOADS_WAITING)
        self.limits = Limits(settings.max_body, settings.http_timeout)
        self._turns = Turns(self.mailboxes)
        self.questions = Questions(self._transport, self.mailboxes, self._quick, self._turns)
        self.pools = (self._quick, self._slow)
        self.loop: asyncio.AbstractEventLoop | None = None
        """In which it runs, once it does."""

    async def run(self) -> None:
        """Look after the mailboxes until cancelled, then let go of every connection."""
        self.loop = asyncio.get_running_loop()
        try:
            await self.mailboxes.run()
        finally:
            self._quick.close()
            self._slow.close()
            self._shop.close()
            self._redis.close()
            await self.mailboxes.close()

    def stop_soon(self) -> None:
        """Let go whoever waits, so that the server can stop."""
        self.mailboxes.close_soon()

    # -- who may ----------------------------------------------------------------------------------

    def allow(self, request: Request, scopes: frozenset[Scope]) -> None:
        """Note whose request it is. Raises Refused if it has none of the scopes."""
        if self.access.is_open:
            _from_this_machine(request)
            request.state.owner = OPEN
            return
        key = self.access.key(request.headers.get("authorization"))
        if key is None:
            problem = Problem.of(Refusal.UNAUTHENTICATED, "Send Authorization: Bearer SECRET.")
            raise Refused(problem, {"WWW-Authenticate": "Bearer"})
        if not key.scopes & scopes:
            needed = " or ".join(sorted(scopes))
            problem = Problem.of(Refusal.FORBIDDEN, f"This needs a key with the scope {needed}.")
            challenge = f'Bearer error="insufficient_scope", scope="{" ".join(sorted(scopes))}"'
            raise Refused(problem, {"WWW-Authenticate": challenge})
        request.state.owner = key.name

    def scopes(self, request: Request) -> Response:
        """What the caller may do: nothing, without a key that is known, where there are keys."""
        if self.access.is_open:
            _from_this_machine(request)
            return json_response({"open": True, "scopes": sorted(Scope)})
        key = self.access.key(request.headers.get("authorization"))
        return json_response({"open": False, "scopes": sorted(key.scopes) if key else []})

    async def queues(self) -> tuple[int, tuple[QueueStatus, ...]]:
        """The backlog, and how the queues are."""
        return await self._quick.run(lambda: (self._transport.backlog(), self._transport.queues()))

    # -- products ---------------------------------------------------------------------------------

    async def add(self, request: Request) -> Response:
        """Add one product or many."""
        body = await bodies.read(request, self.limits, asking.PRODUCTS)
        work = partial(asking.add, self._shop, body)
        return _accepted(await self._do(request, body, work, self.settings.outcome_ttl))

    async def remove(self, request: Request, product_id: str, version: int | None) -> Response:
        """Take a product out."""
        body = Body(json.dumps([product_id, version]).encode())
        work = partial(asking.remove, self._shop, product_id, version)
        return _accepted(await self._do(request, body, work, self.settings.outcome_ttl))

    async def job(self, job_id: str) -> Response:
        """What became of a job."""
        return json_response(await self._quick.run(partial(self._outcome, job_id)))

    def _outcome(self, job_id: str) -> dict[str, Any]:
        tracker = self._shop.track([Receipt(job_id, 1, self._transport)])
        while tracker.poll():
            """Some of its items are tried again as another job: look at that one too."""
        if not tracker.done and self._transport.missing([job_id]):
            raise UnknownJob
        return answers.outcome(job_id, tracker.outcome, ended=not tracker.open)

    # -- lookups ----------------------------------------------------------------------------------

    async def ask(self, request: Request, wait: float) -> Response:
        """Ask; give the answer if it comes within `wait` seconds, and where to find it otherwise."""
        body = await bodies.read(request, self.limits, asking.LOOKUP)
        work = partial(self._ask, body)
        made = await self._do(request, body, work, self.settings.lookup_ttl)
        if wait:
            return await self.lookup(made["id"], wait)
        return _lookup(answers.queued(made["id"]))

    def _ask(self, body: Body) -> dict[str, Any]:
        question = asking.of_the_past(body, self.settings.lookup_ttl)
        if question is None:
            return asking.ask(self._shop, body)
        assert self.loop is not None
        self._turns.look_for_room()
        self._transport.ask(question)
        asyncio.run_coroutine_threadsafe(self._turns.count(question.id), self.loop)
        return {"id": question.id}

    async def lookup(self, lookup_id: str, wait: float) -> Response:
        """How far a lookup is, and its reply, which may take `wait` seconds to come."""
        return _lookup(await self._document(lookup_id, await self.mailboxes.wait(lookup_id, wait)))

    async def events(self, request: Request, lookup_id: str) -> Response:
        """The states of a lookup as they come, the last with its reply."""
        raw = await self.mailboxes.look(lookup_id)
        first = await self._document(lookup_id, raw)
        if request.headers.get("last-event-id") == first["state"] and not is_open(raw):
            return Response(status_code=204)  # what tells a browser not to come again
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = self._events(lookup_id, raw, first)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _events(
        self, lookup_id: str, raw: bytes | None, document: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        yield answers.event(document["state"], document)
        try:
            while is_open(raw) and not self.mailboxes.closing:
                seen, raw = raw, await self.mailboxes.change(lookup_id, raw, ALIVE_EVERY)
                if raw == seen:
                    yield b": still waiting\n\n"
                else:
                    document = await self._document(lookup_id, raw)
                    yield answers.event(document["state"], document)
        except (LookalikeError, Refused) as error:
            problem = (error if isinstance(error, Refused) else refused(error)).problem
            yield answers.event("problem", problem.document)

    async def _document(self, lookup_id: str, raw: bytes | None) -> dict[str, Any]:
        read = partial(self._read, lookup_id, raw)
        return await self._slow.run(read) if raw is not None and len(raw) > LARGE else read()

    def _read(self, lookup_id: str, raw: bytes | None) -> dict[str, Any]:
        asked = self._shop.batch(lookup_id)
        try:
            answer = None if raw is None else parse(raw)
        except ValidationError:
            return answers.unreadable(lookup_id)
        return answers.lookup(asked, state_of(lookup_id, answer, self.settings.lookup_ttl), answer)

    # -- the gateway itself -----------------------------------------------------------------------

    async def health(self) -> Response:
        """Whether the queue can be reached."""
        await self.mailboxes.look("health")
        return json_response({"state": "ok"})

    async def _do(
        self, request: Request, body: Body, work: Callable[[], dict[str, Any]], ttl: float
    ) -> dict[str, Any]:
        """Do what changes something, in a thread; once only, if the request has a key."""
        key = request.headers.get(HEADER)
        threads = self._quick if body.size <= LARGE else self._slow
        if key is None:
            return await threads.run(work)
        place = f"{request.method} {request.url.path}"
        owner = request.state.owner
        return await threads.run(lambda: self._do_once(owner, key, place, body, (ttl, work)))

    def _do_once(
        self,
        owner: str,
        key: str,
        place: str,
        body: Body,
        how: tuple[float, Callable[[], dict[str, Any]]],
    ) -> dict[str, Any]:
        mark = Mark.of(owner, key, body.said(place))
        try:
            return self._once.do(mark, *how)
        except RedisError as error:
            raise unavailable(error, self.settings.redis_url.get_secret_value()) from error


def problem_response(refused: Refused) -> Response:
    """A refusal as a response."""
    problem = refused.problem
    headers = {"Cache-Control": "no-store", **refused.headers}
    content = answers.encode(problem.document)
    return Response(content, problem.status, headers, MEDIA_TYPE)


def _from_this_machine(request: Request) -> None:
    """Refuse a page of the web that makes a browser on this machine ask, under whatever name it has for it.

    A browser sends no Origin for a picture in a page, but says whether it is of the same site.
    """
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    with suppress(ValueError):
        host = urlsplit(f"//{request.headers.get('host', '')}")
        if (
            is_loopback(host.hostname or "localhost")
            and (origin is None or urlsplit(origin).netloc == host.netloc)
            and site in (None, *OWN_SITES)
        ):
            return
    raise refuse(
        Refusal.FORBIDDEN,
        "Without API keys only this machine may ask, by the name localhost or 127.0.0.1: set "
        "LOOKALIKE_API_KEYS for others.",
    )


def _accepted(made: dict[str, Any]) -> Response:
    """What was accepted; the address of its job, if it is one."""
    jobs = made["jobs"]
    location = {"Location": jobs[0]["url"]} if len(jobs) == 1 else {}
    return json_response(made, 202, location)


def _lookup(document: dict[str, Any]) -> Response:
    if document["state"] in (LookupState.QUEUED, LookupState.RUNNING):
        headers = {"Location": document["url"], "Retry-After": str(SOON)}
        return json_response(document, 202, headers)
    return json_response(document)


def json_response(
    document: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A document as a response, which nobody keeps."""
    shown = {"Cache-Control": "no-store", **(headers or {})}
    return Response(answers.encode(document), status, shown, "application/json")


async def looked_after(gateway: Gateway) -> AsyncIterator[None]:
    """Run the gateway for as long as its application lives."""
    task = asyncio.create_task(gateway.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
