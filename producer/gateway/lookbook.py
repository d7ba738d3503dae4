"""The lookbook's page and what it is made of: files beside the producer, read once, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from producer.gateway.problems import Refusal, refuse

PAGE = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, and no script or style but from these files."""
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


class Lookbook:
    """The files, by their names: what is not among them is not there, whatever a path says."""

    def __init__(self) -> None:
        folder = resources.files("producer") / "lookbook"
        self._assets = {
            each.name: _asset(each.read_bytes(), TYPES[suffix])
            for each in folder.iterdir()
            if (suffix := f".{each.name.rpartition('.')[2]}") in TYPES
        }

    def response(self, request: Request, name: str = PAGE) -> Response:
        """A file, or that the client has it already. Raises Refused for one that is not there."""
        asset = self._assets.get(name)
        if asset is None:
            raise refuse(Refusal.NO_SUCH_ADDRESS, "The lookbook is at /lookbook/.")
        headers = _HEADERS | {"ETag": asset.etag}
        if is_known(request, asset.etag):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)


def etag_of(content: bytes) -> str:
    """What tells these bytes from others."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def is_known(request: Request, etag: str) -> bool:
    """Whether the client says that it has what is known by this tag."""
    said = request.headers.get("if-none-match", "")
    known = {each.strip().removeprefix("W/") for each in said.split(",")}
    return etag in known or "*" in known


def _asset(content: bytes, media_type: str) -> Asset:
    return Asset(content, media_type, etag_of(content))
