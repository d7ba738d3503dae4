"""`lookalike-worker train`, as an ML engineer runs it: on real pictures, interrupted, with rows that are wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select

from db.models import Embedding
from db.session import Database
from producer import Producer
from producer.rows import Row
from tests.integration import deepfashion_tree
from tests.integration.deepfashion_tree import Tree
from tests.stack import running
from worker.embedding.library import resolve
from worker.training import checkpoint

pytestmark = pytest.mark.slow

Vectors = NDArray[np.float32]

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


def validated(model: Path, tree: Tree, folder: Path) -> tuple[list[Path], Vectors]:
    """Pictures of the validation part, and their vectors by fastai's own path."""
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        import torch

        from worker.training import layouts
        from worker.training.labelled import Part
        from worker.training.recipe import Recipe
        from worker.training.run import Plan, Watching, prepared, validation_vectors

    recipe = Recipe.model_validate(json.loads((model / "training.json").read_text())["recipe"])
    plan = Plan(layouts.read(tree.root), recipe, folder / "again", torch.device("cpu"))
    plan.folder.mkdir()
    ready = prepared(plan, Watching())
    ready.made.model.load_state_dict(load_file(model / "model.safetensors"))
    pictures = [each.picture for each in ready.pixels.part(Part.VALIDATION).pictures]
    paths = [each for each in pictures if isinstance(each, Path)]
    return paths, validation_vectors(ready.made, len(paths))


def embedded(model: Path, pictures: Sequence[Path], folder: Path, *, together: bool) -> Vectors:
    """Their vectors as new worker processes commit them: of one message, or of one for each."""
    with running(folder / "data", model=str(model), image_roots=(pictures[0].parents[3],)) as stack:
        of_64 = stack.producer_settings.model_copy(update={"chunk_size": 64})
        with Producer(of_64) as shop:
            rows = [Row(each.parent.name + each.name, str(each)) for each in pictures]
            for some in [rows] if together else [[row] for row in rows]:
                assert shop.wait_for(shop.add_many(some), 60).applied == len(some)
        database = Database(stack.settings.database)
        with database.reading() as session:
            stored = {row.content_sha256: row.vector for row in session.scalars(select(Embedding))}
        database.close()
    digests = [hashlib.sha256(each.read_bytes()).digest() for each in pictures]
    return np.stack([np.frombuffer(stored[digest], "<f4") for digest in digests])


def test_a_vector_is_the_same_in_validation_and_in_workers_alone_and_in_a_batch(
    model: Path, tree: Tree, tmp_path: Path
) -> None:
    pictures, truth = validated(model, tree, tmp_path)
    assert len(pictures) == 60

    together = embedded(model, pictures, tmp_path / "together", together=True)
    alone = embedded(model, pictures[:8], tmp_path / "alone", together=False)

    assert (truth * together).sum(axis=1).min() >= 0.9999
    assert (truth[:8] * alone).sum(axis=1).min() >= 0.9999


def test_a_rate_is_suggested_with_a_picture(tree: Tree, tmp_path: Path) -> None:
    done = run(command(tree, tmp_path / "m", "--find-rate", "--batch-size", "8", "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1e-5 < found["rate"] < 1
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
