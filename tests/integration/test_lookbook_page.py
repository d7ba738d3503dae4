"""The lookbook as people see it: Chromium on a real gateway, real workers and freshly ingested real pictures."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from pydantic import JsonValue
from sqlalchemy import select

from db.models import Judgement
from db.session import Database
from producer.client import Producer
from producer.rows import Row
from tests import browser as browsers
from tests.browser import PHONE, Visit, visit
from tests.http import KEYS, READ, gateway
from tests.stack import picture, producer_of, running, save_picture
from worker.demo import sample
from worker.index.rebuild import rebuild
from worker.roles import build_settings
from worker.up import Service

PICTURES = Path("bench-out") / "lookbook"
WAIT = 60.0
CATEGORIES = ("ankle boot", "bag", "dress", "sandal", "sneaker", "trouser")
EACH = 14
BRANDS = ("Aalto", "Kite", "Nordlund", "Ostra")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">/é?#%"
LATE = "late-arrival"
FRONT = f"{len(CATEGORIES) * EACH + 1} products"


@dataclass(frozen=True)
class Shown:
    """A service whose catalogue was just ingested, and what people need of it."""

    stack: Service
    url: str
    queries: Path
    """Pictures of products that are not in the catalogue, by category."""
    late: Path
    """Where the picture of a product is looked for that is not there yet."""
    older: int
    """The generation of the index that has no trousers."""
    current: int


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("lookbook")
    pictures = sample.unpack(folder / "pictures")
    late = folder / "late.jpg"
    with running(folder / "data", keep_generations=5) as stack:
        with producer_of(stack) as shop:
            rows = list(_rows(pictures.catalogue))
            add(shop, [row for row in rows if row.category != "trouser"])
            older = index(stack)
            hostile = Row(
                HOSTILE, rows[0].image, category="<b>odd</b>", attributes={"<i>by</i>": "<s>x</s>"}
            )
            add(shop, [hostile, *(row for row in rows if row.category == "trouser")])
            current = index(stack)
            shop.wait_for(
                shop.add_many([Row(LATE, late), Row("never-there", folder / "no.jpg")]), WAIT
            )
        redis_url = stack.settings.redis_url.get_secret_value()
        with gateway(redis_url, folder, api_keys=None) as open_to_all:
            yield Shown(stack, open_to_all.url, pictures.queries, late, older, current)


def _rows(catalogue: Path) -> Iterator[Row]:
    for category in CATEGORIES:
        for number, path in enumerate(sorted((catalogue / category).iterdir())[:EACH]):
            chance = random.Random(path.stem)
            attributes: dict[str, JsonValue] = {
                "brand": BRANDS[number % len(BRANDS)],
                "price": chance.randrange(10, 150),
                "in_stock": chance.random() < 0.8,
            }
            yield Row(path.stem, path, category=category, attributes=attributes)


def add(shop: Producer, rows: list[Row]) -> None:
    """Add products and wait until all are applied."""
    outcome = shop.wait_for(shop.add_many(rows), WAIT)
    assert (outcome.applied, outcome.failures) == (len(rows), ())


def index(stack: Service) -> int:
    """Build a generation of the index, after the one that the service may be building by itself."""
    database = Database(stack.settings.database)
    deadline = time.monotonic() + WAIT
    try:
        while True:
            built = rebuild(database, stack.settings.data_dir, build_settings(stack.settings))
            if built is not None:
                return built.number
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as started:
        yield started


@pytest.fixture
def visited(browser: Browser, shown: Shown) -> Iterator[Visit]:
    with visit(browser, shown.url, PICTURES) as found:
        yield found


# -- what is to be seen ---------------------------------------------------------------------------


def tiles(page: Page, within: str = "#catalogue") -> Locator:
    """The products that are shown, none of them a place that waits for one."""
    return page.locator(f"{within} .tile:not(.skeleton)")


def matches(page: Page) -> Locator:
    """What looks like the product."""
    return tiles(page, "#neighbours > .spread > .results > .matches")


def tile(page: Page, product_id: str, within: str = "#catalogue") -> Locator:
    """The picture of a product."""
    return tiles(page, within).filter(has=page.locator(".name").get_by_text(product_id, exact=True))


def settled(page: Page) -> None:
    """Wait until the newest question is answered."""
    expect(matches(page).first).to_be_visible()
    expect(page.locator("#neighbours")).not_to_have_attribute("aria-busy", "true")


def open_catalogue(page: Page, search: str = "") -> None:
    page.goto(f"/lookbook/{search}")
    expect(tiles(page).first).to_be_visible()


def shown_ids(found: Locator) -> list[str]:
    return [str(each.get_attribute("data-id")) for each in found.all()]


def drop(page: Page, picture: Path) -> None:
    """Drag a file over the page, and let go."""
    transfer = page.evaluate_handle(
        """(bytes) => {
             const transfer = new DataTransfer();
             transfer.items.add(new File([new Uint8Array(bytes)], "street.png", { type: "image/png" }));
             return transfer;
           }""",
        list(picture.read_bytes()),
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.get_by_text("Drop the picture to see what looks like it")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})


# -- journeys -------------------------------------------------------------------------------------


def test_the_catalogue_by_category_id_and_page(visited: Visit) -> None:
    page = visited.page
    page.goto("/")
    expect(page.get_by_role("main").get_by_text(FRONT)).to_be_visible()
    visited.see("catalogue")
    assert page.url.endswith("/lookbook/")

    everything = tiles(page)
    expect(everything).to_have_count(60)
    page.mouse.wheel(0, 20_000)
    expect(everything).to_have_count(85)
    expect(page.locator("#said")).to_have_text("25 more products, 85 in all")

    page.get_by_role("navigation", name="Categories").get_by_role("link", name="bag 14").click()
    expect(page.get_by_role("main").get_by_text(f"14 of {FRONT}")).to_be_visible()
    expect(everything).to_have_count(14)
    assert page.evaluate("scrollY") == 0
    visited.shoot("category")
    assert page.url.endswith("?category=bag")

    page.keyboard.press("/")
    page.keyboard.type("fm-0002")
    expect(everything).to_have_count(1)
    page.keyboard.type("-nothing")
    expect(
        page.get_by_role("main").get_by_text("No product id begins with “fm-0002-nothing”")
    ).to_be_visible()
    visited.see("nothing")
    page.get_by_role("link", name="Show all products").click()
    expect(everything).to_have_count(60)
    page.go_back()
    expect(page.get_by_role("main").get_by_text("No product id begins with")).to_be_visible()
    open_catalogue(page, "?category=bag&prefix=fm-0002")
    expect(everything).to_have_count(1)


def test_a_click_leads_to_what_looks_alike_and_on_from_there(visited: Visit, shown: Shown) -> None:
    page = visited.page
    open_catalogue(page, "?category=sandal")
    first = tiles(page).nth(2)
    product = str(first.get_attribute("data-id"))
    first.click()
    expect(page.get_by_role("heading", name=product, exact=True)).to_be_focused()
    expect(matches(page)).to_have_count(24)
    expect(
        page.get_by_role("main").get_by_text(f"24 nearest · generation {shown.current}")
    ).to_be_visible()
    visited.see("neighbours")
    nearest = matches(page).first
    share = float(re.sub("[^0-9]", "", nearest.locator(".share b").inner_text()))
    assert 50 < share <= 100
    assert nearest.locator(".distance").inner_text().startswith("d 0.")

    then = str(nearest.get_attribute("data-id"))
    nearest.locator(".look").click()
    expect(page.get_by_role("heading", name=then, exact=True)).to_be_focused()
    trail = page.get_by_role("navigation", name="Where you came from")
    expect(trail.get_by_role("link", name=product)).to_be_visible()
    page.reload()
    expect(trail.get_by_role("link", name=product)).to_be_visible()
    settled(page)
    trail.get_by_role("link", name=product).click()
    expect(page.get_by_role("heading", name=product, exact=True)).to_be_focused()
    page.go_back()
    expect(page.get_by_role("heading", name=then, exact=True)).to_be_focused()
    settled(page)
    trail.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_role("heading", name="Catalogue")).to_be_visible()
    assert page.url.endswith("?category=sandal")


def test_filters_and_sliders_change_the_answer_as_they_move(visited: Visit) -> None:
    page = visited.page
    open_catalogue(page, "?category=bag")
    tiles(page).first.click()
    settled(page)
    plain = shown_ids(matches(page))

    page.get_by_label("Variety").fill("0.6")
    expect(page.get_by_label("Variety")).to_have_attribute("aria-valuetext", "60%")
    page.wait_for_url("**diversity=0.6**")
    settled(page)
    assert shown_ids(matches(page)) != plain
    page.get_by_label("Variety").fill("0")
    page.get_by_label("How many").fill("12")
    expect(matches(page)).to_have_count(12)

    page.get_by_role("main").get_by_text("Any category").click()
    words = page.get_by_role("group", name="What is shown").get_by_text("bag", exact=True)
    words.click()  # which gives the focus to what is around the menu: it stays open
    expect(page.get_by_role("checkbox", name="bag 14")).to_be_checked()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="category: bag")).to_be_visible()
    page.get_by_role("main").get_by_text("Add a condition").click()
    page.get_by_label("Attribute").fill("price")
    page.get_by_label("How it is compared").select_option("below")
    page.get_by_label("Value").fill("soon")
    page.keyboard.press("Enter")
    expect(
        page.get_by_role("main").get_by_text("“price” is compared with a number.")
    ).to_be_visible()
    page.get_by_label("Value").fill("80")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="price < 80")).to_be_visible()
    page.keyboard.press("Escape")
    settled(page)
    kinds = {each.inner_text() for each in matches(page).locator(".kind").all()}
    assert kinds == {"bag"}
    visited.see("filtered")

    page.get_by_label("At least this alike").fill("1")
    expect(
        page.get_by_role("main").get_by_text(
            "Nothing that meets the conditions is at least 100% alike"
        )
    ).to_be_visible()
    visited.shoot("nothing-alike")
    page.reload()
    expect(
        page.get_by_role("main").get_by_text(
            "Nothing that meets the conditions is at least 100% alike"
        )
    ).to_be_visible()
    page.get_by_label("At least this alike").fill("0")
    page.get_by_role("button", name="category: bag").click()
    page.get_by_role("button", name="price < 80").click()
    expect(matches(page)).to_have_count(12)


def test_a_dropped_picture_finds_its_like(visited: Visit, shown: Shown) -> None:
    page = visited.page
    open_catalogue(page)
    drop(page, sorted((shown.queries / "ankle boot").iterdir())[1])
    expect(page.get_by_role("heading", name="Your picture")).to_be_focused()
    expect(matches(page)).to_have_count(24)
    visited.see("dropped")
    kinds = [each.inner_text() for each in matches(page).locator(".kind").all()]
    assert set(kinds[:6]) <= {"ankle boot", "sandal", "sneaker"}
    matches(page).first.locator(".look").click()
    settled(page)
    page.get_by_role("link", name="Your picture").click()
    expect(page.get_by_role("heading", name="Your picture")).to_be_focused()
    settled(page)

    page.locator("#file").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    )
    expect(page.locator("#said")).to_contain_text("That is no picture")
    page.locator("#file").set_input_files(
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(page.get_by_role("alert")).to_contain_text("Not JPEG, PNG, WebP, GIF, BMP or TIFF")
    visited.shoot("refused")
    page.reload()
    expect(page.get_by_role("main").get_by_text("The picture is not kept")).to_be_visible()


def test_a_verdict_is_kept_and_taken_back(visited: Visit, shown: Shown) -> None:
    page = visited.page
    open_catalogue(page, "?category=dress")
    tiles(page).first.click()
    settled(page)
    product = page.locator("#neighbours-title").inner_text()
    good, bad = shown_ids(matches(page))[:2]
    up = page.get_by_role("button", name=f"Good match: {good}", exact=True)
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#said")).to_have_text(f"Good match: {good}")
    tile(page, bad, "#neighbours").locator(".look").focus()
    page.keyboard.press("-")
    down = page.get_by_role("button", name=f"Bad match: {bad}", exact=True)
    expect(down).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#said")).to_have_text(f"Bad match: {bad}")
    visited.see("judged")
    with httpx.Client(base_url=shown.url) as http:
        said = http.get("/judgements", params={"product_id": product}).json()["judgements"]
    assert {each["match"]: each["verdict"] for each in said} == {good: "up", bad: "down"}
    assert _verdicts(shown.stack, product) == {
        good: (True, shown.current),
        bad: (False, shown.current),
    }

    page.reload()
    expect(up).to_have_attribute("aria-pressed", "true")
    tile(page, bad, "#neighbours").locator(".look").focus()
    page.keyboard.press("-")
    expect(page.locator("#said")).to_have_text(f"Taken back: {bad}")
    expect(down).to_have_attribute("aria-pressed", "false")
    assert _verdicts(shown.stack, product) == {good: (True, shown.current)}


def _verdicts(stack: Service, product: str) -> dict[str, tuple[bool, int | None]]:
    database = Database(stack.settings.database)
    try:
        with database.reading() as session:
            found = session.scalars(select(Judgement).where(Judgement.product_id == product))
            return {each.match_id: (each.good, each.generation) for each in found}
    finally:
        database.close()


def test_two_generations_side_by_side(visited: Visit, shown: Shown) -> None:
    page = visited.page
    open_catalogue(page, "?category=ankle+boot")
    tiles(page).first.click()
    settled(page)
    page.get_by_role("button", name="Compare").click()
    right = page.get_by_label("Answer on the right", exact=True)
    right.select_option(str(shown.older))
    expect(right).to_have_value(str(shown.older))
    expect(
        page.get_by_role("main").get_by_text(
            re.compile(r"\d+ of 24 are in both answers: overlap@24 is \d+%")
        )
    ).to_be_visible()
    lists = page.locator(".versus .matches")
    expect(lists.nth(0).locator(".tile:not(.skeleton)")).to_have_count(24)
    visited.see("compared")
    page.get_by_label("How many").fill("72")
    expect(lists.nth(0).locator(".tile:not(.skeleton)")).to_have_count(72)
    expect(lists.nth(0).locator(".alone").first).to_contain_text("Only here")
    both = lists.nth(0).locator(".tile:not(.alone)").first
    expect(both.locator(".mark")).to_contain_text("right")

    page.get_by_label("Answer on the left", exact=True).select_option(str(shown.current))
    page.wait_for_url(f"**left={shown.current}&right={shown.older}**")
    page.reload()
    expect(right).to_have_value(str(shown.older))
    expect(page.get_by_role("main").get_by_text("are in both answers")).to_be_visible()
    page.goto(f"/lookbook/?product=fm-00016&left=live&right={shown.older}")
    expect(
        page.get_by_role("main").get_by_text("The product came after this generation.")
    ).to_be_visible()
    visited.shoot("compared-with-none")


def test_a_failure_is_requeued_and_becomes_searchable(visited: Visit, shown: Shown) -> None:
    page = visited.page
    open_catalogue(page)
    strip = page.get_by_role("contentinfo").get_by_role("button")
    expect(strip).to_contain_text("2 failures")
    expect(strip).to_contain_text(f"generation {shown.current}")
    strip.click()
    drawer = page.get_by_role("dialog", name="How the service is")
    failure = drawer.get_by_role("listitem").filter(has_text=LATE)
    expect(failure).to_contain_text("There is no picture at the address")
    expect(drawer.get_by_role("table")).to_contain_text("ingest")
    visited.see("status")

    save_picture(shown.late, 7)
    failure.get_by_role("button", name=f"Requeue {LATE}").click()
    expect(drawer.get_by_role("status")).to_contain_text("1 failure requeued")
    expect(failure).to_have_count(0)
    drawer.get_by_role("button", name="Discard never-there").click()
    expect(drawer.get_by_text("Nothing was given up.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(strip).to_contain_text("All is well")
    expect(strip).to_be_focused()
    with producer_of(shown.stack) as shop:
        assert shop.find_similar(LATE, limit=1).result(WAIT).matches
    page.get_by_role("searchbox", name="Find a product").fill("late")
    expect(tile(page, LATE)).to_be_visible()
    tile(page, LATE).click()
    settled(page)
    expect(page.locator(".hero img")).to_be_visible()
    visited.shoot("requeued")


def test_what_goes_wrong_stands_where_it_happened_and_is_tried_again(visited: Visit) -> None:
    page = visited.page
    page.route(re.compile(r"/catalogue\?"), lambda route: route.abort())
    page.goto("/lookbook/")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    visited.see("unreachable")
    page.unroute(re.compile(r"/catalogue\?"))
    page.get_by_role("button", name="Try again").click()
    expect(tiles(page)).to_have_count(60)
    page.route(re.compile(r"/lookups\?"), lambda route: route.abort())
    tiles(page).first.click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
    page.unroute(re.compile(r"/lookups\?"))
    page.get_by_role("button", name="Try again").click()
    settled(page)
    assert page.get_by_role("alert").count() == 0
    visited.troubles.clear()
    page.goto("/lookbook/?product=nowhere")
    expect(
        page.get_by_role("main").get_by_text("“nowhere” is not in the catalogue")
    ).to_be_visible()


def test_that_nobody_does_a_kind_of_work_stands_at_the_foot(visited: Visit) -> None:
    def without_embed(route: Route) -> None:
        response = route.fetch()
        status = response.json()
        workers = status["service"]["workers"]
        status["service"]["workers"] = [each for each in workers if each["role"] != "embed"]
        route.fulfill(response=response, json=status)

    page = visited.page
    page.route(re.compile(r"/status$"), without_embed)
    open_catalogue(page)
    strip = page.get_by_role("contentinfo").get_by_role("button")
    expect(strip).to_contain_text("No worker of: embed")
    page.unroute_all(behavior="ignoreErrors")


def test_an_older_answer_never_replaces_a_newer_one(visited: Visit) -> None:
    page = visited.page
    open_catalogue(page, "?category=bag")
    tiles(page).first.click()
    settled(page)
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route(re.compile(r"/lookups\?"), hold_the_first)
    with page.expect_request(re.compile(r"/lookups\?")):
        page.get_by_label("How many").fill("12")
    page.get_by_label("How many").fill("6")
    expect(matches(page)).to_have_count(6)
    held[0].fulfill(json={"state": "done", "replies": [], "not_found": ["late"]})
    # Whatever the page does with that, it has done when it has another answer.
    page.evaluate("fetch('/access').then((response) => response.text())")
    assert matches(page).count() == 6


def test_a_large_catalogue_stays_light(visited: Visit) -> None:
    page = visited.page
    ids = [f"made-up-{number:05}" for number in range(360)]

    def give(route: Route) -> None:
        said = parse_qs(urlsplit(route.request.url).query)
        start = int(said.get("after", ["0"])[0])
        some: list[dict[str, object]] = [
            {"product_id": each, "name": "main", "category": None, "attributes": {}}
            for each in ids[start : start + 60]
        ]
        after = start + 60 if start + 60 < len(ids) else None
        route.fulfill(json={"products": some, "next": after and str(after)})

    thumbnail = picture(1, (16, 16))
    page.route(re.compile(r"/catalogue\?"), give)
    page.route(
        re.compile(r"/thumbnails/made-up"),
        lambda route: route.fulfill(body=thumbnail, content_type="image/jpeg"),
    )
    open_catalogue(page)
    sheets = page.locator(".sheet")
    while sheets.count() < 6:
        number = sheets.count()
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(sheets.nth(number)).to_be_attached()
    expect(page.get_by_role("main").get_by_text("Show more")).to_be_hidden()
    expect(tile(page, ids[-1])).to_be_visible()
    expect(tile(page, ids[0])).not_to_be_attached()
    assert tiles(page).count() <= 240
    assert "from=" in page.url
    height = page.evaluate("document.documentElement.scrollHeight")
    page.evaluate("scrollTo(0, 0)")
    expect(tile(page, ids[0])).to_be_visible()
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_by_keyboard_alone(visited: Visit) -> None:
    page = visited.page
    open_catalogue(page)
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the pictures")).to_be_focused()
    press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    visited.see("keys")
    press("Escape")
    press("/")
    page.keyboard.type("fm-000")
    press("Enter")
    expect(tiles(page).first.locator(".look")).to_be_focused()
    ids = shown_ids(tiles(page))
    assert 6 < len(ids) < 60
    press("ArrowRight")
    press("ArrowRight")
    expect(tiles(page).nth(2).locator(".look")).to_be_focused()
    press("End")
    expect(tiles(page).last.locator(".look")).to_be_focused()
    press("Home")
    press("ArrowDown")
    expect(tiles(page).nth(6).locator(".look")).to_be_focused()
    press("Home")
    press("Enter")
    expect(page.get_by_role("heading", name=ids[0], exact=True)).to_be_focused()
    settled(page)
    for _ in range(40):
        press("Tab")
        if page.evaluate("document.activeElement.matches('.matches .look')"):
            break
    expect(matches(page).first.locator(".look")).to_be_focused()
    visited.shoot("keyboard")
    press("ArrowRight")
    press("+")
    expect(matches(page).nth(1).get_by_role("button", pressed=True)).to_have_count(1)
    press("+")
    expect(matches(page).nth(1).get_by_role("button", pressed=True)).to_have_count(0)
    press("Tab")
    expect(matches(page).nth(1).get_by_role("button").first).to_be_focused()
    press("Escape")
    expect(tile(page, ids[0]).locator(".look")).to_be_focused()


def test_what_a_shop_calls_things_stays_text(visited: Visit) -> None:
    page = visited.page
    page.goto("/lookbook/?prefix=%3Cimg")
    expect(tile(page, HOSTILE)).to_be_visible()
    expect(page.get_by_role("link", name="<b>odd</b> 1", exact=True)).to_be_visible()
    tile(page, HOSTILE).click()
    expect(page.get_by_role("heading", name=HOSTILE, exact=True)).to_be_focused()
    expect(page.locator(".facts")).to_have_text("<i>by</i><s>x</s>")
    settled(page)
    page.get_by_role("button", name="<s>x</s>").click()
    expect(
        page.get_by_role("main").get_by_text("No other product meets these conditions")
    ).to_be_visible()
    visited.shoot("hostile")
    assert page.title().startswith(HOSTILE)
    assert (
        page.locator("main b, main s, main i:not(.bar i)").count()
        == page.locator(".share b").count()
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser: Browser, shown: Shown, scheme: str) -> None:
    options = {"size": PHONE, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with visit(browser, shown.url, PICTURES, **options) as visited:
        page = visited.page
        # The colours are checked on a large screen: once is enough for the rest.
        look = visited.see if scheme == "light" else visited.shoot
        open_catalogue(page, "?category=sneaker")
        look(f"phone-{scheme}")
        tiles(page).first.tap()
        settled(page)
        look(f"phone-{scheme}-neighbours")
        page.get_by_role("button", name="Adjust").tap()
        expect(page.get_by_label("Variety")).to_be_visible()
        visited.shoot(f"phone-{scheme}-adjusted")
        assert _small_targets(page) == []
        page.get_by_role("button", name="Compare").tap()
        expect(page.get_by_role("main").get_by_text("are in both answers")).to_be_visible()
        page.get_by_role("button", name="Adjust").tap()
        tiles(page, ".versus").first.scroll_into_view_if_needed()
        look(f"phone-{scheme}-compared")
        page.get_by_role("contentinfo").get_by_role("button").tap()
        expect(page.get_by_role("dialog")).to_be_visible()
        visited.shoot(f"phone-{scheme}-status")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]


def _small_targets(page: Page) -> list[str]:
    """What is to be touched and smaller than a finger."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], summary, select, label, input[type=range]")]
             .filter((each) => each.checkVisibility() && !each.matches(".skip, .unseen"))
             .filter((each) => {
               const { width, height } = each.getBoundingClientRect();
               return width < 44 || height < 44;
             })
             .map((each) => each.outerHTML.slice(0, 90))"""
    )
    return found


def test_dark_and_still(browser: Browser, shown: Shown) -> None:
    options = {"color_scheme": "dark", "reduced_motion": "reduce"}
    with visit(browser, shown.url, PICTURES, **options) as visited:
        page = visited.page
        open_catalogue(page)
        visited.see("dark")
        tiles(page).nth(3).click()
        settled(page)
        visited.see("dark-neighbours")
        page.emulate_media(forced_colors="active")
        visited.shoot("forced-colors")
        page.emulate_media(forced_colors="none", contrast="more")
        visited.shoot("more-contrast")


def test_with_keys_it_asks_for_one_and_does_what_that_may(
    browser: Browser, shown: Shown, tmp_path: Path
) -> None:
    redis_url = shown.stack.settings.redis_url.get_secret_value()
    with (
        gateway(redis_url, tmp_path, api_keys=KEYS) as closed,
        visit(browser, closed.url, PICTURES) as visited,
    ):
        page = visited.page
        page.goto("/lookbook/?category=bag")
        dialog = page.get_by_role("dialog", name="A key, please")
        expect(dialog.get_by_label("API key")).to_be_focused()
        visited.see("key")
        page.keyboard.type("not-the-key-at-all")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("This key is not known here.")
        page.keyboard.type(READ)
        page.keyboard.press("Enter")
        expect(tiles(page)).to_have_count(14)
        picture = tiles(page).first.locator("img")
        expect(picture).to_have_class(re.compile("loaded"))
        assert str(picture.get_attribute("src")).startswith("blob:")
        visited.shoot("with-a-key")
        tiles(page).first.click()
        settled(page)
        expect(matches(page).first.get_by_role("button").first).to_be_disabled()
        assert page.evaluate("Object.keys(localStorage)") == []
        page.reload()
        settled(page)
