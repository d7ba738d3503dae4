"""Typefaces: what Pillow's own lacks is found elsewhere on the machine, if it is there."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from worker.demo import lettering
from worker.demo.lettering import font_for


def name(text: str) -> str:
    font = font_for(text, 20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font.getname()[0] or ""


def test_plain_text_is_in_one_typeface() -> None:
    assert {name("dress"), name("91% similar"), name("two words\n…")} == {"Aileron"}


@pytest.mark.parametrize("text", ["Größe 42", "Čižmy", "Платье"])
def test_other_letters_come_from_another_typeface(text: str) -> None:
    assert name(text) != "Aileron"


def test_letters_that_no_typeface_has_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name("\U000f1234") == "Aileron"
    monkeypatch.setattr(lettering, "FALLBACKS", ("absent.ttf",))
    monkeypatch.setattr(lettering, "find_spec", lambda _: None)
    assert name("Größe") == "Aileron"
