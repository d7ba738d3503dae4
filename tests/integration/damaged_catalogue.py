"""Ways to make a catalogue and its index disagree, each as something outside the service would."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis
from sqlalchemy import delete, insert, select, update

from db.models import Embedding, Image, IndexGeneration, Product, RevisionCounter, Thumbnail
from db.queries import generations
from db.session import Database
from producer.ledger import Ledger
from producer.messages import ImageRef, IngestChunk, PathImage, Queue
from tests.fake_worker import claimed, take
from tests.unit.worker.index.factories import DIMENSION, Shop
from worker.heartbeat import Heartbeat
from worker.images.decode import Decoded
from worker.images.errors import ImageError
from worker.images.fetch import Picture
from worker.index import durable, identity
from worker.index import manifest as manifests
from worker.index.generation import Generation as GenerationFiles
from worker.index.slots import FILES as SLOT_FILES
from worker.index.slots import SlotTable
from worker.ingest import Ingester
from worker.preparing import Preparer


def run(database: Database, statement: Any) -> None:
    """Change SQL behind the service's back; it must change something."""
    with database.writing() as session:
        done: Any = session.execute(statement, execution_options={"synchronize_session": False})
        assert done.rowcount


def image_of(product_id: str) -> Any:
    """Condition: the pictures of a product."""
    key = select(Product.pk).where(Product.product_id == product_id).scalar_subquery()
    return Image.product_pk == key


def digest_of(shop: Shop, product_id: str) -> bytes:
    """What the main picture's embedding is keyed by."""
    return hashlib.sha256(blob(shop.items[product_id].pictures["main"])).digest()


def blob(vector: NDArray[np.float32]) -> bytes:
    """A vector as SQL has it."""
    return vector.astype("<f4").tobytes()


def put_vector(shop: Shop, product_id: str, vector: bytes) -> None:
    """Write other bytes into a picture's embedding."""
    row = Embedding.content_sha256 == digest_of(shop, product_id)
    run(shop.database, update(Embedding).where(row).values(vector=vector))


def lose_vector(shop: Shop, *product_ids: str) -> None:
    """Delete the embeddings of pictures."""
    digests = [digest_of(shop, each) for each in product_ids]
    run(shop.database, delete(Embedding).where(Embedding.content_sha256.in_(digests)))


def set_image(shop: Shop, product_id: str, **values: Any) -> None:
    """Change a picture's row without a revision."""
    run(shop.database, update(Image).where(image_of(product_id)).values(values))


def set_product(shop: Shop, product_id: str, **values: Any) -> None:
    """Change a product's row without a revision."""
    run(shop.database, update(Product).where(Product.product_id == product_id).values(values))


def set_generation(database: Database, number: int, **values: Any) -> None:
    """Change what SQL says of a generation."""
    one = update(IndexGeneration).where(IndexGeneration.number == number)
    run(database, one.values(values))


def set_counter(database: Database, value: int) -> None:
    """Set the revision counter."""
    run(database, update(RevisionCounter).values(value=value))


def add_unused(database: Database, model_version_pk: int, count: int = 3) -> None:
    """Embeddings and thumbnails of bytes that no picture has."""
    for number in range(count):
        digest = hashlib.sha256(f"unused {number}".encode()).digest()
        values = {
            "content_sha256": digest,
            "model_version_pk": model_version_pk,
            "dimension": DIMENSION,
            "vector": blob(np.eye(DIMENSION, dtype=np.float32)[0]),
        }
        run(database, insert(Embedding).values(values))
        run(database, insert(Thumbnail).values(content_sha256=digest, jpeg=b"jpeg"))


# -- files ----------------------------------------------------------------------------------------


