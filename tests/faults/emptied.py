"""Redis is emptied while work waits: `sync` restores what is missing, and touches nothing else."""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from sqlalchemy import select

from db.models import Image, Product
from db.session import Database
from producer.client import Producer
from tests.faults.group import add, group, pictures, read
from tests.faults.promise import Scale, Shown


def show(scale: Scale, folder: Path) -> Shown:
    """Half of the catalogue is applied, the other half is lost with Redis."""
    count = scale.of(5000, 300)
    paths = {f"p{i}": path for i, path in enumerate(pictures(folder / "pictures", count))}
    ids = list(paths)
    applied, waiting = ids[: count // 2], ids[count // 2 :]
    hurry = {"claim": 3.0, "grace": 3.0}
    with group(folder, hurry=hurry, image_roots=(folder,)) as service:
        service.start()
        service.ready()
        with Producer(service.producer) as shop:
            add(shop, {id_: paths[id_] for id_ in applied})
            service.settle()
            service.kill("embed")
            add(shop, {id_: paths[id_] for id_ in waiting})
            before = _revisions(service.settings.database)
            with Redis.from_url(service.server.url) as redis:
                redis.flushall()
            service.start()
            rows = [{"product_id": id_, "image": path} for id_, path in paths.items()]
            synced = shop.sync(rows)
            shop.wait_for(synced.receipts, 120.0)
            again = shop.sync(rows)
        after = _revisions(service.settings.database)
        found = read(service.settings)
    touched = [id_ for id_ in applied if before[id_] != after.get(id_)]
    broken = [f"lost: {id_}" for id_ in ids if id_ not in found.vectors]
    broken += [f"touched, though it was applied: {id_}" for id_ in touched]
    if synced.same != len(applied) or synced.missing != len(waiting) or again.sent:
        broken.append(f"sync sent other things than what was missing: {synced}, then {again}")
    return Shown(
        f"{count:,} products, {len(waiting):,} lost with Redis: sync compared {synced.compared:,}, sent "
        f"{synced.sent:,}, left {synced.same:,} alone; {len(broken)} contradictions",
        tuple(broken),
        {"products": count, "sent": synced.sent, "same": synced.same},
    )


def _revisions(url: str) -> dict[str, tuple[int, int]]:
    """Version and revision of each product's picture."""
    database = Database(url)
    statement = select(Product.product_id, Image.version, Image.revision).join(Image)
    with database.reading() as session:
        found = {id_: (version, revision) for id_, version, revision in session.execute(statement)}
    database.close()
    return found
