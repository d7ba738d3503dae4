"""A page to look at: queries and what was found, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from producer.messages import Match, Reply

TINY = 64
"""Pixels: a picture that is not larger on any side is drawn with crisp pixels."""
_PICTURE_TYPES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


@dataclass(frozen=True)
class Exhibit:
    """A reply, with what the page shows as its question."""

    reply: Reply
    label: str | None = None
    """Name of the question; the product's id if not given."""
    picture: bytes | None = None
    """Picture of the question; the thumbnail of the product's main picture if not given."""
    category: str | None = None
    """Category of the question, to mark matches of the same one."""
    judged: bool = False
    """Whether matches of another category are marked as wrong."""
    note: str | None = None
    """What is said below the question; how it was answered if not given."""


def render(
    exhibits: Iterable[Exhibit | Reply],
    thumbnails: Mapping[tuple[str, str], bytes],
    *,
    title: str = "Looks like this",
    subtitle: str = "",
    facts: Mapping[str, object] | None = None,
) -> str:
    """The page as HTML text: each question on the left, what looks like it beside it, nearest first.

    `thumbnails` are JPEG, PNG, GIF or WebP bytes by (product id, image name), as `Producer.thumbnails` gives
    them; where one is missing its place stays empty. `facts` are shown as a row of small labels. All text is
    escaped, and the page fetches nothing.
    """
    sections = "\n".join(
        _section(each if isinstance(each, Exhibit) else Exhibit(each), thumbnails)
        for each in exhibits
    )
    paragraph = f"<p>{escape(subtitle)}</p>" if subtitle else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{files("producer").joinpath("gallery.css").read_text("utf-8")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{paragraph}{_facts(facts or {})}</header>
<main>
{sections or '<p class="none">Nothing was asked.</p>'}
</main>
<footer>Similarity is the cosine between the pictures' embeddings: 100% is the same picture.</footer>
</body>
</html>
"""


def _facts(facts: Mapping[str, object]) -> str:
    if not facts:
        return ""
    rows = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{rows}</dl>"


def _section(exhibit: Exhibit, thumbnails: Mapping[tuple[str, str], bytes]) -> str:
    reply = exhibit.reply
    label = exhibit.label or reply.product_id or "a picture"
    picture = exhibit.picture
    if picture is None and reply.product_id is not None:
        picture = thumbnails.get((reply.product_id, "main"))
    cards = "\n".join(
        _card(match, thumbnails.get((match.product_id, match.name)), exhibit)
        for match in reply.matches
    )
    category = f'<div class="category">{escape(exhibit.category)}</div>' if exhibit.category else ""
    return f"""<section>
<div class="query"><span class="tag">Looks like</span><div class="card">{_well(picture, label)}
<div class="text"><div class="name">{escape(label)}</div>{category}</div></div>
<p class="by">{escape(_answered_by(reply) if exhibit.note is None else exhibit.note)}</p></div>
{f"<ol>{cards}</ol>" if cards else '<p class="none">No product looks like this.</p>'}
</section>"""


def _card(match: Match, picture: bytes | None, exhibit: Exhibit) -> str:
    category = ""
    if match.category:
        kind, mark = "", ""
        if match.category == exhibit.category:
            kind, mark = " same", " ✓"
        elif exhibit.judged:
            kind, mark = " other", " ✗"
        category = f'<div class="category{kind}">{escape(match.category)}{mark}</div>'
    percent = max(0.0, match.similarity) * 100
    return f"""<li><div class="card">{_well(picture, match.product_id)}
<div class="text"><div class="name">{escape(match.product_id)}</div>{category}
<div class="bar"><i style="width:{percent:.0f}%"></i></div>
<div class="score"><b>{percent:.0f}%</b><span>d {match.distance:.3f}</span></div></div></div></li>"""


def _well(picture: bytes | None, label: str) -> str:
    if not picture:
        return '<div class="well"><span>no picture</span></div>'
    kind = next(
        (kind for magic, kind in _PICTURE_TYPES.items() if picture.startswith(magic)), "image/jpeg"
    )
    size = picture_size(picture)
    tiny = ' class="tiny"' if size is not None and max(size) <= TINY else ""
    data = base64.b64encode(picture).decode()
    return (
        f'<div class="well"><img{tiny} loading="lazy" alt="{escape(label)}" '
        f'src="data:{kind};base64,{data}"></div>'
    )


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from the header of a PNG or JPEG; None for anything else."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return _jpeg_size(data) if data.startswith(b"\xff\xd8") else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the first frame header (SOF0 … SOF15) among the segments of a JPEG."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _answered_by(reply: Reply) -> str:
    index = f"index {reply.generation}" if reply.generation is not None else "no index yet"
    return f"{index} · revision {reply.as_of.revision} · {reply.path}"
