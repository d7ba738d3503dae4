"""Decoded pictures as fastai wants them: batches of tensors, turned and lit at random to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, TensorImage
from fastai.vision.augment import aug_transforms

from worker.embedding.config import ModelConfig
from worker.training.errors import TrainingDataError
from worker.training.labelled import Part
from worker.training.pixels import Pixels
from worker.training.recipe import Recipe

_AUGMENT: dict[str, Callable[[], list[Any]]] = {
    "full": aug_transforms,
    "mirror": partial(aug_transforms, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0),
    "none": list,
}


@dataclass(frozen=True)
class _Examples:
    """One part: uint8 [3, S, S] and the number of its category."""

    pixels: Pixels
    categories: dict[str, int]
    split_idx: int
    """By which fastai knows what to augment: 0 is the training part, 1 is not."""

    @property
    def classes(self) -> int:
        return len(self.categories)

    def __len__(self) -> int:
        return len(self.pixels.pictures)

    def __getitem__(self, at: int) -> tuple[Any, Any]:
        picture = torch.from_numpy(self.pixels.array[self.pixels.rows[at]].copy())
        label = torch.tensor(self.categories[self.pixels.pictures[at].category])
        return TensorImage(picture.permute(2, 0, 1)), TensorCategory(label)


def loaders(pixels: Pixels, config: ModelConfig, recipe: Recipe, device: torch.device) -> Any:
    """fastai's DataLoaders of the training and the validation part.

    Raises TrainingDataError when one of them has too few pictures for a batch.
    """
    assert config.categories is not None
    numbers = {category: number for number, category in enumerate(config.categories)}
    parts = [
        _Examples(pixels.part(part), numbers, place)
        for place, part in enumerate((Part.TRAIN, Part.VALIDATION))
    ]
    if len(parts[0]) < recipe.batch_size or not len(parts[1]):
        raise TrainingDataError(
            f"{len(parts[0]):,} pictures to train with and {len(parts[1]):,} to validate are too few for "
            f"batches of {recipe.batch_size}: set a smaller --batch-size, or bring more"
        )
    made = DataLoaders.from_dsets(
        *parts,
        bs=recipe.batch_size,
        num_workers=0,  # a batch is a read from memory
        device=device,
        after_batch=_transforms(config, recipe, device),
    )
    # Asked this for the first time, fastai draws random numbers: now, or the first epoch of every run, resumed
    # ones too, would be another than it would have been.
    assert all(each.n_inp == 1 for each in (made.train, made.valid))
    return made


def _transforms(config: ModelConfig, recipe: Recipe, device: torch.device) -> list[Any]:
    on_gpu = device.type == "cuda"
    normalize = Normalize.from_stats(config.mean, config.std, cuda=on_gpu)
    return [IntToFloatTensor(), *_AUGMENT[recipe.augment](), normalize]
