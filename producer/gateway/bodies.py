"""Bodies of requests: read within limits on their size and time, by pieces."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from producer import checks
from producer.gateway.problems import Refusal, Refused, refuse

MAX_JSON = 2 << 20
"""Bytes of a JSON document: it is read in one go, and while it is nothing else is."""
SLOWEST = 16 << 10
"""Bytes a second that a client must send on average, beside its first HTTP_TIMEOUT seconds."""
MAX_FILES = 64
IN_MEMORY = 64 << 10
"""Bytes of a picture that are kept in memory; a larger one waits on disk."""
DRAINED, DRAIN_FOR = 8 << 20, 2.0
"""Bytes and seconds of a refused body that are read on: some clients read no answer before they have sent all."""
JSON, MULTIPART = "application/json", "multipart/form-data"
NO_ADDRESS = "not a whole address (http, https, s3 or gs); a picture itself goes into a multipart/form-data part"
D = TypeVar("D", bound=BaseModel)


@dataclass(frozen=True)
class Limits:
    """What a body may cost."""

    most: int
    """Bytes."""
    timeout: float
    """Seconds of silence."""


@dataclass(frozen=True)
class Body:
    """What came with a request: a document, and the pictures beside it by the names of their parts."""

    document: bytes
    multipart: bool = False
    files: Mapping[str, tuple[BinaryIO, ...]] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other fields of the form."""

    @property
    def size(self) -> int:
        """How much there is to do, roughly."""
        return len(self.document) + (IN_MEMORY if self.files else 0)

    def said(self, place: str) -> bytes:
        """What the request says, in one spelling, whatever bounds its parts had. Raises Refused."""
        parts = [
            [name, [hashlib.sha256(_rewound(file).read()).hexdigest() for file in files]]
            for name, files in sorted(self.files.items())
        ]
        texts = sorted((name, *values) for name, values in self.texts.items())
        return json.dumps([place, self.value(), parts, texts], sort_keys=True).encode()

    def value(self) -> object:
        """The document as plain values. Raises Refused for what is not JSON."""
        try:
            return from_json(self.document, allow_inf_nan=False)
        except ValueError as error:
            raise _malformed(f"This is not JSON: {error}") from None

    def read(self, type_: type[D]) -> D:
        """The document as one of this type. Raises Refused."""
        return cast("D", self._read(_adapter(type_)))

    def read_many(self, type_: type[D], most: int) -> list[D]:
        """The document as one of this type, or a list of them. Raises Refused."""
        if self.document.lstrip()[:1] != b"[":
            return [self.read(type_)]
        found = cast("list[D]", self._read(_adapter(list[type_])))  # type: ignore[valid-type]
        if not 1 <= len(found) <= most:
            raise _malformed(f"The list must have 1 to {most:,} elements, not {len(found):,}.")
        return found

    def pictures(self, name: str) -> list[bytes]:
        """The pictures in the parts of this name."""
        return [_rewound(file).read() for file in self.files.get(name, ())]

    def _read(self, adapter: TypeAdapter[object]) -> object:
        try:
            return adapter.validate_json(self.document)
        except ValidationError as error:
            said = checks.explain(error)
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            if problem["type"] == "value_error":  # a rule that the schema cannot say
                raise refuse(Refusal.INVALID_REQUEST, said) from None
            if problem["type"] == "string_pattern_mismatch":  # addresses alone have patterns
                said = f"{said.partition(':')[0]}: {NO_ADDRESS}"
            raise _malformed(said) from None


@cache
def _adapter(type_: type[object]) -> TypeAdapter[object]:
    """Made once: it takes longer than reading a document with it."""
    return TypeAdapter(type_)


