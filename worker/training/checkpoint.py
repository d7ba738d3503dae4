"""What a training goes on from after an interruption: kept after every epoch, whole or not at all.

It holds tensors and plain values alone, and is loaded as such; it never leaves the training's own folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from worker.training.history import Epoch

NAME = "checkpoint.pt"


def save(folder: Path, made: Any, epochs: Sequence[Epoch], about: Mapping[str, object]) -> None:
    """Keep a learner after the last of these epochs; `about` is what it learns from, in plain values."""
    optimizer = made.opt.state_dict()
    hypers = [{name: float(value) for name, value in each.items()} for each in optimizer["hypers"]]
    content = {
        "about": dict(about),
        "epochs": [asdict(each) for each in epochs],
        "model": made.model.state_dict(),
        "optimizer": {"state": list(optimizer["state"]), "hypers": hypers},
    }
    partial = folder / f"{NAME}.partial"
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / NAME)


def epochs(folder: Path) -> list[Epoch]:
    """Those that are done; none where nothing was kept."""
    content = _content(folder)
    return [Epoch(**each) for each in content["epochs"]] if content else []


def about(folder: Path) -> dict[str, object]:
    """What the kept one learnt from."""
    content = _content(folder)
    return dict(content["about"]) if content else {}


def restore(folder: Path, made: Any) -> None:
    """Bring a learner, frozen or not as it was, to where the kept one was."""
    content = _content(folder)
    assert content is not None
    made.model.load_state_dict(content["model"])
    made.opt.load_state_dict(_on(content["optimizer"], made.dls.device))


def _content(folder: Path) -> dict[str, Any] | None:
    path = folder / NAME
    if not path.is_file():
        return None
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _on(optimizer: dict[str, Any], device: torch.device) -> dict[str, Any]:
    state = [
        {name: v.to(device) if torch.is_tensor(v) else v for name, v in each.items()}
        for each in optimizer["state"]
    ]
    return {"state": state, "hypers": optimizer["hypers"]}
