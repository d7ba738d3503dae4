"""The main job through real processes: what goes in comes out, on both databases."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer import (
    PictureRejected,
    Producer,
    ProductNotFound,
    UnknownLookup,
)
from producer.reasons import Reason
from tests.stack import picture, producer_of, save_picture
from worker.up import Service

WAIT = 60.0


def add(shop: Producer, product: str, path: Path, **more: object) -> None:
    """Add and wait until it is applied."""
    job = shop.add(product, path, **more)  # type: ignore[arg-type]
    outcome = job.wait(WAIT)
    assert not outcome.failures


def similar(shop: Producer, product: str, **more: object) -> list[str]:
    """Ids of what looks like the product."""
    lookup = shop.find_similar(product, **more)  # type: ignore[arg-type]
    return [match.product_id for match in lookup.result(WAIT).matches]


def test_products_are_found_by_product_and_by_picture(shop: Producer, folder: Path) -> None:
    name = folder.name
    for seed in range(5):
        add(shop, f"{name}-{seed}", save_picture(folder / f"{seed}.jpg", seed))
    add(shop, f"{name}-twin", save_picture(folder / "twin.jpg", 0))

    reply = shop.find_similar(f"{name}-0", limit=5).result(WAIT)
    assert reply.product_id == f"{name}-0"
    assert reply.matches[0].product_id == f"{name}-twin"
    assert reply.matches[0].distance == pytest.approx(0, abs=1e-3)
    assert f"{name}-0" not in [match.product_id for match in reply.matches]
    assert [m.distance for m in reply.matches] == sorted(m.distance for m in reply.matches)

    by_picture = shop.find_similar(image=picture(0), limit=2).result(WAIT)
    assert {m.product_id for m in by_picture.matches} == {f"{name}-0", f"{name}-twin"}
    assert by_picture.product_id is None


def test_a_lookup_is_polled_from_another_process_by_its_id(
    stack: Service, shop: Producer, folder: Path
) -> None:
    add(shop, folder.name, save_picture(folder / "one.jpg", 71))
    asked = shop.find_similar(folder.name)
    with producer_of(stack) as other:
        reply = other.lookup(asked.id).result(WAIT)
        assert reply.product_id == folder.name
        assert other.lookup(asked.id).state.value == "done"


def test_several_pictures_of_a_product_are_answered_once(shop: Producer, folder: Path) -> None:
    name = folder.name
    add(shop, f"{name}-a", save_picture(folder / "a.jpg", 31), name="front")
    add(shop, f"{name}-a", save_picture(folder / "b.jpg", 32), name="back")
    add(shop, f"{name}-q", save_picture(folder / "q.jpg", 32))
    reply = shop.find_similar(f"{name}-q", limit=1000).result(WAIT)
    ids = [match.product_id for match in reply.matches]
    assert len(ids) == len(set(ids))
    assert reply.matches[0].product_id == f"{name}-a"
    assert reply.matches[0].name == "back"


def test_a_removed_product_is_gone_at_once_and_a_late_message_does_not_bring_it_back(
    shop: Producer, folder: Path
) -> None:
    name = folder.name
    add(shop, f"{name}-q", save_picture(folder / "q.jpg", 41))
    add(shop, f"{name}-x", save_picture(folder / "x.jpg", 41), version=5)
    assert similar(shop, f"{name}-q", limit=1) == [f"{name}-x"]

    for job in shop.remove(f"{name}-x", version=7):
        job.wait(WAIT)
    assert f"{name}-x" not in similar(shop, f"{name}-q", limit=1000)
    with pytest.raises(ProductNotFound):
        shop.find_similar(f"{name}-x").result(WAIT)

    add(shop, f"{name}-x", folder / "x.jpg", version=6)
    assert f"{name}-x" not in similar(shop, f"{name}-q", limit=1000)
    add(shop, f"{name}-x", folder / "x.jpg", version=8)
    assert similar(shop, f"{name}-q", limit=1) == [f"{name}-x"]


def test_a_bad_picture_fails_alone_and_its_reason_is_told(shop: Producer, folder: Path) -> None:
    name = folder.name
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.jpg").write_bytes(picture(51)[:900])
    rows: list[dict[str, object]] = [
        {"product_id": f"{name}-text", "image": folder / "text.jpg"},
        {"product_id": f"{name}-cut", "image": folder / "cut.jpg"},
        {"product_id": f"{name}-gone", "image": folder / "gone.jpg"},
        {"product_id": f"{name}-outside", "image": "/etc/hostname"},
        {"product_id": f"{name}-good", "image": save_picture(folder / "good.jpg", 52)},
    ]
    outcomes = [job.wait(WAIT) for job in shop.add_many(rows)]
    failures = {f.product_id: f.reason for outcome in outcomes for f in outcome.failures}
    assert failures == {
        f"{name}-text": Reason.UNSUPPORTED_FORMAT,
        f"{name}-cut": Reason.CORRUPT_IMAGE,
        f"{name}-gone": Reason.NOT_FOUND,
        f"{name}-outside": Reason.PATH_DENIED,
    }
    assert sum(outcome.applied for outcome in outcomes) == 1
    shop.find_similar(f"{name}-good").result(WAIT)
    dead = shop.status(timeout=WAIT).dead_letters
    assert all(dead.get(reason, 0) >= 1 for reason in failures.values())


def test_pictures_by_address(stack: Service, shop: Producer, folder: Path) -> None:
    save_picture(folder / "here.jpg", 61)
    allowed = stack.settings.image_hosts[0]
    with web_server(folder, int(allowed.split(":")[1])):
        address = f"http://{allowed}"
        good = shop.add(f"{folder.name}-here", f"{address}/here.jpg?token=secret")
        bad = shop.add(f"{folder.name}-gone", f"{address}/gone.jpg")
        assert good.wait(WAIT).applied == 1
        assert [f.reason for f in bad.wait(WAIT).failures] == [Reason.NOT_FOUND]
    private = shop.add(f"{folder.name}-private", "http://169.254.169.254/latest/meta-data")
    assert [f.reason for f in private.wait(WAIT).failures] == [Reason.BLOCKED_ADDRESS]


def test_filters_give_k_whenever_k_exist(shop: Producer, folder: Path) -> None:
    name = folder.name
    for seed in range(80, 92):
        add(
            shop,
            f"{name}-{seed}",
            save_picture(folder / f"{seed}.jpg", seed),
            category=f"{name}-{'odd' if seed % 2 else 'even'}",
            price=float(seed),
        )
    only_odd = similar(shop, f"{name}-80", limit=6, where={"category": f"{name}-odd"})
    assert sorted(only_odd) == [f"{name}-{seed}" for seed in range(81, 92, 2)]
    cheap = similar(
        shop,
        f"{name}-80",
        limit=100,
        where={"price": {"lt": 83}, "category": [f"{name}-odd", f"{name}-even"]},
    )
    assert sorted(cheap) == [f"{name}-81", f"{name}-82"]


def test_many_products_in_one_message(shop: Producer, folder: Path) -> None:
    name = folder.name
    for seed in (101, 102, 103):
        add(shop, f"{name}-{seed}", save_picture(folder / f"{seed}.jpg", seed))
    ids = [f"{name}-101", f"{name}-nowhere", f"{name}-103"]
    reply = shop.find_similar_many(ids, limit=2).result(WAIT)
    assert [each.product_id for each in reply.replies] == [f"{name}-101", f"{name}-103"]
    assert reply.not_found == (f"{name}-nowhere",)
    assert all(len(each.matches) == 2 for each in reply.replies)


def test_what_cannot_be_answered_says_why(shop: Producer, folder: Path) -> None:
    with pytest.raises(ProductNotFound):
        shop.find_similar(f"{folder.name}-nowhere").result(WAIT)
    with pytest.raises(PictureRejected) as rejected:
        shop.find_similar(image=b"this is no picture").result(WAIT)
    assert rejected.value.reason is Reason.UNSUPPORTED_FORMAT
    with pytest.raises(UnknownLookup):
        shop.lookup("01890a5d-ac96-774b-bcce-b302099a8057"[::-1]).result(1)


def test_status_counts_what_is_there(shop: Producer, folder: Path) -> None:
    before = shop.status(timeout=WAIT)
    add(shop, folder.name, save_picture(folder / "s.jpg", 131))
    after = shop.status(timeout=WAIT)
    assert after.products == before.products + 1
    assert after.images == before.images + 1
    assert after.revision > before.revision
    assert after.model_name == "efficientnet-lite0:64"


@contextmanager
def web_server(folder: Path, port: int) -> Iterator[None]:
    """Serve a folder on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
