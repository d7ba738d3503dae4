"""Fetch pictures from object stores, out of the buckets that the operator listed.

Through fsspec, whose file systems are how Python programs ordinarily reach such stores: s3fs is the one for S3, is
alive (a release every other month, with fsspec's own), and speaks to everything that speaks S3. Google's stores do
too, so `gs://` needs no second package. The file system makes the connection; the object is read from it here,
since fsspec's own way to read a range holds whatever a server sends that takes no notice of the range.

Nothing but the settings counts: botocore, which is below, would look for keys, addresses, proxies and certificates
in the environment, in `~/.aws` and at the cloud's metadata address, and fsspec for options in its own variables
and files. So botocore gets a session whose every variable is a constant, and fsspec a file system that has no name
to be configured by. Without keys in the settings the access is anonymous.

s3fs is imported when a store is first used: it is an extra (`stores`), and takes half a second to load.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self, TypeVar
from urllib.parse import unquote

import certifi

from producer.reasons import Reason
from worker.images.errors import ImageError

T = TypeVar("T")
DEFAULT_ENDPOINTS: Final = {"s3": None, "gs": "https://storage.googleapis.com"}
"""Schemes that are read, and where, when the settings do not say; None: Amazon, by region."""
DEFAULT_REGIONS: Final = {"s3": "us-east-1", "gs": "auto"}
PACKAGE: Final = "s3fs"
MAX_CONNECTIONS: Final = 16
MAX_ERROR_BYTES: Final = 1 << 16
"""Most that is read of what a store says about an error."""
_BLOCK: Final = 1 << 18
_BUCKET: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){1,220}[A-Za-z0-9]")
_INTERPRETED: Final = re.compile(r"[?#\x00-\x1f\x7f]|::")
"""What somebody on the way might read as more than a key: queries, control characters, fsspec's chains."""
_SEPARATOR: Final = re.compile(r"[/\\]")
_RETRYABLE: Final = {408, 425, 429, 500, 502, 503, 504}
_RETRYABLE_CODES: Final = {"InternalError", "RequestTimeout", "SlowDown", "ServiceUnavailable"}
_CODE: Final = re.compile(r"[A-Za-z]{1,40}")
_TOTAL: Final = re.compile(r"bytes \d+-\d+/(\d+)")


# -- what is allowed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Location:
    """A place in a store: a scheme, a bucket, and the segments of a key or of the start of one."""

    scheme: str
    bucket: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take an address apart; raise ValueError for what could be read in more than one way."""
        scheme, found, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        if not found or not _BUCKET.fullmatch(bucket) or _INTERPRETED.search(rest):
            raise ValueError("not a plain address of a bucket")
        # Servers have been seen to decode twice, and to take a backslash for a slash.
        for form in (key, unquote(key)):
            if key and not {"", ".", ".."}.isdisjoint(_SEPARATOR.split(form)):
                raise ValueError("not plain: its key has empty segments, `.` or `..`")
        return cls(scheme, bucket, tuple(key.split("/")) if key else ())

    @property
    def key(self) -> str:
        """Name of the object in its bucket."""
        return "/".join(self.segments)

    def holds(self, other: Location) -> bool:
        """Whether `other` is this place or below it, by whole segments."""
        return (self.scheme, self.bucket) == (other.scheme, other.bucket) and (
            other.segments[: len(self.segments)] == self.segments
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def bucket_rule(entry: str) -> Location:
    """One entry of the list of buckets, `scheme://bucket[/prefix]`; raise ValueError that says what is wrong."""
    schemes = " or ".join(f"{scheme}://" for scheme in DEFAULT_ENDPOINTS)
    if entry.partition("://")[0] not in DEFAULT_ENDPOINTS:
        raise ValueError(f"every bucket must start with {schemes}")
    try:
        return Location.parse(entry.rstrip("/"))
    except ValueError:
        raise ValueError("every bucket must look like s3://BUCKET or s3://BUCKET/PREFIX") from None


# -- how to get in --------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoreOptions:
    """How one scheme's store is reached; without a key anonymously. Its repr holds no secret."""

    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    endpoint_url: str | None = field(default=None, repr=False)
    region: str | None = None
    addressing_style: str | None = None
    """`path` or `virtual`; by default `path` where `endpoint_url` is set."""


def store_options(text: str | None) -> dict[str, StoreOptions]:
    """Options by scheme, from a JSON object of objects; raise ValueError that repeats nothing of the text."""
    if text is None:
        return {}
    try:
        parsed = json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON object") from None
    if not isinstance(parsed, dict) or not parsed.keys() <= DEFAULT_ENDPOINTS.keys():
        raise ValueError(f"must be a JSON object by scheme: {', '.join(DEFAULT_ENDPOINTS)}")
    return {scheme: _options(each) for scheme, each in parsed.items()}


