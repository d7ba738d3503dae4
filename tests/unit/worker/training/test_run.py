"""Any network that timm or torchvision has trains the same way."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from worker.embedding.library import resolve
from worker.embedding.network import Network
from worker.training.errors import TrainingError
from worker.training.history import Epoch, as_csv
from worker.training.labelled import DataSet, Labelled, Part, Problems
from worker.training.recipe import Recipe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries about each other
    import torch

    from worker.training import checkpoint, run

PARTS = (Part.TRAIN, Part.TRAIN, Part.VALIDATION)


def data(count: int = 24) -> DataSet:
    """Dark and light squares."""
    random = np.random.default_rng(0)
    pictures = [
        Labelled(
            random.integers(0, 100, (28, 28), np.uint8) + np.uint8(150 * (place % 2)),
            ("dark", "light")[place % 2],
            PARTS[place // 2 % 3],
        )
        for place in range(count)
    ]
    return DataSet(pictures, ("dark", "light"), Problems())


def plan(out: Path, **changes: object) -> run.Plan:
    values = {
        "architecture": "resnet18",
        "image_size": 32,
        "epochs": 1,
        "batch_size": 8,
        "pretrained": False,
    }
    recipe = Recipe.model_validate(values | changes)
    return run.Plan(data(), recipe, out, torch.device("cpu"))


@pytest.mark.parametrize(
    ("architecture", "augment"),
    [("resnet18", "none"), ("timm/resnet10t", "mirror"), ("timm/vit_tiny_patch16_224", "full")],
)
def test_any_network_trains(architecture: str, augment: str, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    of = plan(tmp_path / "model", architecture=architecture, augment=augment)
    run.begin(of)

    trained = run.train(of, run.Watching(on_epoch=epochs.append))

    assert [each.phase for each in epochs] == ["head", "all"]
    assert trained.epochs == epochs
    assert trained.same >= 0.9999
    network = Network.load(resolve(str(tmp_path / "model")))
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    assert network.classify(pixels).shape == (2, 2)
    assert network.embed(pixels).shape == (2, 512)
    network.close()


def test_bf16_on_a_cpu_trains_as_well(tmp_path: Path) -> None:
    of = plan(tmp_path / "model", precision="bf16")
    run.begin(of)
    assert run.train(of, run.Watching()).same >= 0.9999


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    of = plan(tmp_path / "model", precision="fp16")
    run.begin(of)
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        run.train(of, run.Watching())


def test_too_few_pictures_for_a_batch(tmp_path: Path) -> None:
    of = plan(tmp_path / "model", batch_size=64)
    run.begin(of)
    with pytest.raises(TrainingError, match="set a smaller --batch-size"):
        run.train(of, run.Watching())


def test_what_was_begun_with_other_options_is_not_gone_on_with(tmp_path: Path) -> None:
    run.begin(plan(tmp_path / "model"))
    run.begin(plan(tmp_path / "model", seed=2))  # nothing was learnt yet
    run.begin(plan(tmp_path / "model"))
    (plan(tmp_path / "model").folder / checkpoint.NAME).touch()
    with pytest.raises(TrainingError, match="begun with other options"):
        run.begin(plan(tmp_path / "model", seed=1))
    run.begin(plan(tmp_path / "model", seed=1), restart=True)


class _Interrupted(Exception):
    pass


def test_what_was_begun_with_other_pictures_is_not_gone_on_with(tmp_path: Path) -> None:
    def stop(_epoch: Epoch) -> None:
        raise _Interrupted("after the first epoch")

    of = plan(tmp_path / "model", seed=20_261_125)
    run.begin(of)
    with pytest.raises(_Interrupted):
        run.train(of, run.Watching(on_epoch=stop))

    fewer = run.Plan(data(48), of.recipe, of.out, of.device)
    with pytest.raises(TrainingError, match="begun with other pictures"):
        run.train(fewer, run.Watching())
    resumed: list[int] = []
    run.train(of, run.Watching(resumed=resumed.append))
    assert resumed == [1]


def test_a_rate_that_is_too_high_is_said(tmp_path: Path) -> None:
    of = plan(tmp_path / "model", rate=1e30)
    run.begin(of)
    with pytest.raises(TrainingError, match="take a smaller --rate"):
        run.train(of, run.Watching())


def test_a_model_that_the_service_would_not_repeat_is_not_given_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Network, "embed", lambda _self, pixels: np.full((len(pixels), 512), 512**-0.5, np.float32)
    )
    of = plan(tmp_path / "model")
    run.begin(of)
    with pytest.raises(TrainingError, match="other vectors than training did"):
        run.train(of, run.Watching())
    assert not (tmp_path / "model").exists()


def test_a_table_of_epochs() -> None:
    epoch = Epoch(1, "head", 2.0, 1.5, 0.5, 0.8, 0.9, 1e-3, 12.5)
    assert as_csv([epoch]).splitlines() == [
        "number,phase,training_loss,validation_loss,accuracy,top_3,top_5,rate,seconds",
        "1,head,2.0,1.5,0.5,0.8,0.9,0.001,12.5",
    ]
