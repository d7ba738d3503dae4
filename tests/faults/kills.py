"""`kill -9` of the whole worker group at random moments, while a shop adds products."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from producer.client import Producer
from tests.faults.group import Catalogue, add, group, pictures, read
from tests.faults.promise import Scale, Shown

TOLERANCE = 1e-3
"""Cosine distance between two vectors of a picture that were made in batches of different sizes, in bf16."""


def show(scale: Scale, folder: Path) -> Shown:
    """Nothing lost, nothing twice, and every vector equal to a clean run's."""
    count, kills = scale.of(5000, 200), scale.of(100, 6)
    hurry = {"claim": 3.0, "grace": 3.0} if scale.short else {"claim": 30.0, "grace": 30.0}
    chance = scale.chance("kills")
    paths = {f"p{i}": path for i, path in enumerate(pictures(folder / "pictures", count))}
    ids, per_round = list(paths), -(-count // kills)
    with group(folder / "killed", hurry=hurry, image_roots=(folder,)) as service:
        with Producer(service.producer) as shop:
            for start in range(0, count, per_round):
                service.start()
                add(shop, {id_: paths[id_] for id_ in ids[start : start + per_round]})
                time.sleep(chance.uniform(0.0, scale.of(30, 25) / 10))
                service.kill()
            service.start()
            seconds = service.settle(scale.of(600, 120))
        killed = read(service.settings)
    clean = _clean(folder, paths)
    return _compared(killed, clean, kills, seconds)


def _clean(folder: Path, paths: dict[str, Path]) -> Catalogue:
    with group(folder / "clean", image_roots=(folder,)) as service:
        service.start()
        with Producer(service.producer) as shop:
            add(shop, paths)
            service.settle()
        return read(service.settings)


def _compared(killed: Catalogue, clean: Catalogue, kills: int, seconds: float) -> Shown:
    lost = clean.vectors.keys() - killed.vectors.keys()
    more = killed.vectors.keys() - clean.vectors.keys()
    far = {
        id_: distance
        for id_ in clean.vectors.keys() & killed.vectors.keys()
        if (distance := _distance(clean.vectors[id_], killed.vectors[id_])) > TOLERANCE
    }
    same = sum(killed.vectors.get(id_) == vector for id_, vector in clean.vectors.items())
    broken = [f"lost: {each}" for each in sorted(lost)]
    broken += [f"nobody added {each}" for each in sorted(more)]
    broken += [f"another vector (cosine distance {d:.2g}): {id_}" for id_, d in far.items()]
    broken += [f"given up: {id_}, {why}" for id_, why in killed.letters.items()]
    if killed.superfluous_revisions:
        broken.append(f"{killed.superfluous_revisions} changes were made twice")
    return Shown(
        f"{len(clean.vectors):,} images, {kills} kills: {len(lost)} lost, "
        f"{killed.superfluous_revisions} applied twice, {len(clean.vectors) - len(far):,} vectors equal to a "
        f"clean run's ({same:,} to the bit); all done {seconds:.0f} s after the last kill",
        tuple(broken),
        {"images": len(clean.vectors), "kills": kills, "identical": same},
    )


def _distance(one: bytes, other: bytes) -> float:
    if not one or not other:
        return 2.0
    return float(1.0 - np.dot(_vector(one), _vector(other)))


def _vector(raw: bytes) -> NDArray[np.float64]:
    return np.frombuffer(raw, "<f4").astype(np.float64)
