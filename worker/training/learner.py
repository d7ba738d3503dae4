"""fastai's learner for a recipe, and what is done around each of its epochs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import SuggestionMethod
from fastai.learner import AvgMetric, Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, top_k_accuracy
from torch import nn

from worker.training import networks
from worker.training.errors import TrainingError
from worker.training.history import Epoch
from worker.training.recipe import Recipe

OnEpoch = Callable[[Epoch], None]
OnBatch = Callable[[int, float], None]
"""Called with the number of an epoch and the share of it that is done."""

SPREAD: Final = 100.0
"""How many times slower than the head the lowest layers learn; this and the shapes of rates are `fine_tune`'s."""


def learner(loaders: Any, model: nn.Sequential, recipe: Recipe, folder: Path) -> Any:
    """A learner that prints nothing; what the finder keeps for a while goes into `folder`."""
    classes = loaders.train.dataset.classes
    tops = [partial(top_k_accuracy, k=min(k, classes)) for k in (3, 5)]
    # Channels last: on a CPU ten times faster through EfficientNet's depthwise convolutions, on a GPU a third.
    made = Learner(
        loaders,
        model.to(loaders.device).to(memory_format=torch.channels_last),
        loss_func=CrossEntropyLossFlat(),
        metrics=[accuracy, *map(AvgMetric, tops)],
        splitter=networks.layers,
        cbs=precision(recipe, loaders.device),
        path=folder,
    )
    made.remove_cbs([each for each in made.cbs if each.name == "progress"])
    made.logger = lambda _row: None
    made.create_opt()
    return made


def fit(made: Any, recipe: Recipe, done: int, on_batch: OnBatch, on_epoch: OnEpoch) -> None:
    """Train what is left after `done` epochs: the head alone, then all of it, lower layers slower."""
    frozen = recipe.frozen_epochs
    if done < frozen:
        around = Around(recipe, 0, on_batch, on_epoch)
        made.fit_one_cycle(frozen, slice(recipe.rate), pct_start=0.99, cbs=around, start_epoch=done)
    if done <= frozen:
        made.unfreeze()  # which forgets what the optimiser has gathered, restored or not
    if recipe.epochs:
        rate = recipe.rate / 2
        made.fit_one_cycle(
            recipe.epochs,
            slice(rate / SPREAD, rate),
            pct_start=0.3,
            div=5.0,
            cbs=Around(recipe, frozen, on_batch, on_epoch),
            start_epoch=max(done - frozen, 0),
        )


def freeze_for(made: Any, recipe: Recipe, done: int) -> None:
    """Let learn what learns after `done` epochs."""
    if done < recipe.frozen_epochs:
        made.freeze()
    else:
        made.unfreeze()


def find_rate(made: Any) -> tuple[float, list[float], list[float]]:
    """A rate for the head (Smith, arXiv:1506.01186; fastai's "valley"), and the rates tried with their losses."""
    made.freeze()
    found = made.lr_find(show_plot=False, suggest_funcs=(SuggestionMethod.Valley,))
    recorder = made.recorder
    return float(found.valley), list(map(float, recorder.lrs)), list(map(float, recorder.losses))


class Around(Callback):  # type: ignore[misc]
    """Seeds each epoch, so that one after an interruption is the one it would have been; reports on it."""

    order = 80  # behind the recorder, and behind what skips epochs

    def __init__(self, recipe: Recipe, before: int, on_batch: OnBatch, on_epoch: OnEpoch) -> None:
        super().__init__()
        self._recipe = recipe
        self._before = before
        self._on_batch = on_batch
        self._on_epoch = on_epoch
        self._began: float | None = None

    def before_epoch(self) -> None:
        """Not reached by epochs that are skipped."""
        self._began = time.monotonic()
        self._number = self._before + self.learn.epoch + 1
        seed = (self._recipe.seed * 100_003 + self._number) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.learn.dls.train.rng = random.Random(seed)  # noqa: S311
        self._batches = len(self.learn.dls.train) + len(self.learn.dls.valid)
        self._done = 0

    def after_batch(self) -> None:
        """Say how far the epoch is."""
        self._done += 1
        self._on_batch(self._number, self._done / self._batches)

    def after_epoch(self) -> None:
        """Say what it came to."""
        if self._began is None:
            return
        training, validation, top_1, top_3, top_5 = map(float, self.learn.final_record)
        epoch = Epoch(
            number=self._number,
            phase="head" if self._number <= self._recipe.frozen_epochs else "all",
            training_loss=training,
            validation_loss=validation,
            accuracy=top_1,
            top_3=top_3,
            top_5=top_5,
            rate=float(self.learn.opt.hypers[-1]["lr"]),
            seconds=time.monotonic() - self._began,
        )
        self._on_epoch(epoch)
        self._began = None


class CpuBfloat16(Callback):  # type: ignore[misc]
    """What fastai's MixedPrecision does on GPUs only."""

    order = 10

    def before_batch(self) -> None:
        """Compute in bf16 from here …"""
        self._mixed = ExitStack()
        self._mixed.enter_context(torch.autocast("cpu", torch.bfloat16))

    def after_pred(self) -> None:
        """… to here."""
        self._mixed.close()
        self.learn.pred = self.learn.pred.float()


def precision(recipe: Recipe, device: torch.device) -> list[Any]:
    """Callbacks that compute in the recipe's precision; raises TrainingError where the device cannot."""
    on_gpu, wanted = device.type == "cuda", recipe.precision
    if wanted == "auto":
        if not on_gpu:
            return []
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bf16" if native else "fp16"
    if wanted == "fp32":
        return []
    if not on_gpu and wanted == "fp16":
        raise TrainingError("fp16 needs a GPU; choose --precision bf16, fp32 or auto")
    return [MixedPrecision(wanted) if on_gpu else CpuBfloat16()]
