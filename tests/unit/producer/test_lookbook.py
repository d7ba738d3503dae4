"""The lookbook's files: what they may not do, whatever a browser would allow, and what they must know."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from producer.reasons import Reason

FILES = {
    each.name: each.read_text("utf-8")
    for each in (resources.files("producer") / "lookbook").iterdir()
}
SCRIPTS = sorted(name for name in FILES if name.endswith(".js"))
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
)
"""What makes elements of text: a product's id could be one."""
ELSEWHERE = re.compile(r"https?://(?!www\.w3\.org/2000/svg)|//cdn|@import|url\(")


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_never_becomes_markup(name: str) -> None:
    assert not MARKUP.search(FILES[name])


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_comes_from_elsewhere(name: str) -> None:
    assert not ELSEWHERE.search(FILES[name])


def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    page = FILES["index.html"]
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)


@pytest.mark.parametrize("name", SCRIPTS)
def test_modules_import_what_is_there(name: str) -> None:
    for names, module in re.findall(r"import \{([^}]*)\} from \"\./([^\"]+)\"", FILES[name]):
        for each in (part.strip() for part in names.split(",")):
            assert re.search(rf"export (async )?(const|function|class) {each}\b", FILES[module]), (
                each
            )


def test_every_reason_has_words() -> None:
    known = set(re.findall(r"^  (\w+): \"", FILES["words.js"], re.MULTILINE))
    assert {reason.value for reason in Reason} <= known
