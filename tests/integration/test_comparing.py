"""What the catalogue says of a shop's own, on both databases; and `lookalike sync`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from db.queries import backfill, catalogue, models
from db.queries.catalogue import ImageChange, NewEmbedding, ProductRemoval
from db.session import Database
from producer.cli.commands import run
from producer.comparison import Comparison, Pictured, ProductList, Verdict
from producer.ids import new_id
from producer.messages import BytesImage, ImageRef, PathImage, Queue, UrlImage
from tests.fake_worker import FakeWorker, match, take_all
from worker import comparing
from worker.comparing import compare, list_products

SHA = bytes(range(32))


class Stock:
    """A catalogue that is written to by hand."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.writing() as session:
            self.model = models.register(session, "d" * 64, "test", 1, {})

    def add(self, product: str, source: str = "/p.jpg", **more: Any) -> None:
        """Store a picture, with a vector."""
        values = {"name": "main", "category": None, "attributes": {}, "version": 5} | more
        change = ImageChange(product, content_sha256=SHA, source=source, **values)
        with self.database.writing() as session:
            catalogue.add_embeddings(session, self.model.pk, [NewEmbedding(SHA, 1, b"\0\0\x80?")])
            catalogue.apply(session, [change], [])

    def remove(self, product: str, version: int) -> None:
        """Take a product out."""
        with self.database.writing() as session:
            catalogue.apply(session, [], [ProductRemoval(product, version)])

    def verdict(self, product: str, image: ImageRef | None = None, **more: Any) -> Verdict:
        """Of one picture."""
        (verdict,) = self.verdicts(pictured(product, image, **more))
        return verdict

    def verdicts(self, *pictures: Pictured) -> tuple[Verdict, ...]:
        """Of several."""
        question = Comparison(id=new_id(), expires_at=1e12, pictures=pictures)
        return compare(self.database, question).verdicts

    def products(self) -> list[tuple[str, int]]:
        """All of them with their versions, page by page."""
        found: list[tuple[str, int]] = []
        after: int | None = 0
        while after is not None:
            page = list_products(
                self.database, ProductList(id=new_id(), expires_at=1e12, after=after)
            )
            found += page.products
            after = page.next
        return found


def pictured(product: str, image: ImageRef | None = None, **more: Any) -> Pictured:
    """A picture as the shop has it."""
    values = {"name": "main", "category": None, "attributes": {}} | more
    return Pictured(product_id=product, image=image or PathImage(path="/p.jpg"), **values)


@pytest.fixture
def stock(database: Database) -> Stock:
    """On one database and then on the other."""
    return Stock(database)


def test_each_picture_is_judged_for_itself(stock: Stock) -> None:
    stock.add("a", attributes={"price": 1, "tags": ["x"]}, category="dress")
    described: dict[str, Any] = {"category": "dress", "attributes": {"price": 1, "tags": ["x"]}}
    assert stock.verdict("a", **described) is Verdict.SAME
    assert stock.verdict("a", PathImage(path="/./p.jpg"), **described) is Verdict.SAME
    assert stock.verdict("a", PathImage(path="/q.jpg"), **described) is Verdict.CHANGED
    assert stock.verdict("a", **described | {"category": None}) is Verdict.CHANGED
    assert stock.verdict("a", **described, name="back") is Verdict.MISSING
    assert stock.verdicts(pictured("b"), pictured("a", **described)) == (
        Verdict.MISSING,
        Verdict.SAME,
    )


@pytest.mark.parametrize("other", [1.0, True, "1", [1]])
def test_values_that_filters_tell_apart_differ(stock: Stock, other: object) -> None:
    stock.add("a", attributes={"price": 1})
    assert stock.verdict("a", attributes={"price": other}) is Verdict.CHANGED


def test_addresses_are_compared_as_they_are_kept(stock: Stock) -> None:
    stock.add("a", "https://cdn.example/a.jpg")
    asked = "https://user:secret@cdn.example/a.jpg?signature=5#x"
    assert stock.verdict("a", UrlImage(url=asked)) is Verdict.SAME
    assert stock.verdict("a", UrlImage(url="https://cdn.example/b.jpg")) is Verdict.CHANGED
    assert stock.verdict("a", UrlImage(url="http://[")) is Verdict.CHANGED


def test_bytes_decide_where_they_are_known(stock: Stock) -> None:
    stock.add("a", "bytes:0001")
    by_bytes = BytesImage(key=SHA.hex())
    assert stock.verdict("a", by_bytes, sha256=SHA.hex()) is Verdict.SAME
    assert stock.verdict("a", by_bytes, sha256="0" * 64) is Verdict.CHANGED
    assert stock.verdict("a", PathImage(path="/elsewhere"), sha256=SHA.hex()) is Verdict.SAME
    assert stock.verdict("a", by_bytes) is Verdict.CHANGED


