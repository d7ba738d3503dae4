"""From labelled pictures to a model directory, in epochs of which an interruption costs one at most.

What is not finished lies in `OUT.training`: the decoded pictures, the recipe, and a checkpoint after every epoch.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.embedding import library
from worker.embedding.config import ModelConfig
from worker.embedding.library import ModelSource
from worker.embedding.network import Network, capture
from worker.evaluation.classification import confusion
from worker.training import charts, checkpoint, learner, material, networks, pixels
from worker.training.errors import TrainingError
from worker.training.history import Epoch, as_csv
from worker.training.labelled import DataSet, Part
from worker.training.pixels import Pixels
from worker.training.recipe import Recipe

RECIPE = "recipe.json"
SAME = 0.9999
"""Least cosine of a picture's vector in training's validation path and as the service computes it."""
COMPARED = 64
"""Pictures of which that is made sure before a model is given out."""


@dataclass(frozen=True)
class Plan:
    """What to train, with what, where."""

    data: DataSet
    recipe: Recipe
    out: Path
    device: torch.device

    @property
    def folder(self) -> Path:
        """What is not finished."""
        return self.out.with_name(f"{self.out.name}.training")


@dataclass(frozen=True)
class Watching:
    """Who wants to know how far it is."""

    decoding: Callable[[float], None] = lambda _share: None
    decoded: Callable[[], None] = lambda: None
    """Called when all pictures were, and it is known which cannot be."""
    resumed: Callable[[int], None] = lambda _epochs: None
    """Called with the number of epochs that an earlier run has done, if any."""
    on_batch: learner.OnBatch = lambda _epoch, _share: None
    on_epoch: learner.OnEpoch = lambda _epoch: None


@dataclass(frozen=True)
class Trained:
    """A model that was made."""

    source: ModelSource
    epochs: list[Epoch]
    same: float
    """Least cosine, over some pictures, of validation's vector and the service's."""


def begin(plan: Plan, *, restart: bool = False) -> None:
    """Make the folder, or make sure that what is there was begun with the same recipe.

    Raises TrainingError when there is a model already, or something else was begun.
    """
    if plan.out.exists():
        raise TrainingError(f"{plan.out} exists: a model is never written over another (--out)")
    if restart:
        shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True, exist_ok=True)
    path = plan.folder / RECIPE
    if not (plan.folder / checkpoint.NAME).exists():  # nothing is learnt yet
        path.write_text(plan.recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    elif Recipe.model_validate_json(path.read_bytes()) != plan.recipe:
        raise TrainingError(
            f"{plan.folder} was begun with other options, which are in its {RECIPE}: give those, choose another "
            "--out, or begin anew with --restart"
        )


def train(plan: Plan, watching: Watching) -> Trained:
    """Train to the end, from where an earlier run was interrupted, and write the model directory.

    Raises TrainingError, ModelError.
    """
    ready = prepared(plan, watching)
    epochs = checkpoint.epochs(plan.folder)
    learner.freeze_for(ready.made, plan.recipe, len(epochs))
    about = _about(plan, ready)
    if epochs:
        if checkpoint.about(plan.folder) != about:
            raise TrainingError(
                f"{plan.folder} was begun with other pictures or another --limit: give those, choose another "
                "--out, or begin anew with --restart"
            )
        checkpoint.restore(plan.folder, ready.made)
        watching.resumed(len(epochs))

    def on_epoch(epoch: Epoch) -> None:
        if not math.isfinite(epoch.validation_loss):
            raise TrainingError(
                f"it diverged in epoch {epoch.number}: take a smaller --rate, and begin anew with --restart"
            )
        epochs.append(epoch)
        checkpoint.save(plan.folder, ready.made, epochs, about)
        watching.on_epoch(epoch)

    try:
        learner.fit(ready.made, plan.recipe, len(epochs), watching.on_batch, on_epoch)
    except torch.OutOfMemoryError:
        raise TrainingError(
            "the card's memory is full: take a smaller --batch-size or --size, with --restart if an epoch is done"
        ) from None
    return _written(plan, ready, epochs)


def _about(plan: Plan, ready: Ready) -> dict[str, object]:
    """What it learns from, as far as a run that goes on must find the same."""
    counts = {part.value: len(ready.pixels.part(part).pictures) for part in Part}
    return {"categories": list(plan.data.categories), "pictures": counts}


def _written(plan: Plan, ready: Ready, epochs: list[Epoch]) -> Trained:
    """Write the model, and put it where it belongs once the service was seen to compute the same."""
    made = plan.folder / "model"
    shutil.rmtree(made, ignore_errors=True)
    beside = _beside(plan, ready, epochs)
    source = library.save(ready.config, networks.arrays(ready.made.model), made, beside)
    same = _same(source, ready, plan)
    made.rename(plan.out)
    shutil.rmtree(plan.folder)
    return Trained(replace(source, weights=plan.out / source.weights.name), epochs, same)


def find_rate(plan: Plan, watching: Watching) -> tuple[float, Path]:
    """A learning rate to train with, and the picture that shows why. Raises as `train` does."""
    ready = prepared(plan, watching)
    suggested, tried, losses = learner.find_rate(ready.made)
    path = plan.folder / "rates.png"
    path.write_bytes(charts.rates(tried, losses, suggested))
    return suggested, path


@dataclass(frozen=True)
class Ready:
    """All that an epoch needs."""

    config: ModelConfig
    pixels: Pixels
    made: Any
    """fastai's learner."""


