"""The networks that are known: torchvision's ResNets, EfficientNet-Lite0, and any of timm's.

A fine-tuned one is a body and fastai's head, whose first linear layer, `1.4`, gives 512 numbers. It is made here
without fastai, which only training needs. Importing this loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.embedding.config import EFFICIENTNET_LITE0, RESNETS, TIMM
from worker.embedding.errors import UnknownModel

WIDTH: Final = 512
"""Numbers that the head's first linear layer gives: fastai's default."""


class Features(nn.Module):
    """A whole network of which the feature maps [n, f, h, w], or features [n, f], are wanted."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self._method = method

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n, 3, S, S] → features."""
        features: Tensor = getattr(self.model, self._method)(pixels)
        return features


class AverageAndMaximum(nn.Module):
    """Maximum and average over positions, one behind the other: fastai's AdaptiveConcatPool2d."""

    def forward(self, features: Tensor) -> Tensor:
        """[n, f, h, w] → [n, 2 f, 1, 1]."""
        return torch.cat([features.amax((2, 3), True), features.mean((2, 3), True)], 1)


def whole(architecture: str, side: int, classes: int) -> nn.Module:
    """A network with its own classifier, as its ImageNet weights are for; weights are random."""
    model: nn.Module
    if architecture == EFFICIENTNET_LITE0:
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name(architecture, image_size=side, num_classes=classes)
    elif architecture in RESNETS:
        from torchvision.models import get_model  # type: ignore[import-untyped]

        model = get_model(architecture, num_classes=classes)
    else:
        model = from_timm(architecture, side, num_classes=classes)
    return model


def from_timm(architecture: str, side: int, **options: Any) -> nn.Module:
    """One of timm's networks, with the options of its `create_model`; raises UnknownModel."""
    import timm

    name = architecture.removeprefix(TIMM)
    if not timm.is_model(name):
        raise UnknownModel(f"{architecture}: timm has no network of that name")
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = side
    model: nn.Module = timm.create_model(name, **options)
    return model


def body(architecture: str, side: int, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A network without its classifier; `state` are the weights of the whole one, random if None."""
    if architecture.startswith(TIMM):
        model = from_timm(architecture, side, num_classes=0)
        if state is not None:
            model.load_state_dict(state)
        return Features(model, "forward_features" if _has_positions(model, side) else "forward")
    model = whole(architecture, side, 1000)
    if state is not None:
        model.load_state_dict(state)
    if architecture in RESNETS:
        return nn.Sequential(*list(model.children())[:-2])  # without pooling and classifier
    del model._fc  # noqa: SLF001 - the package's own name
    return Features(model, "extract_features")


def head(features: int, classes: int, *, pooled: bool) -> nn.Sequential:
    """fastai's head (`create_head` of its vision learner); its first linear layer is `4` whatever the body."""
    pooling = (AverageAndMaximum(), nn.Flatten()) if pooled else (nn.Identity(), nn.Identity())
    width = 2 * features if pooled else features
    return nn.Sequential(
        *pooling,
        *(nn.BatchNorm1d(width), nn.Dropout(0.25), nn.Linear(width, WIDTH, bias=False)),
        *(nn.ReLU(), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)),
        nn.Linear(WIDTH, classes, bias=False),
    )


def fine_tuned(architecture: str, side: int, classes: int) -> nn.Sequential:
    """Body and head as `worker.training` makes them; weights are random."""
    trunk = body(architecture, side)
    features = shape_of(trunk, side)
    return nn.Sequential(trunk, head(features[0], classes, pooled=len(features) == 3))


def shape_of(trunk: nn.Module, side: int) -> tuple[int, ...]:
    """Shape of what a body gives for one picture: [f, h, w] or [f]."""
    trunk.eval()
    with torch.inference_mode():
        features: Tensor = trunk(torch.zeros(2, 3, side, side))
    return tuple(features.shape[1:])


def _has_positions(model: Any, side: int) -> bool:
    """Whether it gives maps [n, f, h, w]; transformers give tokens, and pool them as each of them does."""
    shape = shape_of(Features(model, "forward_features"), side)
    return len(shape) == 3 and shape[0] == model.num_features