def test_versions_say_whether_sending_would_change_anything(stock: Stock) -> None:
    stock.add("a", version=5)
    assert stock.verdict("a", version=5) is Verdict.SAME
    assert stock.verdict("a", category="dress", version=5) is Verdict.SUPERSEDED
    assert stock.verdict("a", category="dress", version=6) is Verdict.CHANGED
    stock.remove("a", 8)
    assert stock.verdict("a") is Verdict.MISSING
    assert stock.verdict("a", version=8) is Verdict.SUPERSEDED
    assert stock.verdict("a", version=9) is Verdict.MISSING


def test_a_picture_without_a_vector_is_missing(stock: Stock) -> None:
    stock.add("a")
    with stock.database.writing() as session:
        from db.queries import audit

        audit.delete_embeddings(session, [SHA], stock.model.pk)
    assert stock.verdict("a") is Verdict.MISSING


def test_what_a_rollout_could_not_have_is_sent_again(stock: Stock) -> None:
    stock.add("a", "bytes:0001", version=5)
    by_bytes = BytesImage(key=SHA.hex())
    with stock.database.writing() as session:
        other = models.register(session, "e" * 64, "other", 1, {})
        models.begin_rollout(session, other.pk, without_missing=False)
    assert stock.verdict("a", by_bytes, sha256=SHA.hex()) is Verdict.SAME, "it is on its way"
    with stock.database.writing() as session:
        failure = backfill.Failure(SHA, "sent_as_bytes", "gone", 1, None)
        backfill.note(session, other.pk, [failure])
    assert stock.verdict("a", by_bytes, sha256=SHA.hex(), version=5) is Verdict.CHANGED
    with stock.database.writing() as session:
        models.end_rollout(session)
    assert stock.verdict("a", by_bytes, sha256=SHA.hex()) is Verdict.SAME


def test_without_any_model_everything_is_missing(database: Database) -> None:
    question = Comparison(id=new_id(), expires_at=1e12, pictures=(pictured("a"),))
    assert compare(database, question).verdicts == (Verdict.MISSING,)


def test_products_are_listed_page_by_page(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "PAGE", 2)
    for number in range(5):
        stock.add(f"p{number}", version=7)
        stock.add(f"p{number}", name="back", version=number)
    stock.remove("p1", 9)
    assert stock.products() == [("p0", 7), ("p2", 7), ("p3", 7), ("p4", 7)]


def test_removing_a_product_at_its_version_leaves_what_is_newer(stock: Stock) -> None:
    stock.add("a", version=7)
    ((_, version),) = stock.products()
    stock.remove("a", version)
    assert stock.products() == []
    stock.add("a", version=8)
    stock.remove("a", version)
    assert stock.products() == [("a", 8)]


# -- the command ----------------------------------------------------------------------------------


def sync(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    """Run it: exit code, and what it wrote."""
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", url)
    code = run(["sync", *options])
    return code, *capsys.readouterr()


def test_the_command_says_what_differs_and_sends_it(
    tmp_path: Path,
    empty_valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    file = tmp_path / "shop.csv"
    file.write_text("product_id,image\na,a.jpg\nb,b.jpg\nc,c.jpg\n")
    with Redis.from_url(empty_valkey_url) as redis:
        worker = FakeWorker(redis, {"a": [match("b")], "old": []})
        worker.verdict = lambda each: Verdict.SAME if each.product_id == "a" else Verdict.MISSING
        with worker.working():
            code, out, _ = sync(
                empty_valkey_url, monkeypatch, capsys, "--from", str(file), "--dry-run", "--delete"
            )
            assert (code, redis.exists("lookalike:ledger")) == (0, 0)
            assert "3 compared: 1 as they are, 2 missing and 0 changed would be sent" in out
            assert "1 products are not in the file (would be removed)" in out
            code, out, _ = sync(
                empty_valkey_url, monkeypatch, capsys, "--from", str(file), "--wait", "--json"
            )
    told = json.loads(out)
    assert (code, told["compared"], told["missing"], told["others"], told["removed"]) == (
        0,
        3,
        2,
        1,
        0,
    )
    assert (len(told["jobs"]), told["applied"]) == (1, 2)


def test_the_command_removes_what_is_not_in_the_file(
    tmp_path: Path,
    empty_valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    with Redis.from_url(empty_valkey_url) as redis:
        worker = FakeWorker(redis, {"a": [], "old": []})
        worker.verdict = lambda _: Verdict.SAME
        with worker.working():
            code, out, _ = sync(
                empty_valkey_url, monkeypatch, capsys, "--from", str(tmp_path), "--delete", "--wait"
            )
        assert take_all(redis, Queue.INGEST) == []
    assert code == 0
    assert "1 products that are not in the file removed" in out


def test_what_could_remove_too_much_is_refused(
    tmp_path: Path,
    empty_valkey_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--from", str(tmp_path), "--delete")
    code, _, err = sync(empty_valkey_url, monkeypatch, capsys, *options, "--skip-missing")
    assert code == 2
    assert "do not go together" in err
