"""A whole running service for tests: real server, real worker processes, real pictures."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw

from producer import Producer
from worker import valkey
from worker.settings import WorkerSettings
from worker.up import Service, service

MODEL = "efficientnet-lite0:64"


def stack_settings(data_dir: Path, **changes: object) -> WorkerSettings:
    """Settings of a service that shares nothing with any other: its own port, folder and catalogue."""
    values: dict[str, object] = {
        "data_dir": data_dir,
        "model": MODEL,
        "image_roots": (data_dir.parent,),
        "image_hosts": (f"127.0.0.1:{valkey.free_port()}", "*"),
        "grace": 20.0,
    }
    return WorkerSettings(**(values | changes))  # type: ignore[arg-type]


@contextmanager
def running(data_dir: Path, **changes: object) -> Iterator[Service]:
    """A service with an embedded server on a free port, unless `redis_url` names another."""
    settings = stack_settings(data_dir, **changes)
    if "redis_url" in changes:
        with service(settings) as stack:
            yield stack
    else:
        with embedded(settings) as stack:
            yield stack


@contextmanager
def embedded(settings: WorkerSettings) -> Iterator[Service]:
    """The settings' service with a server of its own on a free port."""
    url = f"redis://127.0.0.1:{valkey.free_port()}/0"
    with service(settings, embedded_url=url) as stack:
        yield stack


def producer_of(stack: Service) -> Producer:
    """A producer that talks to the service."""
    return Producer(stack.producer_settings)


def picture(seed: int, size: tuple[int, int] = (96, 128)) -> bytes:
    """A JPEG of coloured shapes on white, the same for the same seed and like no other."""
    chance = random.Random(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        w, h = chance.randrange(8, size[0]), chance.randrange(8, size[1])
        colour = tuple(chance.randrange(256) for _ in range(3))
        shape = chance.choice([draw.rectangle, draw.ellipse])
        shape([x - w // 2, y - h // 2, x + w // 2, y + h // 2], fill=colour)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def save_picture(path: Path, seed: int) -> Path:
    """Write `picture(seed)` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed))
    return path
