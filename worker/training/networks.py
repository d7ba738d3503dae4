"""Networks to begin with: a body, with ImageNet's weights or none, and fastai's head."""

from __future__ import annotations

from typing import Any

import timm
from fastai.torch_core import apply_init, params
from torch import Tensor, nn

from worker.embedding import architectures, library
from worker.embedding.config import EFFICIENTNET_LITE0, RESNETS, TIMM, ModelConfig, Triple
from worker.embedding.errors import ModelUnavailable, UnknownModel
from worker.embedding.network import read_state
from worker.images.decode import Interpolation
from worker.training.recipe import Recipe

LAYER = "1.4"
"""The head's first linear layer, whose output is the embedding."""
MOMENTUM = 0.1
"""Least weight of a batch in running means, PyTorch's own. EfficientNet's 0.01 follows hundreds of batches late:
on a small data set it validates with ImageNet's means."""
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def config(recipe: Recipe, categories: tuple[str, ...]) -> ModelConfig:
    """What the trained network's config will say; its weights' digest is not known yet."""
    mean, std, interpolation = _preprocessing(recipe)
    return ModelConfig(
        architecture=recipe.architecture,
        head="fastai",
        categories=categories,
        layer=LAYER,
        dimension=architectures.WIDTH,
        image_size=recipe.image_size,
        resize=recipe.resize,
        interpolation=interpolation,
        mean=mean,
        std=std,
        weights_sha256="0" * 64,
    )


def make(recipe: Recipe, categories: int) -> nn.Sequential:
    """Body and head. Raises ModelUnavailable where the weights cannot be had, UnknownModel."""
    state = _pretrained(recipe) if recipe.pretrained else None
    body = architectures.body(recipe.architecture, recipe.image_size, state)
    shape = architectures.shape_of(body, recipe.image_size)
    head = architectures.head(shape[0], categories, pooled=len(shape) == 3)
    apply_init(head, nn.init.kaiming_normal_)
    for each in body.modules():
        if isinstance(each, nn.BatchNorm2d) and each.momentum is not None:
            each.momentum = max(each.momentum, MOMENTUM)
    return nn.Sequential(body, head)


def layers(model: Any) -> list[list[nn.Parameter]]:
    """Parameters by how fast they learn: lower layers, upper layers, head."""
    body, head = model[0], model[1]
    if isinstance(body, nn.Sequential):  # a ResNet, as fastai divides it
        return [params(body[:6]), params(body[6:]), params(head)]
    all_ = params(body)  # in the order in which they are passed
    half = len(all_) // 2
    return [all_[:half], all_[half:], params(head)]


def _preprocessing(recipe: Recipe) -> tuple[Triple, Triple, Interpolation]:
    name = recipe.architecture
    if name == EFFICIENTNET_LITE0:
        found = library.resolve(name).config
        return found.mean, found.std, found.interpolation
    if name in RESNETS:
        return (*IMAGENET, "bilinear")
    try:
        default = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    except RuntimeError:  # a name with a tag of weights that there are not
        default = None
    if default is None:
        raise UnknownModel(f"{name}: timm has no network of that name (--arch)")
    interpolation: Interpolation = "bicubic" if default.interpolation == "bicubic" else "bilinear"
    mean, std = (tuple(map(float, each[:3])) for each in (default.mean, default.std))
    return (*mean,), (*std,), interpolation  # type: ignore[return-value]  # three each


def _pretrained(recipe: Recipe) -> dict[str, Tensor]:
    """ImageNet's weights of the whole network."""
    name = recipe.architecture
    if not name.startswith(TIMM):
        return read_state(library.resolve(f"{name}:{recipe.image_size}"))
    try:
        model = architectures.from_timm(name, recipe.image_size, pretrained=True, num_classes=0)
    except UnknownModel:
        raise
    except Exception as error:  # whatever the hub's client raises
        raise ModelUnavailable(
            f"the weights of {name} cannot be fetched here ({error}); train with --untrained, or another --arch"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def arrays(model: nn.Module) -> dict[str, Any]:
    """A network's weights and counters as arrays, by their names."""
    return {name: each.detach().cpu().numpy() for name, each in model.state_dict().items()}
