"""`lookalike-worker train`, as an ML engineer runs it: on real pictures, interrupted, with rows that are wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration import deepfashion_tree
from tests.integration.deepfashion_tree import Tree
from worker.embedding.library import resolve
from worker.embedding.network import Network
from worker.training import checkpoint

pytestmark = pytest.mark.slow

QUICK = ("--arch", "efficientnet-lite0", "--size", "32", "--batch-size", "32", "--rate", "8e-3")
ROOT = Path(__file__).resolve().parents[2]


def command(tree: Tree, out: Path, *more: str) -> list[str]:
    code = "from worker.cli import main; main()"
    return [sys.executable, "-c", code, "train", str(tree.root), "--out", str(out), *QUICK, *more]


def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)


def interrupted(words: Sequence[str], after: str, with_: signal.Signals) -> str:
    """Start, stop at the row of an epoch; what was said until then."""
    said = ""
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if line.split()[:2] == after.split():
                process.send_signal(with_)
                break
        process.stdout.read()
    return said


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return deepfashion_tree.make(tmp_path_factory.mktemp("training"), of_each=30, broken=True)


@pytest.fixture(scope="module")
def model(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained without an interruption."""
    out = tmp_path_factory.mktemp("models") / "whole"
    done = run(command(tree, out, "--epochs", "2", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["least_cosine"] >= 0.9999
    assert json.loads(done.stdout)["problems"] == tree.wrong
    return out


def test_what_is_wrong_is_said_by_file_and_line(tree: Tree, tmp_path: Path) -> None:
    words = command(tree, tmp_path / "m", "--epochs", "0", "--frozen-epochs", "0")
    done = run([*words, "--untrained"])
    lines = (tree.root / "Anno_coarse" / "list_category_img.txt").read_text().splitlines()
    number = {line.split()[0]: n for n, line in enumerate(lines, start=1) if line.strip()}
    labels = "Anno_coarse/list_category_img.txt"

    assert f"{labels}:{number[deepfashion_tree.GONE]}: {deepfashion_tree.GONE}" in done.stderr
    assert f"{labels}:{number[deepfashion_tree.NAMELESS]}: 1 words instead of 2" in done.stderr
    assert f"{labels}:{number['img/x/img_00000001.jpg']}: '77' is not a row" in done.stderr
    assert "Eval/list_eval_partition.txt:306: 'nowhere' of img/y/1.jpg" in done.stderr
    assert f"{deepfashion_tree.TORN}: the picture is damaged" in done.stderr
    assert "10 categories; pictures: 181 train, 60 val, 60 test" in done.stdout


def test_a_model_directory_has_what_inference_and_people_need(model: Path, tree: Tree) -> None:
    assert sorted(each.name for each in model.iterdir()) == [
        "config.json",
        "confusion.png",
        "curves.png",
        "history.csv",
        "model.safetensors",
        "training.json",
    ]
    config = resolve(str(model)).config
    assert (config.layer, config.dimension, config.categories) == ("1.4", 512, tree.categories)
    rows = list(csv.DictReader((model / "history.csv").read_text().splitlines()))
    assert [(row["number"], row["phase"]) for row in rows] == [
        ("1", "head"),
        ("2", "all"),
        ("3", "all"),
    ]
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"])
    record = json.loads((model / "training.json").read_text())
    assert record["pictures"] == {"train": 180, "val": 60, "test": 60}
    for name in ("curves.png", "confusion.png"):
        with Image.open(model / name) as picture:
            assert min(picture.size) > 300
    assert not model.with_name(f"{model.name}.training").exists()


def test_the_same_command_goes_on_after_every_interruption(
    tree: Tree, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    folder = out.with_name("model.training")
    words = command(tree, out, "--epochs", "2")
    interrupted(words, "1 head", signal.SIGKILL)
    assert len(checkpoint.epochs(folder)) == 1
    said = interrupted(words, "2 all", signal.SIGINT)
    assert "going on after epoch 1 of an earlier run" in said
    assert len(checkpoint.epochs(folder)) == 2
    assert not out.exists()

    other = run(command(tree, out, "--epochs", "3"))
    assert other.returncode == 1
    assert "begun with other options" in other.stderr

    done = run(words)
    assert done.returncode == 0, done.stderr
    assert "going on after epoch 2 of an earlier run" in done.stdout
    # As if nothing had happened, but for the order in which threads add numbers.
    assert losses(out) == pytest.approx(losses(model), rel=0.02)


def losses(model: Path) -> list[float]:
    with (model / "history.csv").open() as file:
        return [float(row["validation_loss"]) for row in csv.DictReader(file)]


def test_a_model_is_never_written_over_another(tree: Tree, model: Path) -> None:
    again = run(command(tree, model))
    assert again.returncode == 1
    assert "never written over another" in again.stderr


def test_a_vector_is_the_same_alone_in_a_batch_and_after_a_restart(model: Path, tree: Tree) -> None:
    pictures = sorted(tree.root.glob("Img/img/*/*.jpg"))[:64]
    pixels = np.stack(
        [
            np.asarray(Image.open(each).resize((32, 32), Image.Resampling.BILINEAR).convert("RGB"))
            for each in pictures
            if each.stat().st_size > 100
        ]
    )
    network = Network.load(resolve(str(model)))
    together = network.embed(pixels)
    alone = np.concatenate([network.embed(pixels[at : at + 1]) for at in range(len(pixels))])
    network.close()
    restarted = Network.load(resolve(str(model)))
    again = restarted.embed(pixels)
    restarted.close()

    assert (together * alone).sum(axis=1).min() >= 0.9999
    assert (together * again).sum(axis=1).min() >= 0.9999


def test_a_rate_is_suggested_with_a_picture(tree: Tree, tmp_path: Path) -> None:
    done = run(command(tree, tmp_path / "m", "--find-rate", "--batch-size", "8", "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1e-5 < found["rate"] < 1
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
