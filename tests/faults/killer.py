"""A picture that kills whatever embeds it, among good ones."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from producer.client import Producer
from tests.faults.group import add, group, pictures, read
from tests.faults.hooks import DEADLY
from tests.faults.promise import Scale, Shown
from worker.jobs import MAX_DEATHS

KILLER = "killer"


def show(scale: Scale, folder: Path) -> Shown:
    """It is a dead letter after three deaths, and the others finish."""
    count = scale.of(500, 60)
    paths = {f"p{i}": path for i, path in enumerate(pictures(folder / "pictures", count))}
    deadly = folder / "pictures" / "deadly.png"
    Image.new("RGB", (96, 96), DEADLY).save(deadly)
    ids = [*paths, KILLER]
    scale.chance("killer").shuffle(ids)
    hurry = {"claim": 3.0, "grace": 3.0, "deadly": True}
    with group(folder, hurry=hurry, image_roots=(folder,)) as service:
        service.start()
        service.ready()
        with Producer(service.producer) as shop:
            add(shop, {id_: paths.get(id_, deadly) for id_ in ids})
            seconds = service.settle()
        found = read(service.settings)
        workers = [code for role, code in service.ended if role == "embed"]
    deaths = len(workers) + 1  # the last one was of a process of its own
    broken = [f"lost: {id_}" for id_ in paths.keys() - found.vectors.keys()]
    broken += [f"an innocent is given up: {id_}" for id_ in found.letters.keys() - {KILLER}]
    if KILLER in found.vectors or "worker_failed" not in found.letters.get(KILLER, ""):
        broken.append("the killer is no dead letter")
    if deaths != MAX_DEATHS:
        broken.append(f"{deaths} deaths, of workers that ended with {workers}")
    return Shown(
        f"dead letter after {deaths} deaths; {len(found.vectors)} of {count} good ones applied in {seconds:.0f} s",
        tuple(broken),
        {"deaths": deaths, "applied": len(found.vectors)},
    )
