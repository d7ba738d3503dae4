"""The networks that speed is measured with."""

from __future__ import annotations

from pathlib import Path

import torch

from worker.embedding import architectures, library
from worker.embedding.config import ModelConfig

LITE0 = "efficientnet-lite0:128"
RESNET152 = "resnet152"
SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def named(name: str, folder: Path) -> str:
    """What LOOKALIKE_MODEL is to be for a network: its name, or a folder of weights made for this run."""
    return str(untrained(name, folder)) if name == RESNET152 else name


def untrained(architecture: str, folder: Path) -> Path:
    """A model directory of a torchvision ResNet with random weights: as fast as any, and on no hub."""
    torch.manual_seed(7)
    state = architectures.whole(architecture, SIDE, 1000).state_dict()
    config = ModelConfig(
        architecture=architecture,
        layer="avgpool",
        dimension=2048,
        image_size=SIDE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights_sha256="0" * 64,
    )
    library.save(config, {name: each.numpy() for name, each in state.items()}, folder)
    return folder
