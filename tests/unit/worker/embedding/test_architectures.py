"""Networks to fine-tune: each with fastai's head, whatever its body gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from worker.embedding import architectures
from worker.embedding.config import ModelConfig
from worker.embedding.errors import ModelDamaged, UnknownModel
from worker.embedding.library import resolve, save
from worker.embedding.network import Network

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")

ARCHITECTURES = (
    "efficientnet-lite0",
    "resnet18",
    "timm/resnet10t",
    "timm/mobilenetv3_small_050",
    "timm/vit_tiny_patch16_224",
)


def config(architecture: str) -> ModelConfig:
    return ModelConfig(
        architecture=architecture,
        head="fastai",
        categories=("bag", "dress", "shoe"),
        layer="1.4",
        dimension=512,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        weights_sha256="0" * 64,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_saved_is_what_is_loaded(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = architectures.fine_tuned(architecture, 32, 3)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 32, 32))  # so that no batch norm is the identity
    model.eval()
    state = {name: each.numpy() for name, each in model.state_dict().items()}
    save(config(architecture), state, tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    batch = torch.from_numpy((pixels / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        true = torch.nn.functional.normalize(
            torch.nn.Sequential(*list(model[1].children())[:5])(model[0](batch))
        )
        scores = model(batch)

    network = Network.load(resolve(str(tmp_path / "model")), device="cpu", precision="fp32")

    vectors = torch.from_numpy(network.embed(pixels))
    assert vectors.shape == (4, architectures.WIDTH)
    assert (vectors * true).sum(1).min() > 0.99999
    assert np.allclose(network.classify(pixels), scores, atol=1e-3)
    network.close()


def test_the_head_is_fastais() -> None:
    vision = pytest.importorskip("fastai.vision.learner")
    theirs = vision.create_head(2048, 46)
    ours = architectures.head(2048, 46, pooled=True)

    assert {name: each.shape for name, each in theirs.state_dict().items()} == {
        name: each.shape for name, each in ours.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 2048, 7, 7)
    assert torch.equal(theirs.eval()(features), ours.eval()(features))
    assert theirs[4].in_features == 4096
    assert theirs[4].out_features == architectures.WIDTH


def test_weights_of_another_body_are_refused(tmp_path: Path) -> None:
    model = architectures.fine_tuned("resnet18", 32, 3)
    state = {name: each.numpy() for name, each in model.state_dict().items()}
    source = save(config("timm/resnet10t"), state, tmp_path / "model")

    with pytest.raises(ModelDamaged, match="not those of timm/resnet10t"):
        Network.load(source)


def test_a_name_that_timm_does_not_know() -> None:
    with pytest.raises(UnknownModel, match="timm/resnet9000"):
        architectures.body("timm/resnet9000", 32)


def test_a_network_of_no_categories_does_not_classify() -> None:
    network = Network.load(resolve("efficientnet-lite0:32"), device="cpu")
    with pytest.raises(ValueError, match="tells no categories"):
        network.classify(np.zeros((1, 32, 32, 3), np.uint8))
    network.close()
