"""Labelled pictures that tell a network something, and models that see them small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.embedding.config import ModelConfig
from worker.embedding.library import save
from worker.training.labelled import DataSet, Labelled, Part, Problems

KINDS = ("dot", "line", "ring")


def drawn(kind: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey pixels of a shape on white, somewhere near the middle."""
    across, down = np.mgrid[-14:14, -14:14] - np.random.default_rng(seed).integers(-3, 4, (2, 1, 1))
    away = np.hypot(across, down)
    inside = {"dot": away < 5, "line": abs(across) < 2, "ring": abs(away - 8) < 2}[kind]
    return np.where(inside, 0, 255).astype(np.uint8)


def data_set(train: int, test: int, *, products: bool = False) -> DataSet:
    """So many pictures of each kind in either part; every two of a number are of one product."""
    pictures = [
        Labelled(drawn(kind, place), kind, part, f"{kind} {place // 2}" if products else None)
        for part, count in ((Part.TRAIN, train), (Part.TEST, test))
        for kind in KINDS
        for place in range(count)
    ]
    return DataSet(pictures, KINDS, Problems())


def fine_tuned(folder: Path, categories: Sequence[str]) -> str:
    """A model directory with a classifier whose weights are random; its name in LOOKALIKE_MODEL."""
    import torch

    from worker.embedding import architectures

    torch.manual_seed(1)
    network = architectures.fine_tuned("resnet18", 32, len(categories))
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 32, 32))
    state = {name: each.numpy() for name, each in network.eval().state_dict().items()}
    config = ModelConfig(
        architecture="resnet18",
        head="fastai",
        categories=tuple(categories),
        layer="1.4",
        dimension=architectures.WIDTH,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        weights_sha256="0" * 64,
    )
    save(config, state, folder)
    return str(folder)
