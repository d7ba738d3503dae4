"""New pictures are embedded under the active and the incoming model, and refused for the first one alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from db.queries import catalogue, models, revisions
from db.session import Database
from producer.ids import new_id
from producer.ledger import Ledger
from producer.messages import ImageItem, IngestChunk, Outcome, PathImage
from producer.reasons import Reason
from tests.integration.two_models import NEW, OLD, Network, TwoModels, as_embedder
from worker.crew import Crew
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.serving import Serving


@dataclass
class Bench:
    """A process that embeds what is accepted."""

    two: TwoModels
    ledger: Ledger
    serving: Serving = field(init=False)
    crew: Crew = field(init=False)

    def __post_init__(self) -> None:
        self.serving = self.two.serving()
        self.crew = Crew(
            database=self.two.database,
            ledger=self.ledger,
            serving=self.serving,
            fetch=self.two.fetch,
            executor=ThreadPoolExecutor(2),
            open_quarantine=lambda _: pytest.fail("no worker died"),
        )

    def add(self, *names: str, version: int = 1) -> Outcome:
        """Have it apply a chunk of these products."""
        for name in names:
            self.two.files[f"/{name}"] = f"/{name}".encode()
        items = tuple(
            ImageItem(product_id=n, image=PathImage(path=f"/{n}"), category="c", version=version)
            for n in names
        )
        job = IngestChunk(id=new_id(), accepted_at=time.time(), items=items)
        self.ledger.accept([job])
        claim = self.ledger.begin(job)
        assert claim is not None
        return self.crew.ingest(claim)

    def has(self, model: str, network: Network) -> None:
        """Put another network in the place of a model's own."""
        pk = {OLD: self.two.old.pk, NEW: self.two.new.pk}[model]
        self.serving._loaded[pk].embedder = as_embedder(network)


@pytest.fixture
def bench(database: Database, empty_valkey_url: str) -> Bench:
    """One that knows that the new model is coming in."""
    two = TwoModels(database)
    two.begin()
    return Bench(two, Ledger(Redis.from_url(empty_valkey_url)))


def test_both_models_get_their_vectors(bench: Bench) -> None:
    assert bench.add("a", "b").applied == 2
    assert bench.two.embedded(OLD) == bench.two.embedded(NEW) == {"a", "b"}
    assert bench.two.revision() == 1


def test_what_the_catalogue_has_under_one_is_embedded_under_the_other(bench: Bench) -> None:
    bench.two.add("a")
    before = bench.two.revision()
    bench.add("a", version=2)
    assert bench.two.networks[OLD].embedded == []
    assert bench.two.embedded(NEW) == {"a"}
    assert bench.two.revision() == before, "no lookup sees a difference"


def test_what_fails_under_the_incoming_one_only_is_not_refused(bench: Bench) -> None:
    class Lenient(Network):
        """Decodes everything."""

        def decode_many(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
            return self.decode_bare([each.replace(b"corrupt", b"/x") for each in pictures])

        def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            names = {b"//x": b"/corrupt"}
            self._pictures = {n: names.get(each, each) for n, each in self._pictures.items()}
            return super().embed(pixels)

    bench.has(OLD, Lenient(OLD))
    outcome = bench.add("a", "corrupt")
    assert (outcome.applied, outcome.failures) == (2, ())
    assert bench.two.embedded(OLD) == {"a", "corrupt"}
    assert bench.two.embedded(NEW) == {"a"}


def test_what_fails_under_the_active_one_is_refused(bench: Bench) -> None:
    outcome = bench.add("a", "corrupt", "blank")
    assert {each.product_id: each.reason for each in outcome.failures} == {
        "corrupt": Reason.CORRUPT_IMAGE,
        "blank": Reason.BAD_VECTOR,
    }
    assert bench.two.embedded(OLD) == bench.two.embedded(NEW) == {"a"}


def test_a_device_that_fails_the_incoming_one_ends_nothing(bench: Bench) -> None:
    bench.has(NEW, Network(NEW, lambda: True))
    assert bench.add("a").applied == 1
    assert (bench.two.embedded(OLD), bench.two.embedded(NEW)) == ({"a"}, set())


def test_a_switch_that_the_process_has_not_noticed(bench: Bench) -> None:
    """What is found from now on is what has a vector of the model that is active when it is committed."""
    bench.two.add("twin", data=b"/a")
    with bench.two.database.writing() as session:
        revisions.lock(session)
        models.activate(session, bench.two.new.pk)
    before = bench.two.revision()
    bench.add("a")
    with bench.two.database.reading() as session:
        changes = list(catalogue.changes_since(session, before, bench.two.new.pk))
    assert len(changes) == 2, "the other picture of the same bytes can be found now, too"
    assert all(each.vector is not None for each in changes)


def test_the_next_chunk_is_of_whoever_serves_then(bench: Bench) -> None:
    with bench.two.database.writing() as session:
        revisions.lock(session)
        models.activate(session, bench.two.new.pk)
    bench.serving.look()
    bench.serving._loaded[bench.two.old.pk].served_at -= 1000.0
    bench.add("a")
    assert (bench.two.embedded(OLD), bench.two.embedded(NEW)) == (set(), {"a"})