def directory_of(data_dir: Path, number: int) -> Path:
    """Where a generation lies."""
    (found,) = data_dir.glob(f"generation-{number:08d}-*")
    return found


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rot(data_dir: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change a bit as a failing disk does: nobody wrote, so this host still believes what it once compared."""
    directory = directory_of(data_dir, number)
    flip(directory / "vectors.f16")
    with monkeypatch.context() as believing:
        believing.setattr("worker.index.verified.compare_digests", lambda *_: None)
        GenerationFiles.open(directory)
    GenerationFiles.open(directory)


def litter(database: Database, data_dir: Path) -> list[str]:
    """What crashed builds leave, and what another catalogue keeps beside it."""
    own = identity.of(database)
    ours = [f"generation-00000099-{own}-77", f".building-{own}-78"]
    for name in (*ours, "generation-00000001-0a0a0a0a-1", "elsewhere"):
        (data_dir / name).mkdir()
        (data_dir / name / "vectors.f16").write_bytes(b"x")
    return ours


def forge(
    database: Database,
    data_dir: Path,
    number: int,
    image_pks: NDArray[np.int64] | None = None,
    **changes: object,
) -> None:
    """Rewrite a generation as a builder with a bug would have: whole, verified, and wrong."""
    directory = directory_of(data_dir, number)
    described = manifests.read(directory)
    if image_pks is not None:
        table = SlotTable.load(directory, described.images, described.categories)
        SlotTable.of(image_pks, np.array(table.product_pks), described.categories).save(directory)
    files = {
        name: entry
        if name not in SLOT_FILES
        else entry.model_copy(
            update={
                "bytes": (directory / name).stat().st_size,
                "sha256": durable.sha256(directory / name),
            }
        )
        for name, entry in described.files.items()
    }
    data = described.model_copy(update={"files": files, **changes}).encoded()
    (directory / manifests.NAME).write_bytes(data)
    set_generation(database, number, manifest_sha256=manifests.digest_of(data))


def double_a_picture(database: Database, data_dir: Path, number: int) -> None:
    """Give the second slot the picture of the first, whose own is then in no slot."""
    directory = directory_of(data_dir, number)
    described = manifests.read(directory)
    table = SlotTable.load(directory, described.images, described.categories)
    image_pks = np.array(table.image_pks)
    image_pks[1] = image_pks[0]
    forge(database, data_dir, number, image_pks)


def remove_files(data_dir: Path, number: int) -> None:
    """Delete a generation as an operator short of disk space would."""
    shutil.rmtree(directory_of(data_dir, number))


def kept(database: Database) -> list[int]:
    """Numbers of the generations that SQL keeps, newest first."""
    with database.reading() as session:
        return [row.number for row in generations.kept(session)]


# -- embedding again ------------------------------------------------------------------------------


class EmbedWorker:
    """Takes chunks off the real queue into a real ingester; a picture's bytes are its vector's."""

    def __init__(self, shop: Shop, redis: Redis) -> None:
        self.redis = redis
        self.sources: dict[str, bytes] = {}
        self.taken: list[IngestChunk] = []
        preparer = Preparer(
            database=shop.database,
            model_version_pk=shop.model.pk,
            fetch=self._fetch,
            decode_many=self._decode,
            embed=lambda pixels: pixels.view("<f4"),
            executor=ThreadPoolExecutor(2),
        )
        self.ledger = Ledger(redis)
        self.ingester = Ingester(
            database=shop.database,
            ledger=self.ledger,
            model_version_pk=shop.model.pk,
            prepare=preparer.prepare,
            quarantine=preparer.prepare,
        )

    def offer(self, shop: Shop, *product_ids: str) -> None:
        """Keep the pictures of products where a worker finds them again, and say so in SQL."""
        for each in product_ids:
            self.sources[f"/shop/{each}.jpg"] = blob(shop.items[each].pictures["main"])
            set_image(shop, each, source=f"/shop/{each}.jpg")

    def _fetch(self, ref: ImageRef) -> Picture:
        from producer.reasons import Reason

        assert isinstance(ref, PathImage)
        if ref.path not in self.sources:
            raise ImageError(Reason.NOT_FOUND, "there is no such file")
        return Picture(self.sources[ref.path], ref.path)

    def _decode(self, pictures: Sequence[bytes]) -> list[Decoded | ImageError]:
        return [Decoded(np.frombuffer(p, np.uint8), b"thumbnail", 1, 1) for p in pictures]

    def step(self) -> bool:
        """Work on one chunk, if there is one."""
        chunk = take(self.redis, Queue.INGEST)
        if chunk is None:
            return False
        assert isinstance(chunk, IngestChunk)
        self.taken.append(chunk)
        self.ingester.ingest(claimed(self.ledger, chunk))
        return True

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work, and beat, in threads while the block runs."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                if not self.step():
                    stop.wait(0.005)

        thread = threading.Thread(target=work)
        with Heartbeat(self.redis, "embed") as heartbeat:
            heartbeat.start()
            heartbeat._beat()
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
