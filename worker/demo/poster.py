"""A poster of lookups, as one picture to show around: questions on the left, what looks like them beside."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from worker.demo.lettering import font_for

PAPER, CARD, EDGE = "#f4f2ee", "#ffffff", "#e4e0d8"
INK, SOFT, FAINT = "#1d1c1a", "#6d6860", "#a49e93"
YES, NO, ACCENT = "#2f8f5b", "#c0564a", "#b4552d"

SCALE = 2
"""Pixels for each unit of length below, so that the text is sharp on a good screen."""
MARGIN, GAP, PAD = 48, 12, 10
TILE, LABELS = 116, 46
"""Side of a picture, and height of the two lines under it."""
CARD_W, CARD_H = TILE + 2 * PAD, TILE + LABELS + 2 * PAD
ASIDE = 34
"""Width between the question and the first answer."""
HEAD, FOOT = 116, 64

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tile:
    """One product on the poster."""

    picture: bytes | None
    """Encoded in any format that Pillow reads; None: there is none to show."""
    label: str
    note: str
    """A second, smaller line, such as the similarity."""
    good: bool | None = None
    """Whether it is of the category asked about; None: no mark."""


@dataclass(frozen=True)
class Strip:
    """One question and its answers, nearest first."""

    question: Tile
    answers: tuple[Tile, ...]


def draw(strips: Sequence[Strip], title: str, subtitle: str, caption: str) -> bytes:
    """Draw the poster and give it as a PNG. Its size follows the number of strips and the longest of them."""
    columns = max((len(strip.answers) for strip in strips), default=0)
    width = 2 * MARGIN + CARD_W + ASIDE + max(columns, 5) * (CARD_W + GAP) - GAP
    height = HEAD + MARGIN + len(strips) * (CARD_H + GAP) - GAP + FOOT
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    pen = _Pen(sheet)
    marked = any(tile.good is not None for strip in strips for tile in strip.answers)
    _heading(pen, width, title, subtitle, marked=marked)
    for number, strip in enumerate(strips):
        _strip(pen, HEAD + MARGIN + number * (CARD_H + GAP), strip)
    pen.text((MARGIN, height - FOOT + 24), caption, 13, FAINT, width - 2 * MARGIN)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _heading(pen: _Pen, width: int, title: str, subtitle: str, *, marked: bool) -> None:
    pen.text((MARGIN, 40), title, 34, INK, width - 2 * MARGIN, bold=True)
    pen.text((MARGIN, 86), subtitle, 16, SOFT, width - 2 * MARGIN)
    top = HEAD + MARGIN - 22
    pen.text((MARGIN, top), "ASKED", 11, ACCENT, CARD_W, bold=True)
    pen.text((_answer_left(0), top), "NEAREST FIRST", 11, SOFT, 2 * CARD_W, bold=True)
    if marked:
        _legend(pen, width - MARGIN, top)


def _legend(pen: _Pen, right: int, top: int) -> None:
    pen.mark((right - 204, top + 7), good=True)
    pen.text((right - 194, top), "same category", 12, SOFT, 90)
    pen.mark((right - 92, top + 7), good=False)
    pen.text((right - 83, top), "other category", 12, SOFT, 90)


def _answer_left(number: int) -> int:
    return MARGIN + CARD_W + ASIDE + number * (CARD_W + GAP)


def _strip(pen: _Pen, top: int, strip: Strip) -> None:
    _card(pen, MARGIN, top, strip.question, edge=ACCENT)
    middle, left = top + CARD_H // 2, MARGIN + CARD_W + ASIDE // 2
    pen.line([(left - 4, middle - 7), (left + 4, middle), (left - 4, middle + 7)], ACCENT, 2)
    for number, answer in enumerate(strip.answers):
        _card(pen, _answer_left(number), top, answer, edge=EDGE)


def _card(pen: _Pen, left: int, top: int, tile: Tile, edge: str) -> None:
    pen.rounded((left, top, left + CARD_W, top + CARD_H), CARD, edge)
    if tile.picture is not None:
        pen.picture((left + PAD, top + PAD), tile.picture)
    under = top + PAD + TILE + 10
    room = TILE - (18 if tile.good is not None else 0)
    pen.text((left + PAD, under), tile.label, 14, INK, room)
    pen.text((left + PAD, under + 19), tile.note, 12, SOFT, TILE)
    if tile.good is not None:
        pen.mark((left + CARD_W - PAD - 6, under + 8), tile.good)


class _Pen:
    """Draws in units of the layout on a sheet that is `SCALE` times as fine."""

    def __init__(self, sheet: Image.Image) -> None:
        self._sheet = sheet
        self._draw = ImageDraw.Draw(sheet)

    def text(
        self, at: tuple[int, int], text: str, size: int, fill: str, room: int, *, bold: bool = False
    ) -> None:
        """One line from its top left, cut with an ellipsis where the room ends."""
        font = font_for(text + "…", size * SCALE)
        shown = fitting(text, lambda part: font.getlength(part) <= room * SCALE)
        # The typeface that comes with Pillow has no bold cut: a thin outline does for it.
        stroke = max(1, size * SCALE // 40) if bold else 0
        place = (at[0] * SCALE, at[1] * SCALE)
        self._draw.text(place, shown, fill, font, stroke_width=stroke, stroke_fill=fill)

    def rounded(self, box: Box, fill: str, edge: str) -> None:
        """A card."""
        scaled = tuple(side * SCALE for side in box)
        self._draw.rounded_rectangle(scaled, 9 * SCALE, fill, edge, SCALE)

    def line(self, points: Sequence[tuple[int, int]], fill: str, width: int) -> None:
        """A line through points, with round corners."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill, width * SCALE, joint="curve")

    def mark(self, centre: tuple[int, int], good: bool) -> None:
        """A tick for yes, a ring for no: told apart by shape as well as by colour."""
        x, y = centre
        if good:
            self.line([(x - 5, y), (x - 1, y + 4), (x + 5, y - 4)], YES, 2)
            return
        box = tuple(side * SCALE for side in (x - 4, y - 4, x + 4, y + 4))
        self._draw.ellipse(box, None, NO, int(1.5 * SCALE))

    def picture(self, at: tuple[int, int], data: bytes) -> None:
        """A picture, whole, in the middle of its square."""
        image = fitted(data, TILE * SCALE)
        left = at[0] * SCALE + (TILE * SCALE - image.width) // 2
        top = at[1] * SCALE + (TILE * SCALE - image.height) // 2
        self._sheet.paste(image, (left, top))


def fitted(data: bytes, side: int) -> Image.Image:
    """Decode a picture and bring its longer side to `side` pixels, or a little less.

    Tiny pictures grow by a whole factor without smoothing, so that they look crisp and not blurred.
    """
    image = upright(data)
    longest = max(image.size)
    if longest * 4 > side:
        factor, method = side / longest, Image.Resampling.LANCZOS
    else:
        factor, method = side // longest, Image.Resampling.NEAREST
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, method)


def upright(data: bytes) -> Image.Image:
    """Decode a picture as RGB, turned as its camera was held, and on white where it is transparent."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if not image.has_transparency_data:
        return image.convert("RGB")
    glass = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", glass.size, "white"), glass).convert("RGB")


def fitting(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if fits(text):
        return text
    while text and not fits(text + "…"):
        text = text[:-1]
    return text.rstrip() + "…"
