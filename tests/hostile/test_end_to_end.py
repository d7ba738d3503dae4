"""Hostile pictures of all kinds, sent to a real running service among good ones: what becomes of all of them."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from db.queries import dead_letters, models
from db.queries.dead_letters import DeadLetter
from db.session import Database
from producer import InvalidRequest, Producer
from producer.ids import new_id
from producer.messages import ImageItem, IngestChunk, Outcome, PathImage, UrlImage
from producer.reasons import Reason
from producer.receipts import Receipt, Tracker
from tests.faults.group import Group, group
from tests.hostile import pictures
from tests.hostile.files import Place
from tests.hostile.processes import Growth
from tests.integration.test_fetch_web import Site, body, endless, status
from tests.stack import picture
from worker.embedding.network import Network
from worker.images.decode import DecodeSpec
from worker.images.fetch import Fetcher, FetchPolicy
from worker.images.pool import DecoderPool
from worker.preparing import Prepared, Preparer
from worker.quarantine import _answer

IDS = {
    "quotes": "'\"`; DROP TABLE product; --",
    "emoji": "\U0001f469\U0001f3fd\u200d\U0001f4bb\U0001f457",
    "right to left": "\u202e\u0634\u0645\u0644\u0629 <\u05e9\u05dc\u05d5\u05dd>",
    "white space": " \t\n\r ",
    "markup": "<script>alert(1)</script>&amp;{{7*7}}${jndi:ldap://a}",
    "combining": "a" + "\u0301" * 254,
    "longest": "\U0010ffff" * 255,
    "path": "../../etc/passwd",
    "wildcards": "%_*?[]",
    "bytes": "\x01\x1b[31m\x7f\x85",
}
"""Product ids that a shop may have, and that must come back as they are."""
LITTLE = 100
"""MiB that a process of the service may grow by."""
PICTURES = (
    *("empty", "one byte", "html named .jpg", "svg named .jpg", "eps renamed", "psd renamed"),
    *("pdf renamed", "JPEG cut at 50%", "PNG cut at 20%", "WEBP cut at 95%", "png of 9459 x 9459"),
    *("png of 20000 x 20000", "png of 60000 x 1000", "zTXt before the pixels: 300 MB"),
    *("iTXt after the pixels: 400 times 1 MB", "profile of 300 MB", "png of noise for pixels"),
    *("jpeg of 400 scans, 7000 x 7000", "webp that claims 16,384 x 16,384"),
)
"""Names of cases of `pictures.table`."""


@dataclass(frozen=True)
class Sent:
    """What a shop sends of a product, and the reason that it has to end in; None: it becomes searchable."""

    product_id: str
    image: Any
    reason: Reason | None = None


@contextmanager
def _sites() -> Iterator[tuple[Site, Site]]:
    """A server that a worker may ask, and one that it may not."""
    victim = Site({"/": body(b"secret")})
    bomb = gzip.compress(bytes(90 << 20))
    asked = Site(
        {
            "/good": body(picture(77)),
            "/html": body(b"<html>please log in</html>"),
            "/inwards": status(302, f"http://{victim.host}/"),
            "/metadata": status(307, "http://169.254.169.254/latest/meta-data/"),
            "/circle": status(302, "/circle"),
            "/bomb": body(bomb, Content_Encoding="gzip"),
            "/long": body(b"", Content_Length="99999999999"),
            "/drip": endless(b"x", 0.05),
        }
    )
    try:
        yield asked, victim
    finally:
        asked.stop()
        victim.stop()


def _good(place: Place, site: Site) -> Iterator[Sent]:
    for number, id_ in enumerate(IDS.values()):
        path = place.root / f"{number}.jpg"
        path.write_bytes(picture(number))
        yield Sent(id_, path if number % 2 else path.read_bytes())
    yield Sent("from the web", f"http://{site.host}/good")
    yield Sent("many frames", pictures.gif_frames())


def _bad(place: Place, site: Site, victim: Site) -> Iterator[Sent]:
    cases = {case.name: case for case in pictures.table()}
    for name in PICTURES:
        path = place.root / f"{name.replace('/', ' ')}.jpg"
        path.write_bytes(cases[name].data)
        yield Sent(name, path, cases[name].reason)
    for id_ in IDS.values():
        yield Sent(f"{id_[:200]} bad", b"no picture " + os.urandom(4), Reason.UNSUPPORTED_FORMAT)
    yield from _bad_addresses(site, victim)
    yield from _bad_paths(place)


def _bad_addresses(site: Site, victim: Site) -> Iterator[Sent]:
    port = victim.host.rpartition(":")[2]
    for host in (
        *(victim.host, f"2130706433:{port}", f"0x7f000001:{port}", f"[::ffff:127.0.0.1]:{port}"),
        *("127.1", "0", "169.254.169.254", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "224.0.0.1"),
    ):
        yield Sent(f"at {host}", f"http://{host}/", Reason.BLOCKED_ADDRESS)
    for name, reason in {
        "html": Reason.UNSUPPORTED_FORMAT,
        "inwards": Reason.BLOCKED_ADDRESS,
        "metadata": Reason.BLOCKED_ADDRESS,
        "circle": Reason.FETCH_FAILED,
        "bomb": Reason.TOO_LARGE,
        "long": Reason.TOO_LARGE,
    }.items():
        yield Sent(f"site's {name}", f"http://{site.host}/{name}", reason)


def _bad_paths(place: Place) -> Iterator[Sent]:
    os.mkfifo(place.root / "fifo")
    (place.root / "link").symlink_to(place.outside / "secret")
    denied = ("../pictures-private/secret", "link", "fifo", "inner")
    for path in denied:
        yield Sent(f"path {path!a}", Path(f"{place.root}/{path}"), Reason.PATH_DENIED)
    for path in ("/etc/passwd", "/proc/self/environ", "/dev/zero"):
        yield Sent(f"path {path}", Path(path), Reason.PATH_DENIED)
    # As no producer of ours sends it.
    nul = PathImage(path=f"{place.root}/inner/a.jpg\0.png")
    yield Sent("path with NUL", nul, Reason.PATH_DENIED)
    yield Sent("path of 4 KB", place.root / ("x" * 3900), Reason.NOT_FOUND)


@pytest.mark.slow
def test_each_ends_with_its_reason_and_the_service_goes_on(tmp_path: Path) -> None:
    place = Place.made(tmp_path)
    with (
        _sites() as (site, victim),
        group(
            tmp_path / "service",
            image_hosts=(site.host, "*"),
            image_roots=(place.root,),
            fetch_timeout=1.0,
        ) as service,
    ):
        service.start()
        service.ready()
        good, bad = list(_good(place, site)), list(_bad(place, site, victim))
        assert len(bad) >= 50
        with Producer(service.producer) as shop:
            shop.add("first", picture(1000)).wait(60)
            growths = [Growth.of(pid) for pid in _processes(service)]
            outcome = _all_sent(shop, mixed(good, bad))
            _judge(service, good, bad, outcome)
            _searchable(shop, good)
            _tried_again(service, shop, f"http://{site.host}/drip")
        # None was replaced; one that tries a new index may have joined for a moment.
        assert {growth.pid for growth in growths} <= set(_processes(service))
        assert service.ended == []
        assert {growth.pid: growth.most for growth in growths if growth.most > LITTLE} == {}
    assert victim.connections == 0


def mixed(good: list[Sent], bad: list[Sent]) -> list[Sent]:
    """The good ones among the bad ones, so that every chunk has some of both."""
    step = len(bad) // len(good)
    return [
        each
        for number, one in enumerate(good)
        for each in (one, *bad[number * step : (number + 1) * step])
    ] + bad[len(good) * step :]


def _processes(service: Group) -> list[int]:
    """Process ids of the workers and of all their children."""
    workers = [psutil.Process(worker.pid) for worker in service.workers.values()]
    return sorted(each.pid for worker in workers for each in (worker, *worker.children(True)))


def _all_sent(shop: Producer, sent: list[Sent]) -> Outcome:
    raw = [each for each in sent if isinstance(each.image, PathImage)]
    rows = (
        {"product_id": each.product_id, "image": each.image} for each in sent if each not in raw
    )
    receipts = shop.add_many(rows)
    jobs = [_job(each) for each in raw]
    shop._transport.accept(jobs)
    receipts += [Receipt(job.id, 1, shop._transport) for job in jobs]
    tracker = Tracker(shop._transport, receipts)
    tracker.wait(60)
    assert {each.retried_as for each in tracker.outcome.failures} == {None}
    return tracker.outcome


def _job(sent: Sent) -> IngestChunk:
    item = ImageItem(product_id=sent.product_id, image=sent.image, version=1)
    return IngestChunk(id=new_id(), accepted_at=time.time(), items=(item,))


def _judge(service: Group, good: list[Sent], bad: list[Sent], outcome: Outcome) -> None:
    expected = {each.product_id: each.reason for each in bad}
    assert {each.product_id: each.reason for each in outcome.failures} == expected
    assert outcome.applied == len(good)
    letters = _letters(service)
    assert {each.product_id: Reason(each.reason) for each in letters} == expected
    assert {each.attempts for each in letters} == {1}
    assert not any("secret" in each.detail for each in letters)


def _letters(service: Group) -> list[DeadLetter]:
    database = Database(service.settings.database)
    with database.reading() as session:
        found = dead_letters.list_(session, limit=1000)
    database.close()
    return found


def _searchable(shop: Producer, good: list[Sent]) -> None:
    """Each is found by its id, and finds all others by theirs."""
    ids = {"first", *(each.product_id for each in good)}
    for each in good:
        reply = shop.find_similar(each.product_id, limit=100).result(30)
        assert {match.product_id for match in reply.matches} == ids - {each.product_id}


def _tried_again(service: Group, shop: Producer, url: str) -> None:
    """What may pass is no dead letter at once."""
    receipt = shop.add("drip", url)
    service.wait(lambda: shop.outcome(receipt.id) is not None, 20.0, "the drip is not given up")
    outcome = shop.outcome(receipt.id)
    assert outcome is not None
    (failure,) = outcome.failures
    assert failure.reason is Reason.FETCH_TIMEOUT
    assert failure.retried_as is not None


@pytest.mark.parametrize(
    "id_", ["", "x" * 10_000, "\U0001f457" * 256, "a\0b", "\ud800", 7, None, b"x"]
)
def test_an_id_that_no_database_holds_is_refused_where_it_is_sent(id_: Any) -> None:
    with Producer(transport=cast(Any, None)) as shop, pytest.raises(InvalidRequest):
        shop.add(id_, "/a.jpg")


@pytest.mark.parametrize("path", ["a\0.jpg", "", "\ud800.jpg"])
def test_a_path_that_no_system_has_is_refused_where_it_is_sent(path: str) -> None:
    with Producer(transport=cast(Any, None)) as shop, pytest.raises(InvalidRequest):
        shop.add("a", path)


# -- what a network may give ----------------------------------------------------------------------

RAW: Mapping[str, list[float]] = {
    "NaN": [float("nan"), 1.0],
    "all NaN": [float("nan"), float("nan")],
    "infinite": [float("inf"), 1.0],
    "minus infinite": [float("-inf"), 0.0],
    "zero": [0.0, 0.0],
    "minus zero": [-0.0, 0.0],
    "too long to measure": [3e38, 3e38],
}
"""What the last layer puts out, none of which has a direction."""


def embedding(*rows: list[float]) -> Any:
    """The network's `embed`, of a last layer that puts this out."""

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        left = np.array(rows[: len(pixels)], np.float32)
        network = SimpleNamespace(_layer=None, _run=lambda _pixels, _layer: left)
        return Network.embed(cast(Any, network), pixels)

    return embed