def prepared(plan: Plan, watching: Watching) -> Ready:
    """Decode the pictures, and make the network and its learner. Raises TrainingError, ModelError."""
    recipe = plan.recipe
    learner.precision(recipe, plan.device)  # refused before all pictures are decoded
    config = networks.config(recipe, plan.data.categories)
    torch.manual_seed(recipe.seed)
    model = networks.make(recipe, len(plan.data.categories))
    spec = config.decode_spec(thumbnail=0)
    decoded = pixels.prepare(plan.data, spec, plan.folder, watching.decoding)
    watching.decoded()
    loaders = material.loaders(decoded, config, recipe, plan.device)
    return Ready(config, decoded, learner.learner(loaders, model, recipe, plan.folder))


def _beside(plan: Plan, ready: Ready, epochs: list[Epoch]) -> dict[str, bytes]:
    """What people want to know of a model."""
    categories = plan.data.categories
    scores, labels = (each.cpu().numpy() for each in ready.made.get_preds(ds_idx=1))
    counts = confusion(scores.argmax(axis=1), labels.astype(np.int64), len(categories))
    recipe = plan.recipe
    title = f"{recipe.architecture}, {recipe.image_size} px"
    record = {
        "recipe": recipe.model_dump(mode="json"),
        **_about(plan, ready),
        "problems": {problem.value: n for problem, n in plan.data.problems.counts.items()},
        "device": _device_name(plan.device),
        "versions": {name: version(name) for name in ("fastai", "torch", "torchvision", "timm")},
        "epochs": [asdict(each) for each in epochs],
    }
    return {
        "training.json": json.dumps(record, indent=2).encode() + b"\n",
        "history.csv": as_csv(epochs).encode(),
        "curves.png": charts.curves(epochs, title),
        "confusion.png": charts.confusion(counts, categories, f"{title}: validation part"),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _same(source: ModelSource, ready: Ready, plan: Plan) -> float:
    """Compare with what a worker will compute; raises TrainingError if it differs."""
    some = ready.pixels.part(Part.VALIDATION)
    array = some.array[some.rows[:COMPARED]]
    network = Network.load(source, device=str(plan.device), precision="fp32")
    try:
        service = network.embed(array)
    finally:
        network.close()
    validated = validation_vectors(ready.made, COMPARED)
    least = float((service * validated).sum(axis=1).min())
    if not least >= SAME:
        raise TrainingError(
            f"the service would compute other vectors than training did (cosine {least:.5f}): this is a bug"
        )
    return least


def validation_vectors(made: Any, count: int) -> NDArray[np.float32]:
    """Embeddings of the first pictures of the validation part by fastai's own path: unit rows float32 [n, 512]."""
    model: nn.Module = made.model.eval()
    rows: list[torch.Tensor] = []
    with torch.inference_mode(), capture(model.get_submodule(networks.LAYER)) as captured:
        for batch, _ in made.dls.valid:
            model(batch)
            rows.append(captured.take().float().cpu())
            if sum(map(len, rows)) >= count:
                break
    vectors = nn.functional.normalize(torch.cat(rows)[:count])
    return np.asarray(vectors.numpy(), np.float32)
