"""A model is what its digest says, or is not loaded at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.embedding.config import ModelConfig
from worker.embedding.errors import ModelDamaged, ModelError, ModelUnavailable, UnknownModel
from worker.embedding.library import CONFIG, WEIGHTS, resolve, save


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "architecture": "resnet18",
        "layer": "avgpool",
        "dimension": 512,
        "image_size": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "weights_sha256": "0" * 64,
    }
    return ModelConfig.model_validate(values | changes)


def state() -> dict[str, NDArray[np.float32]]:
    return {"conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


def test_the_default_model_is_in_the_wheel() -> None:
    source = resolve("efficientnet-lite0")

    assert source.config.name == "efficientnet-lite0:128"
    assert source.weights.is_file()
    assert resolve("efficientnet-lite0:64").config.image_size == 64


def test_the_digest_covers_every_field() -> None:
    digests = {
        config().digest,
        config(architecture="resnet50").digest,
        config(layer="layer4").digest,
        config(dimension=511).digest,
        config(image_size=65).digest,
        config(resize="crop").digest,
        config(interpolation="bicubic").digest,
        config(mean=(0.5, 0.5, 0.4)).digest,
        config(std=(0.5, 0.5, 0.4)).digest,
        config(weights_sha256="1" * 64).digest,
        config(head="fastai").digest,
        config(categories=("bag", "dress")).digest,
    }

    assert len(digests) == len(ModelConfig.model_fields)  # all but `format`, which has one value
    assert config().digest == config().digest


def test_the_digest_of_a_model_in_service_never_changes() -> None:
    assert resolve("efficientnet-lite0:128").config.digest.startswith("cce724109eaa1aad")


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    saved = save(config(), state(), tmp_path / "model")
    found = resolve(str(tmp_path / "model"))

    assert found.config == saved.config
    assert found.config.digest == saved.config.digest != config().digest
    assert sorted(each.name for each in tmp_path.rglob("*.*")) == [CONFIG, WEIGHTS]


def test_a_model_is_never_written_over_another(tmp_path: Path) -> None:
    save(config(), state(), tmp_path / "model")

    with pytest.raises(FileExistsError):
        save(config(), state(), tmp_path / "model")


def test_half_a_model_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.embedding.library._document", lambda _config: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        save(config(), state(), tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    saved = save(config(), state(), tmp_path / "model")
    data = bytearray(saved.weights.read_bytes())
    data[-1] ^= 1
    saved.weights.write_bytes(data)

    with pytest.raises(ModelDamaged, match="LOOKALIKE_MODEL"):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize(
    "change",
    [{"image_size": 96}, {"layer": "layer4"}, {"digest": "0" * 64}, {"extra": 1}, {"mean": 3}],
)
def test_a_changed_config_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    save(config(), state(), tmp_path / "model")
    path = tmp_path / "model" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ModelDamaged, match=CONFIG):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{", '{"digest": 1}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    save(config(), state(), tmp_path / "model")
    (tmp_path / "model" / CONFIG).write_text(text)

    with pytest.raises(ModelDamaged):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize(
    "spec",
    [
        *("model.pkl", "model.pt", "model.pth", "export.pickle", "/models/learner.pkl"),
        *("resnet19", "efficientnet-lite0:16", "efficientnet-lite0:99999", "efficientnet-lite0:"),
        *("nowhere/at/all", "vgg"),
    ],
)
def test_other_names_are_unknown(spec: str) -> None:
    with pytest.raises(UnknownModel, match="LOOKALIKE_MODEL"):
        resolve(spec)


def test_a_pickled_model_in_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"anything")

    with pytest.raises(ModelUnavailable, match="pickled"):
        resolve(str(tmp_path))


def test_a_hub_out_of_reach_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)

    with pytest.raises(ModelUnavailable, match=r"resnet18-.*LOOKALIKE_MODEL"):
        resolve("resnet18")


def test_other_weights_under_a_released_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(_url: str, path: str, **_: object) -> None:
        Path(path).write_bytes(b"something else")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", other)

    with pytest.raises(ModelDamaged):
        resolve("resnet18:96")


def test_errors_form_one_tree() -> None:
    assert all(
        issubclass(each, ModelError) for each in (UnknownModel, ModelUnavailable, ModelDamaged)
    )


def test_finding_a_model_loads_no_torch() -> None:
    code = (
        "import sys; from worker.embedding import library, batcher; from worker.images import pool, fetch;"
        "library.resolve('efficientnet-lite0'); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[4]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