async def read(request: Request, limits: Limits, part: str) -> Body:
    """The body of a request: JSON, or a form whose field `part` is JSON. Raises Refused."""
    kind = _kind(request)
    if _is_json(kind):
        return await _json(request, limits)
    if kind == MULTIPART:
        return await _form(request, limits, part)
    raise refuse(
        Refusal.UNSUPPORTED_MEDIA_TYPE,
        f"Send {JSON}, or {MULTIPART} with pictures, and say so in Content-Type.",
    )


async def read_json(request: Request, limits: Limits) -> Body:
    """The body of a request that brings no pictures. Raises Refused."""
    if not _is_json(_kind(request)):
        raise refuse(Refusal.UNSUPPORTED_MEDIA_TYPE, f"Send {JSON}, and say so in Content-Type.")
    return await _json(request, limits)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


async def _json(request: Request, limits: Limits) -> Body:
    stream = _Stream(request, Limits(min(limits.most, MAX_JSON), limits.timeout))
    return Body(b"".join([piece async for piece in stream.pieces()]))


class _Parser(MultiPartParser):
    spool_max_size = IN_MEMORY


async def _form(request: Request, limits: Limits, part: str) -> Body:
    stream = _Stream(request, limits).pieces()
    parser = _Parser(
        request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FILES, max_part_size=MAX_JSON
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _malformed(f"The form cannot be read: {error.message}") from None
    except Refused:
        raise
    except (ValueError, KeyError, AssertionError) as error:
        raise _malformed(f"The form cannot be read: {error}") from None
    return await _of_form(form, part)


async def _of_form(form: FormData, part: str) -> Body:
    files: dict[str, tuple[BinaryIO, ...]] = {}
    texts: dict[str, tuple[str, ...]] = {}
    document = b""
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name == part:
                document = await value.read(MAX_JSON + 1)
            else:
                files[name] = (*files.get(name, ()), value.file)
        elif name == part:
            document = value.encode()
        else:
            texts[name] = (*texts.get(name, ()), value)
    return Body(document or b"{}", multipart=True, files=files, texts=texts)


class _Stream:
    """The pieces of a body, within its limits."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._received = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Each piece as it comes; Refused for one too many, or too late."""
        self._check_promise()
        stream = self._request.stream()
        while True:
            piece = await self._next(stream)
            if piece is None:
                return
            self._received += len(piece)
            if self._received > self._limits.most:
                await self._drain(stream)
                raise self._too_large()
            yield piece

    async def _next(self, stream: AsyncGenerator[bytes, None]) -> bytes | None:
        at_this_pace = self._limits.timeout + self._received / SLOWEST
        left = self._began + at_this_pace - self._clock()
        try:
            async with asyncio.timeout(min(left, self._limits.timeout)):
                return await anext(stream, None)
        except TimeoutError:
            raise refuse(
                Refusal.TOO_SLOW,
                f"{self._received:,} bytes had come: send at least {SLOWEST // 1024} KiB a second.",
            ) from None
        except ClientDisconnect:
            raise _malformed("The request was cut off.") from None

    def _check_promise(self) -> None:
        """Refuse what says itself that it is too large; whoever waits to be asked for it is spared sending it."""
        promised = self._request.headers.get("content-length", "")
        waits = self._request.headers.get("expect", "").lower() == "100-continue"
        if waits and promised.isdigit() and int(promised) > self._limits.most:
            raise self._too_large()

    async def _drain(self, stream: AsyncGenerator[bytes, None]) -> None:
        drained = 0
        try:
            async with asyncio.timeout(DRAIN_FOR):
                async for piece in stream:
                    drained += len(piece)
                    if drained > DRAINED:
                        return
        except (TimeoutError, ClientDisconnect):
            return

    def _too_large(self) -> Refused:
        detail = f"It may have {self._limits.most:,} bytes: send it in parts, or pictures apart."
        problem = refuse(Refusal.BODY_TOO_LARGE, detail)
        return Refused(problem.problem, {"Connection": "close"})


def _malformed(detail: str) -> Refused:
    return refuse(Refusal.MALFORMED, detail)


def _rewound(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file
