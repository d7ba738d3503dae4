"""The network gives unit vectors that do not depend on batch, threads, or how it was made fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.unit.worker.images.pictures import encoded, fashion
from worker.embedding.errors import ModelDamaged, ModelUnavailable
from worker.embedding.library import ModelSource, resolve, save
from worker.embedding.network import Network, Precision, capture, read_state
from worker.images.decode import decode

LITE0 = "efficientnet-lite0:64"


def pixels(count: int) -> NDArray[np.uint8]:
    from PIL import Image

    spec = resolve(LITE0).config.decode_spec(thumbnail=0)
    images = [encoded(Image.fromarray(each)) for each in fashion(count)]
    return np.stack([decode(data, spec).pixels for data in images])


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((one * other).sum(axis=1))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    precision: Precision = request.param
    loaded = Network.load(resolve(LITE0), device="cpu", precision=precision, threads=2)
    yield loaded
    loaded.close()


def changed(spec: str, **changes: object) -> ModelSource:
    source = resolve(spec)
    return ModelSource(source.config.model_copy(update=changes), source.weights)


def test_vectors_are_unit_rows(network: Network) -> None:
    vectors = network.embed(pixels(70))

    assert vectors.shape == (70, network.config.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.unique(vectors, axis=0).shape[0] == 70


def test_a_picture_alone_is_a_picture_in_a_batch(network: Network) -> None:
    batch = pixels(65)
    together = network.embed(batch)
    alone = np.concatenate([network.embed(batch[index : index + 1]) for index in range(65)])

    assert cosines(together, alone).min() > 0.9999


def test_fast_ways_agree_with_the_plain_network(network: Network) -> None:
    """The plain network: fp32, its own padding and batch norms, and no early end."""
    from efficientnet_lite_pytorch import EfficientNet

    source = resolve(LITE0)
    plain = EfficientNet.from_name("efficientnet-lite0", image_size=64)
    plain.load_state_dict(read_state(source))
    batch = pixels(32)
    with (
        capture(plain.eval().get_submodule(source.config.layer)) as captured,
        torch.inference_mode(),
    ):
        plain((torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128)
        expected = captured.take().mean((2, 3)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    least = 0.9999 if network.precision == "fp32" else 0.97
    assert cosines(network.embed(batch), expected).min() > least


def test_a_row_without_direction_is_nan_and_harms_no_other(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.ones((4, network.config.dimension), np.float32)
    rows[1], rows[2, 5], rows[3, 7] = 0, np.nan, np.inf
    monkeypatch.setattr(network, "_run", lambda _pixels, _layer: rows)

    vectors = network.embed(np.zeros((4, 64, 64, 3), np.uint8))

    assert np.isfinite(vectors[0]).all()
    assert np.isnan(vectors[1:]).all()


def test_the_hook_is_removed_whatever_happens() -> None:
    layer = nn.ReLU()
    with capture(layer) as captured:
        layer(torch.ones(2))
        assert captured.take().tolist() == [1, 1]
    for failing in (capture(layer), capture(layer, stop=True)):
        with suppress(ZeroDivisionError), failing:
            raise ZeroDivisionError

    assert not layer._forward_hooks


def test_embedding_leaves_no_hook_behind(network: Network) -> None:
    network.embed(np.zeros((2, 64, 64, 3), np.uint8))

    assert not any(module._forward_hooks for module in network._model.modules())


@pytest.mark.parametrize(
    ("layer", "dimension"),
    [
        ("_avg_pooling", 1280),
        ("_blocks.15", 320),
        ("_bn1", 1280),
        ("_blocks.3._bn1", 144),
        ("_fc", 1000),
    ],
)
def test_any_layer_can_be_the_embedding(layer: str, dimension: int) -> None:
    """Also one that folding or fusing would have changed: then nothing is folded or fused."""
    source = changed(LITE0, layer=layer, dimension=dimension)
    fast = Network.load(source, device="cpu", precision="fp32", threads=1)

    vectors = fast.embed(pixels(3))

    assert vectors.shape == (3, dimension)
    if layer.endswith("_bn1"):
        assert vectors.min() < 0
    fast.close()


def test_a_layer_or_dimension_that_is_not_there() -> None:
    with pytest.raises(ModelDamaged, match="no layer"):
        Network.load(changed(LITE0, layer="nowhere"), device="cpu")
    with pytest.raises(ModelDamaged, match="1280"):
        Network.load(changed(LITE0, layer="_avg_pooling", dimension=77), device="cpu")


def resnet18(folder: Path, classes: int = 7) -> ModelSource:
    """A ResNet of random weights as a model directory, with a shop's own number of classes."""
    from torchvision.models import get_model  # type: ignore[import-untyped]

    torch.manual_seed(0)
    model = get_model("resnet18", num_classes=classes)
    config = resolve(LITE0).config.model_copy(
        update={"architecture": "resnet18", "layer": "avgpool", "dimension": 512}
    )
    return save(config, {name: each.numpy() for name, each in model.state_dict().items()}, folder)


def test_a_saved_resnet_embeds_as_the_one_in_memory(tmp_path: Path) -> None:
    from torchvision.models import get_model

    source = resnet18(tmp_path / "model")
    loaded = Network.load(
        resolve(str(tmp_path / "model")), device="cpu", precision="fp32", threads=1
    )
    plain = get_model("resnet18", num_classes=7).eval()
    plain.load_state_dict(read_state(source))
    plain.fc = nn.Identity()
    batch = pixels(4)
    with torch.inference_mode():
        expected = plain((torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    assert cosines(loaded.embed(batch), expected).min() > 0.9999
    loaded.close()


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    source = resnet18(tmp_path / "model")
    for architecture in ("resnet34", "resnet50", "efficientnet-lite0"):
        other = ModelSource(
            source.config.model_copy(update={"architecture": architecture}), source.weights
        )
        with pytest.raises(ModelDamaged, match=architecture):
            Network.load(other, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_a_card_that_is_not_there() -> None:
    with pytest.raises(ModelUnavailable, match="LOOKALIKE_DEVICE"):
        Network.load(resolve(LITE0), device="cuda:3")


def test_importing_touches_no_card() -> None:
    code = (
        "import worker.embedding.network, torch; assert not torch.cuda.is_initialized();"
        "import torch.cuda as c; assert not c._is_in_bad_fork()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_the_card_agrees_with_the_processor() -> None:
    batch = pixels(70)
    here = Network.load(resolve(LITE0), device="cpu", precision="fp32")
    there = Network.load(resolve(LITE0), device="cuda")

    assert cosines(here.embed(batch), there.embed(batch)).min() > 0.97
    here.close()
