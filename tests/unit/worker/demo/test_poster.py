"""The poster: its size, what is drawn where, and what it does with odd pictures and long names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageColor

from worker.demo.poster import ACCENT, NO, TILE, YES, Strip, Tile, draw, fitted, fitting


def picture(size: tuple[int, int] = (28, 28), colour: str = "#1060d0", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def tile(good: bool | None = None, label: str = "dress", data: bytes | None = None) -> Tile:
    return Tile(picture() if data is None else data, label, "91% similar", good)


def drawn(*strips: Strip, title: str = "Title") -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(draw(strips, title, "subtitle", "caption"))) as image:
        return np.asarray(image.convert("RGB"))


def count(pixels: NDArray[np.uint8], colour: str) -> int:
    return int((pixels == ImageColor.getrgb(colour)).all(axis=2).sum())


def test_grows_with_its_strips_and_not_with_its_words() -> None:
    strip = Strip(tile(), (tile(),) * 8)
    one, three = drawn(strip), drawn(strip, strip, strip)
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > one.shape[0]
    assert drawn(strip, title="W" * 500).shape == one.shape


def test_shows_each_picture() -> None:
    pixels = drawn(Strip(tile(), (tile(data=picture(colour="#d01060")),) * 3))
    of_one = (TILE * 2 // 28 * 28) ** 2
    assert count(pixels, "#1060d0") == of_one
    assert count(pixels, "#d01060") == 3 * of_one


def test_marks_say_whether_the_category_is_the_same() -> None:
    unmarked = drawn(Strip(tile(), (tile(), tile())))
    assert count(unmarked, YES) == count(unmarked, NO) == 0
    good, bad = drawn(Strip(tile(), (tile(True),) * 3)), drawn(Strip(tile(), (tile(False),) * 3))
    assert count(good, YES) > count(bad, YES) > 0
    assert count(bad, NO) > count(good, NO) > 0


def test_the_question_stands_out() -> None:
    assert count(drawn(Strip(tile(), ())), ACCENT) > 0


def test_no_strips_no_answers_and_no_picture_are_drawn_too() -> None:
    assert drawn().size
    assert drawn(Strip(Tile(None, "", ""), ())).size


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_kind_can_be_shown(mode: str) -> None:
    data = picture(mode="RGB" if mode == "CMYK" else mode)
    assert fitted(data, 100).mode == "RGB"


def test_tiny_pictures_stay_crisp_and_large_ones_are_smoothed() -> None:
    checks = Image.fromarray(np.indices((4, 4)).sum(0).astype(np.uint8) % 2 * 255)
    buffer = io.BytesIO()
    checks.save(buffer, "PNG")
    assert set(np.unique(np.asarray(fitted(buffer.getvalue(), 100)))) == {0, 255}
    large = fitted(picture((1000, 400)), 100)
    assert large.size == (100, 40)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 800), st.integers(1, 800), st.integers(50, 300))
def test_a_fitted_picture_fits(width: int, height: int, side: int) -> None:
    size = fitted(picture((width, height)), side).size
    assert min(size) >= 1
    assert side // 2 <= max(size) <= side


def test_a_picture_on_glass_is_shown_on_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (28, 28), (0, 0, 0, 0)).save(buffer, "PNG")
    assert set(np.unique(np.asarray(fitted(buffer.getvalue(), 56)))) == {255}


@given(st.text(max_size=60), st.integers(1, 40))
def test_text_is_cut_with_an_ellipsis_only_where_it_must(text: str, room: int) -> None:
    shown = fitting(text, lambda part: len(part) <= room)
    assert len(shown) <= room
    assert shown == text or shown.endswith("…")
