"""Typefaces for the poster: Pillow's own where it has the letters, else another one of the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FALLBACKS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)
"""Asked of the system in this order; Pillow knows where systems keep them."""
_MATPLOTLIB = "mpl-data/fonts/ttf/DejaVuSans.ttf"
_NOTHING = "\uffff"
"""Not a character in any typeface: its shape is the one for letters that are missing."""


def font_for(text: str, pixels: int) -> Font:
    """A typeface that has every letter of the text, or Pillow's own if none of the machine's has."""
    own = _own(pixels)
    if _has(own, text):
        return own
    return next((font for font in _fallbacks(pixels) if _has(font, text)), own)


@cache
def _own(pixels: int) -> Font:
    return ImageFont.load_default(pixels)


def _has(font: Font, text: str) -> bool:
    return all(_has_letter(font, letter) for letter in set(text) if letter.isprintable())


@cache
def _has_letter(font: Font, letter: str) -> bool:
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NOTHING))


def _fallbacks(pixels: int) -> Iterator[Font]:
    for place in FALLBACKS + _from_matplotlib():
        try:
            yield _font(place, pixels)
        except OSError:
            continue


@cache
def _font(place: str, pixels: int) -> Font:
    return ImageFont.truetype(place, pixels)


def _from_matplotlib() -> tuple[str, ...]:
    """The typeface that matplotlib ships, where it is installed; nothing of it is imported."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return ()
    return (str(Path(found.origin).parent / _MATPLOTLIB),)
