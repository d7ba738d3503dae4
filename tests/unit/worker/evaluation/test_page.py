"""The page of differences."""

from __future__ import annotations

from tests.fake_worker import TINY_JPEG
from tests.unit.producer.test_gallery import Page
from worker.evaluation.page import Card, Contrast, page

DRESS = Card("red.jpg", "dress", TINY_JPEG)


def test_each_question_is_shown_under_the_one_and_under_the_other() -> None:
    one = [(Card("a.jpg", "dress", TINY_JPEG), 0.9), (Card("a.jpg", "coat", None), 0.5)]
    other = [(Card("b.jpg", "coat", TINY_JPEG), 0.25), (Card("c.jpg", None, None), -0.5)]
    shown = Page(page([Contrast(DRESS, (one, other), 0.5)], ("new", "old"), {"overlap@2": 0.5}))
    assert len(shown.all("section")) == 2
    assert [each["alt"] for each in shown.all("img")] == ["red.jpg", "a.jpg", "red.jpg", "b.jpg"]
    for text in (
        *("dress ✓", "coat ✗", "new · 1 of 2 right · 50% in common"),
        *("old · 0 of 2 right · 50% in common", "90%", "overlap@2", "Where they differ"),
    ):
        assert text in shown.text
    assert "index" not in shown.text


def test_without_a_category_nothing_is_right_or_wrong() -> None:
    answers = [(Card("a.jpg", "dress", None), 0.9)]
    asked = Card("red.jpg", None, None)
    shown = Page(page([Contrast(asked, (answers, answers), 1.0)], ("new", "old"), {}))
    assert "✓" not in shown.text
    assert "✗" not in shown.text
    assert "new · 100% in common" in shown.text


def test_names_of_files_may_be_anything() -> None:
    nasty = Card("\udcff\x00<s>" + 300 * "x", "<em>", None)
    answers = [(nasty, 1.0)]
    shown = Page(page([Contrast(nasty, (answers, answers), 1.0)], ("<u>", "old"), {}))
    assert not {"s", "em", "u"} & {name for name, _ in shown.tags}
    assert 255 * "x" in shown.text
    assert "<em> ✓" in shown.text
