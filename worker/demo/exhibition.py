"""What the demo shows to a shop: unseen products and what was found for them, as a page and as a poster."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from producer.client import Producer
from producer.gallery import Exhibit, render
from producer.messages import Match
from producer.rows import Row
from worker.demo import poster
from worker.demo.lookups import Answered
from worker.demo.stock import Stock, one_of_each, path, read
from worker.demo.summary import Summary

STRIPS, SHOWN = 10, 8
SMALL_FILE = 20_000
"""Bytes up to which a picture is shown as it is, and not by its thumbnail."""
THUMBNAIL = 320
TITLE = "What looks like this?"

Pictures = Mapping[tuple[str, str], bytes]


@dataclass(frozen=True)
class Exhibition:
    """The lookups that are shown, and the pictures of what they found."""

    exhibits: tuple[Exhibit, ...]
    pictures: Pictures
    unseen: bool
    """Whether the questions are products that were never added."""


def exhibition(
    shop: Producer, stock: Stock, by_picture: Sequence[Answered], by_product: Sequence[Answered]
) -> Exhibition:
    """Choose an unseen picture of each category, none by its result, and fetch what is shown beside it.

    Where nothing could be kept out, lookups by product are shown.
    """
    rows = {row.product_id: row for row in stock.unseen + stock.rows}
    answers = {answer.about: answer.reply for answer in by_picture or by_product}
    chosen = one_of_each([rows[product_id] for product_id in answers], STRIPS)
    exhibits = []
    for row in chosen:
        data = stock.picture(row.product_id)
        picture = _shown(data) if data is not None else None
        exhibits.append(Exhibit(answers[row.product_id], row.product_id, picture, row.category))
    matches = [match for exhibit in exhibits for match in exhibit.reply.matches]
    return Exhibition(tuple(exhibits), _pictures(shop, stock, matches), bool(by_picture))


def page(shown: Exhibition, summary: Summary, model: str) -> str:
    """The page, as HTML."""
    facts = {
        "products": f"{summary.products:,}",
        "images a second": f"{summary.images_per_second:,.0f}",
        "lookup by product, p50": _milliseconds(summary.lookup_by_product_ms.p50),
        "lookup by picture, p50": _milliseconds(summary.lookup_by_picture_ms.p50),
        "precision@10": _share(summary.precision_at_10),
        "model": model,
    }
    return render(
        shown.exhibits, shown.pictures, title=TITLE, subtitle=_subtitle(shown, summary), facts=facts
    )


def paint(shown: Exhibition, summary: Summary, model: str, credit: str) -> bytes:
    """The poster, as PNG."""
    caption = [
        f"Lookalike, {model}",
        f"precision@10 by category {_share(summary.precision_at_10)} over "
        f"{summary.lookup_by_picture_ms.count} unseen pictures"
        if summary.precision_at_10 is not None
        else "",
        f"lookup by product {_milliseconds(summary.lookup_by_product_ms.p50)}",
        credit,
    ]
    strips = [_strip(exhibit, shown) for exhibit in shown.exhibits]
    return poster.draw(
        strips, TITLE, _subtitle(shown, summary), "  ·  ".join(filter(None, caption))
    )


def _subtitle(shown: Exhibition, summary: Summary) -> str:
    asked = "products that were never added" if shown.unseen else "products of the catalogue"
    return (
        f"On the left {len(shown.exhibits)} {asked}; beside each, the nearest of the "
        f"{summary.products:,} in the catalogue."
    )


def _strip(exhibit: Exhibit, shown: Exhibition) -> poster.Strip:
    note = "never added" if shown.unseen else exhibit.label or ""
    label = exhibit.category or exhibit.label or ""
    answers = exhibit.reply.matches[:SHOWN]
    return poster.Strip(
        poster.Tile(exhibit.picture, label, note),
        tuple(_tile(match, exhibit.category, shown.pictures) for match in answers),
    )


def _tile(match: Match, wanted: str | None, pictures: Pictures) -> poster.Tile:
    return poster.Tile(
        picture=pictures.get((match.product_id, match.name)),
        label=match.category or match.product_id,
        note=f"{max(0.0, match.similarity):.0%} similar",
        good=None if wanted is None else match.category == wanted,
    )


def _pictures(shop: Producer, stock: Stock, matches: Sequence[Match]) -> Pictures:
    """Small files of the first pictures as they are, thumbnails for the rest."""
    wanted = dict.fromkeys((match.product_id, match.name) for match in matches)
    small = {(row.product_id, row.name): row for row in stock.rows if _is_small(row)}
    found = {image: read(small[image]) for image in wanted if image in small}
    return found | shop.thumbnails([image for image in wanted if image not in found])


def _is_small(row: Row) -> bool:
    local = path(row)
    return local is not None and local.stat().st_size <= SMALL_FILE


def _shown(data: bytes) -> bytes:
    if len(data) <= SMALL_FILE:
        return data
    buffer = io.BytesIO()
    poster.fitted(data, THUMBNAIL).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
