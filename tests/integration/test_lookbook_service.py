"""The lookbook's addresses in front of the whole service: real workers, pictures, generations and failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from producer import Producer
from tests.http import gateway
from tests.stack import producer_of, running, save_picture
from worker.up import Service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of its own: what is requeued and discarded here is nobody else's."""
    with running(tmp_path_factory.mktemp("lookbook") / "data", rebuild_after_changes=1) as stack:
        yield stack


@pytest.fixture(scope="module")
def pictures(service: Service) -> Path:
    folder = service.settings.roots[0] / "shown"
    folder.mkdir()
    rows = [
        {
            "product_id": f"sku/{number}",
            "image": str(save_picture(folder / f"{number}.jpg", 500 + number)),
            "category": f"c{number % 2}",
            "price": number,
        }
        for number in range(12)
    ]
    with producer_of(service) as shop:
        assert shop.wait_for(shop.add_many(rows), 120).applied == len(rows)
    return folder


@pytest.fixture(scope="module")
def http(
    service: Service, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    url = service.settings.redis_url.get_secret_value()
    with gateway(url, tmp_path_factory.mktemp("gateway")) as started, started.client() as client:
        yield client


def told(http: httpx.Client, path: str, **query: Any) -> Any:
    said = http.get(path, params=query)
    assert said.status_code == 200, said.text
    return said.json()


def generation(http: httpx.Client, least: int = 1) -> dict[str, Any]:
    """The current generation, once it has so many pictures."""
    deadline = time.monotonic() + 120
    while True:
        for each in told(http, "/generations")["generations"]:
            if each["current"] and each["images"] >= least:
                return dict(each)
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_catalogue_with_its_pictures(http: httpx.Client) -> None:
    page = told(http, "/catalogue", category="c1", limit=4)
    assert [each["product_id"] for each in page["products"]] == [
        "sku/1", "sku/11", "sku/3", "sku/5",
    ]  # fmt: skip
    assert page["products"][1]["attributes"] == {"price": 11}
    rest = told(http, "/catalogue", category="c1", after=page["next"])
    assert [each["product_id"] for each in rest["products"]] == ["sku/7", "sku/9"]
    assert rest["next"] is None
    assert told(http, "/categories") == {
        "total": 12,
        "categories": [{"category": "c0", "products": 6}, {"category": "c1", "products": 6}],
    }
    picture = http.get("/thumbnails/sku/3", params={"name": page["products"][2]["name"]})
    assert picture.content.startswith(b"\xff\xd8")
    assert http.get("/thumbnails/sku/99").json()["reason"] == "no_such_picture"


def test_a_match_is_looked_at_in_its_generation_and_judged(http: httpx.Client) -> None:
    number = generation(http, 12)["number"]
    asked = {"product_id": "sku/3", "limit": 3, "generation": number}
    (reply,) = http.post("/lookups?wait=30", json=asked).json()["replies"]
    assert (reply["generation"], reply["pending"], len(reply["matches"])) == (number, 0, 3)
    match = reply["matches"][0]
    vote = {
        "product_id": "sku/3",
        "match": match["product_id"],
        "verdict": "up",
        "generation": number,
        "distance": match["distance"],
    }
    made = http.put("/judgements", json=vote).json()
    assert (made["model_version"], made["judge"]) == (reply["model_version"], "shop")
    assert told(http, "/judgements", product_id="sku/3")["judgements"] == [made]
    unknown = http.put("/judgements", json=vote | {"generation": number + 1000})
    assert unknown.json()["reason"] == "unknown_generation"
    gone = http.post("/lookups?wait=30", json=asked | {"generation": number + 1000}).json()
    assert gone["problem"]["reason"] == "unknown_generation"


def test_a_failure_is_requeued_and_another_discarded(
    http: httpx.Client, service: Service, pictures: Path
) -> None:
    missing = [pictures / f"late{number}.jpg" for number in range(2)]
    rows = [
        {"product_id": f"late{number}", "image": str(path)} for number, path in enumerate(missing)
    ]
    with producer_of(service) as shop:
        assert len(shop.wait_for(shop.add_many(rows), 60).failures) == 2
        failures = told(http, "/failures", reason="not_found")["failures"]
        assert {each["product_id"] for each in failures} == {"late0", "late1"}
        assert told(http, "/status")["service"]["dead_letters"] == {"not_found": 2}
        save_picture(missing[0], 900)
        (first,) = told(http, "/failures", product_id="late0")["failures"]
        requeued = http.post("/failures/requeue", json={"ids": [first["id"]]})
        assert requeued.json() == {"requeued": 1, "left": 0}
        discarded = http.post("/failures/discard", json={"all": True})
        assert discarded.json() == {"discarded": 1, "left": 0}
        assert _there(shop, "late0")
    assert told(http, "/failures") == {"failures": [], "next": None}
    assert told(http, "/catalogue", prefix="late")["products"][0]["product_id"] == "late0"


def _there(shop: Producer, product_id: str) -> bool:
    deadline = time.monotonic() + 60
    while shop.find_similar_many([product_id]).result(30).not_found:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return True


def test_the_status_says_who_works(http: httpx.Client) -> None:
    status = told(http, "/status")
    assert status["problem"] is None
    assert {each["role"] for each in status["service"]["workers"]} >= {"embed", "search", "index"}
    assert status["service"]["generation"]["number"] >= 1