def _options(given: object) -> StoreOptions:
    names = [each.name for each in fields(StoreOptions)]
    if not isinstance(given, dict) or not given.keys() <= set(names):
        raise ValueError(f"every scheme must have a JSON object of {', '.join(names)}")
    if not all(isinstance(value, str) and value for value in given.values()):
        raise ValueError("every option must be a string, and not empty")
    if ("key" in given) != ("secret" in given) or ("token" in given and "key" not in given):
        raise ValueError("key and secret go together, and token with them")
    if not given.get("endpoint_url", "https://").startswith(("http://", "https://")):
        raise ValueError("endpoint_url must start with http:// or https://")
    if given.get("addressing_style", "path") not in {"path", "virtual"}:
        raise ValueError("addressing_style must be path or virtual")
    return StoreOptions(**given)


# -- fetching -------------------------------------------------------------------------------------


class Stores:
    """Gets objects out of the buckets it was allowed; keeps connections open between them. Thread-safe."""

    def __init__(
        self,
        buckets: tuple[str, ...],
        options: Mapping[str, StoreOptions],
        max_bytes: int,
        timeout: float,
        connect_timeout: float,
    ) -> None:
        """Nothing is imported, started or connected before the first `get` that is allowed."""
        self._rules = tuple(bucket_rule(each) for each in buckets)
        self._options = options
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._opening = threading.Lock()
        self._loop: _Loop | None = None
        self._systems: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self._closed = False

    def get(self, url: str) -> tuple[bytes, str]:
        """Return the object's bytes, and its address; raise ImageError."""
        place = self._allowed(url)
        try:
            loop, system = self._opened(place.scheme)
            return loop.run(self._read(system, place), self._timeout), str(place)
        except (ImageError, CancelledError, TimeoutError) as error:
            raise _as_image_error(error, self._timeout) from None
        except Exception as error:
            raise _of_the_layers_below(error, self._timeout) from None

    def close(self) -> None:
        """Close kept connections, and give up what is still being read."""
        with self._opening:
            self._closed = True
            loop, self._loop = self._loop, None
            self._systems.clear()
        if loop is not None:
            loop.close(self._disconnect())

    def _allowed(self, url: str) -> Location:
        try:
            place = Location.parse(url)
        except ValueError as error:
            raise ImageError(Reason.BUCKET_DENIED, f"the address is {error}") from None
        if place.segments and any(rule.holds(place) for rule in self._rules):
            return place
        raise ImageError(
            Reason.BUCKET_DENIED,
            f"{place.scheme}://{place.bucket} or this part of it is not one that the worker may read; "
            "name it in LOOKALIKE_IMAGE_BUCKETS",
        )

    def _opened(self, scheme: str) -> tuple[_Loop, Any]:
        with self._opening:
            if self._closed:
                raise CancelledError
            if scheme not in self._systems:
                options = self._options.get(scheme, StoreOptions())
                self._systems[scheme] = _file_system(
                    scheme, options, self._timeout, self._connect_timeout
                )
            if self._loop is None:
                self._loop = _Loop()
            return self._loop, self._systems[scheme]

    async def _read(self, system: Any, place: Location) -> bytes:
        client = self._clients[place.scheme] = await system.set_session()
        answer = await client.get_object(
            Bucket=place.bucket, Key=place.key, Range=f"bytes=0-{self._max_bytes}"
        )
        async with answer["Body"] as body:
            self._check_size(_size(answer))
            read = bytearray()
            while block := await body.read(_BLOCK):
                read += block
                self._check_size(len(read))
            return bytes(read)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ImageError(Reason.TOO_LARGE, f"more than {self._max_bytes:,} bytes")

    async def _disconnect(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


def _size(answer: Mapping[str, Any]) -> int:
    """Bytes of the whole object, or, where the server does not say, of what it sends."""
    total = _TOTAL.fullmatch(answer.get("ContentRange") or "")
    return int(total[1]) if total else int(answer.get("ContentLength") or 0)


# -- what went wrong ------------------------------------------------------------------------------


def _as_image_error(error: BaseException, timeout: float) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, CancelledError):
        return _failed("the worker is stopping", transient=True)
    detail = f"not fetched within {timeout:g} s (LOOKALIKE_FETCH_TIMEOUT)"
    return ImageError(Reason.FETCH_TIMEOUT, detail, transient=True)


def _of_the_layers_below(error: Exception, timeout: float) -> ImageError:
    """A message of theirs may hold a key or an address of the settings: only its kind is told."""
    from botocore import exceptions as told

    if isinstance(error, told.ClientError):
        return _refused(error.response)
    if isinstance(error, told.ConnectTimeoutError | told.ReadTimeoutError):
        return _as_image_error(error, timeout)
    # The rest of botocore's own errors are about what was asked; all others about what came, or did not.
    unanswered = told.ConnectionError | told.HTTPClientError | told.IncompleteReadError
    final = isinstance(error, told.BotoCoreError) and not isinstance(error, unanswered)
    detail = f"the store cannot be asked: {type(error).__name__}"
    return _failed(detail, transient=not final)


