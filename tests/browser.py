"""A headless Chromium for tests: pages that note what goes wrong, pictures, checks of accessibility."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

CHROMIUM = Path("/usr/bin/chromium")
"""Where Debian's package puts it."""
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = (1440, 900), (360, 740)
PATIENCE = 20_000.0
"""Milliseconds that an expected change may take."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, or a skipped test where there is none; in CI there must be one."""
    if not CHROMIUM.exists():
        reason = f"no browser at {CHROMIUM} (make programs, or apt-get install chromium)"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=list(ARGUMENTS), headless=True
        )
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that somebody looks at, and what went wrong on it."""

    page: Page
    pictures: Path
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen."""
        self.page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.page.on("console", lambda said: self._note_message(said.type, said.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("requestfailed", self._note_request)
        self.page.on("response", self._note_response)

    def shoot(self, name: str) -> None:
        """Keep a picture of what is to be seen, once nothing moves and all pictures in sight are there."""
        self.page.wait_for_function(
            """() => document.getAnimations().every(({ playState, effect }) =>
                 playState !== "running" || effect.getComputedTiming().iterations === Infinity) &&
               [...document.images].every((each) => {
                 const { top, bottom, width } = each.getBoundingClientRect();
                 return width === 0 || bottom < 0 || top > innerHeight || each.complete;
               })"""
        )
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def check(self, what: str) -> None:
        """Have axe-core find nothing serious or critical."""
        found = Axe().run(self.page).response["violations"]
        serious = [_violation(each) for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, f"{what}: " + "; ".join(serious)

    def see(self, name: str) -> None:
        """Keep a picture and check it."""
        self.shoot(name)
        self.check(name)

    def _note_message(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"{kind}: {text}")

    def _note_request(self, request: Request) -> None:
        # A question that a newer one takes the place of is called off by the page itself.
        if request.failure != "net::ERR_ABORTED":
            self.troubles.append(f"{request.method} {request.url}: {request.failure}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.request.method} {response.url}: {response.status}")


@contextmanager
def visit(browser: Browser, url: str, pictures: Path, **options: Any) -> Iterator[Visit]:
    """A page in a fresh session on which nothing must go wrong; `options` are those of a browser context."""
    width, height = options.pop("size", DESKTOP)
    context: BrowserContext = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, **options
    )
    try:
        visited = Visit(context.new_page(), pictures)
        yield visited
        assert not visited.troubles
    finally:
        context.close()


def _violation(found: dict[str, Any]) -> str:
    places = ", ".join(str(node["html"])[:120] for node in found["nodes"][:3])
    return f"{found['id']} ({found['impact']}): {places}"