@pytest.mark.parametrize("name", RAW)
def test_a_vector_without_direction_is_refused_and_its_neighbours_are_kept(
    name: str, sqlite_database: Database, tmp_path: Path
) -> None:
    prepared = _prepared(sqlite_database, tmp_path, embedding([3.0, 4.0], RAW[name], [0.0, -2.0]))
    assert [each.item.product_id for each in prepared.pictured] == ["p0", "p2"]
    (refused,) = prepared.refused
    assert (refused.error.reason, refused.error.transient) == (Reason.BAD_VECTOR, False)
    kept = np.stack(list(prepared.vectors.values()))
    np.testing.assert_allclose(kept, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-6)


def _prepared(database: Database, folder: Path, embed: Any) -> Prepared:
    with database.writing() as session:
        model = models.register(session, "d" * 64, "test", 2, {})
    items = []
    for number in range(3):
        path = folder / f"{number}.jpg"
        path.write_bytes(picture(number))
        items.append(ImageItem(product_id=f"p{number}", image=PathImage(path=str(path)), version=1))
    with (
        DecoderPool(1) as pool,
        Fetcher(FetchPolicy(roots=(folder,)), cast(Any, None)) as fetcher,
        ThreadPoolExecutor(2) as executor,
    ):
        preparer = Preparer(
            database=database,
            model_version_pk=model.pk,
            fetch=fetcher.fetch,
            decode_many=lambda data: pool.decode_many(data, DecodeSpec(64)),
            embed=embed,
            executor=executor,
        )
        return preparer.prepare(items)


@pytest.mark.parametrize("name", RAW)
def test_the_quarantine_refuses_it_too(name: str) -> None:
    pixels = SimpleNamespace(pixels=np.zeros((4, 4, 3), np.uint8), thumbnail=b"")
    embedder = SimpleNamespace(
        fetch=lambda _: SimpleNamespace(data=b"", content_sha256=b"", source=""),
        decode_many=lambda _: [pixels],
        embed=embedding(RAW[name]),
    )
    answer = _answer(cast(Any, embedder), UrlImage(url="http://cdn.example/a"))
    assert answer["reason"] is Reason.BAD_VECTOR
    assert answer["transient"] is False