def _refused(answer: Mapping[str, Any]) -> ImageError:
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = str(answer.get("Error", {}).get("Code", ""))
    code = said if _CODE.fullmatch(said) else ""
    detail = f"the store answered {status}" + (f" ({code})" if code else "")
    if status in {404, 410}:
        return ImageError(Reason.NOT_FOUND, detail)
    if status == 416:  # the one range that no object lacks, but for an empty one
        return ImageError(Reason.CORRUPT_IMAGE, "the object is empty")
    return _failed(detail, transient=status in _RETRYABLE or code in _RETRYABLE_CODES)


def _failed(detail: str, *, transient: bool) -> ImageError:
    return ImageError(Reason.FETCH_FAILED, detail, transient=transient)


# -- the file system ------------------------------------------------------------------------------


def _file_system(scheme: str, options: StoreOptions, timeout: float, connect_timeout: float) -> Any:
    """An s3fs file system of its own that connects when it is asked to."""
    try:
        from s3fs import S3FileSystem
    except ImportError:
        detail = f"{scheme}: stores need a package that is missing here: pip install {PACKAGE}"
        raise _failed(detail, transient=False) from None
    endpoint = options.endpoint_url or DEFAULT_ENDPOINTS[scheme]
    style = options.addressing_style or ("path" if endpoint else "auto")
    # fsspec completes what it is told with what variables and files say of a file system's protocols.
    unnamed = type("UnnamedFileSystem", (S3FileSystem,), {"protocol": ()})
    return unnamed(
        skip_instance_cache=True,
        asynchronous=True,
        session=_session(),
        anon=options.key is None,
        key=options.key,
        secret=options.secret,
        token=options.token,
        endpoint_url=endpoint,
        client_kwargs={
            "region_name": options.region or DEFAULT_REGIONS[scheme],
            "verify": certifi.where(),
        },
        config_kwargs={
            "connect_timeout": connect_timeout,
            "read_timeout": timeout,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "proxies": {},
            "ignore_configured_endpoint_urls": True,
            "max_pool_connections": MAX_CONNECTIONS,
            "http_session_cls": _http_session(),
            "user_agent": "Lookalike",
            "s3": {"addressing_style": style},
            # Stores that only resemble Amazon's have no checksums of ranges.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )


def _session() -> Any:
    """A session of botocore that reads no variable, no file of the user and no metadata address.

    What it would look up there are its "config variables": each is a constant here, the library's own default.
    """
    from aiobotocore.credentials import AioCredentialResolver
    from aiobotocore.session import AioSession
    from botocore.configprovider import (
        BOTOCORE_DEFAUT_SESSION_VARIABLES,
        ConfigValueStore,
        ConstantProvider,
    )
    from botocore.loaders import Loader

    values = {name: each[2] for name, each in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    values |= {"config_file": None, "credentials_file": None, "s3": None, "proxies_config": None}
    constants = ConfigValueStore({name: ConstantProvider(each) for name, each in values.items()})
    models = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    # Plugins are modules that a variable names.
    session = type("Session", (AioSession,), {"_register_client_plugins": lambda *_: None})()
    session.register_component("config_store", constants)
    session.register_component("credential_provider", AioCredentialResolver([]))
    session.register_component("data_loader", models)
    return session


def _http_session() -> Any:
    """aiobotocore's connections, but for two habits.

    It would follow a redirect to wherever that leads, and read the text of an error to its end.
    """
    from aiobotocore.httpsession import AIOHTTPSession

    async def get_session(self: Any, proxy_url: str | None) -> _Wary:
        return _Wary(await AIOHTTPSession._get_session(self, proxy_url))  # noqa: SLF001

    return type("HttpSession", (AIOHTTPSession,), {"_get_session": get_session})


@dataclass(frozen=True)
class _Wary:
    """A session of aiohttp that takes a redirect for an answer, and little of what is no success."""

    session: Any

    async def request(self, method: str, **how: Any) -> Any:
        """Ask, once; raise ConnectionError when an error is explained at too great length."""
        answer = await self.session.request(method, allow_redirects=False, **how)
        if answer.status >= 300:
            text = bytearray()
            while block := await answer.content.readany():
                text += block
                if len(text) > MAX_ERROR_BYTES:
                    answer.close()
                    raise ConnectionError
            answer._body = bytes(text)  # noqa: SLF001 - what `read` returns
        return answer


class _Loop:
    """A thread with an event loop: fsspec's own is never ended, and is shared by the whole process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stores", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """What `work` returns or raises; TimeoutError after `timeout` seconds, CancelledError on `close`."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), self._loop)
        try:
            # The loop keeps the time itself, unless something holds it up.
            return future.result(timeout + 1.0)
        finally:
            future.cancel()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, do a last thing, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._wind_up(last), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _wind_up(self, last: Coroutine[Any, Any, None]) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await last
