"""The gallery page."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

from producer.gallery import Exhibit, picture_size, render
from tests.fake_worker import TINY_JPEG, match, reply

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (640).to_bytes(4, "big") + (480).to_bytes(4, "big")
NASTY = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_page_shows_the_question_and_its_matches() -> None:
    answer = reply("sku-1", [match("sku-2", 0.5, category="dress"), match("sku-3", 1.0)])
    thumbnails = {("sku-1", "main"): TINY_JPEG, ("sku-2", "main"): PNG}
    page = Page(render([Exhibit(answer, category="dress")], thumbnails, facts={"products": 3}))
    pictures = page.all("img")
    assert [each["alt"] for each in pictures] == ["sku-1", "sku-2"]
    assert pictures[0]["src"] == f"data:image/jpeg;base64,{base64.b64encode(TINY_JPEG).decode()}"
    assert (pictures[1]["src"] or "").startswith("data:image/png;")
    assert (pictures[0].get("class"), pictures[1].get("class")) == ("tiny", None)
    for text in ("sku-3", "no picture", "88%", "dress ✓", "d 0.500", "products", "index 3"):
        assert text in page.text


def test_everything_is_escaped() -> None:
    answer = reply(NASTY, [match(NASTY, category=NASTY)])
    page = Page(
        render(
            [Exhibit(answer, label=NASTY, category=NASTY, picture=PNG)],
            {(NASTY, "main"): PNG},
            title=NASTY,
            subtitle=NASTY,
            facts={NASTY: NASTY},
        )
    )
    assert not page.all("script")
    assert page.all("img")[1]["alt"] == NASTY


def test_a_page_fetches_nothing() -> None:
    html = render([reply("a", [match("b")])], {})
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html


def test_a_reply_alone_or_without_matches_or_nothing_at_all_makes_a_page() -> None:
    assert "No product looks like this" in Page(render([reply(None)], {})).text
    assert "Nothing was asked" in Page(render([], {})).text


def test_sizes_are_read_from_headers() -> None:
    assert picture_size(PNG) == (640, 480)
    assert picture_size(TINY_JPEG) == (28, 28)
    for data in (
        b"",
        b"x",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0\x00",
        b"\x89PNG",
        b"\xff\xd8\xff\xe0\x00\x00" * 9,
    ):
        assert picture_size(data) is None
