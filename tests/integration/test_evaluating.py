"""`lookalike-worker evaluate` as an ML engineer runs it, on real pictures and on a catalogue."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from db.session import Database
from tests.integration.test_worker_cli import Terminal
from tests.unit.producer.test_gallery import Page
from tests.unit.worker.evaluation.pictures import fine_tuned
from tests.unit.worker.index.factories import QUICK, Shop, build, vectors
from tests.unit.worker.training.factories import NAMES, deepfashion
from worker.demo import sample

SMALL, SMALLER = "efficientnet-lite0:48", "efficientnet-lite0:32"
KEEP = replace(QUICK, keep=5)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")


@pytest.fixture
def terminal(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    """A terminal in a folder of its own; nothing of a service is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LOOKALIKE_DATA_DIR", str(data_dir))
    monkeypatch.setenv("LOOKALIKE_DEVICE", "cpu")
    monkeypatch.setenv("LOOKALIKE_KEEP_GENERATIONS", "5")
    return Terminal(monkeypatch, capsys)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five categories with 30 real pictures each, and a file that is none."""
    unpacked = sample.unpack(tmp_path_factory.mktemp("sample")).catalogue
    root = tmp_path_factory.mktemp("pictures")
    for folder in sorted(unpacked.iterdir())[:5]:
        for path in sorted(folder.iterdir())[:30]:
            (root / folder.name).mkdir(exist_ok=True)
            shutil.copy(path, root / folder.name)
    (root / "bag" / "readme.txt").write_text("no picture")
    return root


def run(terminal: Terminal, *arguments: str) -> str:
    """What was written to stdout, and that it went well."""
    assert terminal.run("evaluate", *arguments) == 0, terminal.err
    return terminal.words


# -- models ---------------------------------------------------------------------------------------


def test_each_of_the_three_begins_with_what_it_is(terminal: Terminal, pictures: Path) -> None:
    words = run(terminal, str(pictures), "--model", SMALL)
    assert "not a picture: 1" in words
    places = [
        words.index(text)
        for text in (
            "Classifier accuracy: how often",
            f"{SMALL} has no classifier of these categories",
            "Retrieval relevance: whether the nearest pictures",
            "pictures of the part 'test' are asked about, in a gallery of",
            "by category: mAP",
            "by product -",
            "Index recall: how many",
        )
    ]
    assert places == sorted(places)
    assert "verlap" not in words


def test_two_models_side_by_side(terminal: Terminal, pictures: Path, tmp_path: Path) -> None:
    words = run(
        terminal, str(pictures), "--model", SMALL, "--against", SMALLER,
        "--part", "train", "--limit", "60", "-k", "5", "--out", "results",
    )  # fmt: skip
    assert f"{SMALL} {SMALLER} commonest" in words
    assert "60 pictures of the part 'train' are asked about, in a gallery of 60 of 'train'" in words
    assert "each left out of its own answers" in words
    figures = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert f"overlap@5: {figures['overlap']:.3f}" in words
    page = Page((tmp_path / "results" / "differences.html").read_text())
    assert len(page.all("section")) == 48
    assert len(page.all("img")) == 48 * 6
    assert "✗" in page.text
    first, second = page.text.index(f"{SMALL} · "), page.text.index(f"{SMALLER} · ")
    assert first < second


def test_figures_for_a_machine(terminal: Terminal, pictures: Path, tmp_path: Path) -> None:
    spec = fine_tuned(tmp_path / "model", ("bag", "coat"))
    figures = terminal.json("evaluate", str(pictures), "--model", spec, "--against", SMALL)
    new, old = figures["models"]
    assert figures["problems"] == {"not a picture": 1}
    assert not figures["self_excluded"]
    assert figures["gallery"]["parts"] == ["train"]
    assert new["classifier"]["skipped"] > 0
    assert 0 <= new["classifier"]["top_1"] <= new["classifier"]["top_3"] == 1
    assert old["classifier"] is None
    relevance = old["retrieval"]["category"]
    assert relevance["gallery"] == figures["gallery"]["pictures"]
    assert 0.4 < relevance["precision_10"] < 1  # by chance 0.2
    assert relevance["precision_10"] > new["retrieval"]["category"]["precision_10"]
    assert old["retrieval"]["product"] is None
    assert old["index"]["recall"] > 0.9
    assert 0 < figures["overlap"] < 1
    assert {"classifier", "retrieval", "index", "overlap"} == {*figures["definitions"]}


def test_products_of_a_table(terminal: Terminal, pictures: Path, tmp_path: Path) -> None:
    rows = [
        f"{path},{path.parent.name},{part},{path.parent.name}-{place // 4}"
        for folder in sorted(each for each in pictures.iterdir() if each.is_dir())
        for place, path in enumerate(sorted(folder.glob("*.png")))
        for part in ["test" if place % 4 == 0 else "train"]
    ]
    (tmp_path / "pictures.csv").write_text("image,category,part,product_id\n" + "\n".join(rows))
    figures = terminal.json("evaluate", "pictures.csv", "--model", SMALLER)
    product = figures["models"][0]["retrieval"]["product"]
    assert product["questions"] == figures["questions"]["pictures"] - product["skipped"]
    assert 0 < product["precision_1"] < 0.5
    assert product["recall_10"] >= product["recall_1"] > 0


def test_products_of_a_deepfashion_tree_cropped_to_their_boxes(
    terminal: Terminal, tmp_path: Path
) -> None:
    tree = deepfashion(tmp_path / "tree")
    for name, grey in zip(NAMES, (0, 20, 200, 220), strict=True):
        picture = Image.new("L", (8, 8), 255)
        picture.paste(grey, (1, 2, 6, 8))  # what the boxes hold
        picture.save(tree / "Img" / name)
    arguments = ("evaluate", "tree", "--model", SMALLER, "-k", "1", "--crop")
    figures = terminal.json(*arguments)
    assert figures["questions"] == {"part": "test", "pictures": 2}
    (judged,) = figures["models"]
    assert judged["retrieval"]["product"]["questions"] == 2
    assert judged["retrieval"]["product"]["precision_1"] == 1.0
    Image.new("L", (3, 3), 0).save(tree / "Img" / NAMES[0])
    (tree / "Img" / NAMES[1]).write_bytes(b"no picture")
    assert terminal.run(*arguments) == 0
    assert "cannot be decoded: 1" in terminal.words


def test_what_cannot_be_judged(terminal: Terminal, pictures: Path, tmp_path: Path) -> None:
    assert terminal.run("evaluate") == 2
    assert "say which pictures to judge a model by (DATA, with --model and" in terminal.err
    assert terminal.run("evaluate", str(pictures), "--generation", "1") == 2
    assert terminal.run("evaluate", str(pictures), "--against-generation", "1") == 2
    assert terminal.run("evaluate", "--generation", "1", "--against", SMALL) == 2
    assert terminal.run("evaluate", str(pictures), "--part", "tests") == 2
    assert terminal.run("evaluate", "nowhere") == 1
    assert "nowhere: neither a folder nor a CSV file" in terminal.err
    assert terminal.run("evaluate", str(pictures), "--model", "efficientnet-lite9") == 1
    assert "LOOKALIKE_MODEL=efficientnet-lite9: not one of" in terminal.err
    assert terminal.run("evaluate", str(pictures), "--crop") == 1
    assert "only a DeepFashion tree has boxes" in terminal.err
    assert terminal.run("evaluate", str(pictures), "--model", SMALLER, "-k", "1000") == 1
    assert "are too few for 1000 neighbours each" in terminal.err


# -- generations ----------------------------------------------------------------------------------


@pytest.fixture
def shop(
    database: Database, data_dir: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    """60 products in two generations, the second with ten more."""
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", database_url)
    shop = Shop(database)
    shop.fill(60)
    build(database, data_dir, KEEP)
    for i, vector in enumerate(vectors(10, seed=5)):
        shop.add(f"new{i}", vector, category="c1")
    build(database, data_dir, KEEP)
    return shop


def test_two_generations_side_by_side(terminal: Terminal, shop: Shop, tmp_path: Path) -> None:
    arguments = ("--generation", "2", "--against-generation", "1", "-k", "5")
    words = run(terminal, *arguments, "--out", "results")
    assert "generation 2 generation 1" in words
    assert "Classifier" not in words
    assert "60 pictures that are in all of them" in words
    figures = terminal.json("evaluate", *arguments)
    assert figures == json.loads((tmp_path / "results" / "evaluation.json").read_text()) | {
        "generations": figures["generations"]
    }
    new, old = figures["generations"]
    assert (new["number"], new["images"], old["number"], old["images"]) == (2, 70, 1, 60)
    assert 0.2 < new["precision"] < 0.5  # three categories by chance
    assert 0.5 < figures["overlap"] < 1
    assert new["index"]["recall"] > 0.8
    page = Page((tmp_path / "results" / "differences.html").read_text())
    assert len(page.all("section")) == 48
    assert "generation 2 · " in page.text


def test_generations_that_cannot_be_judged(terminal: Terminal, shop: Shop) -> None:
    assert terminal.run("evaluate", "--generation", "9") == 1
    assert "generation 9 is not kept" in terminal.err
    assert terminal.run("evaluate", "--generation", "1", "--against-generation", "1") == 2
    assert terminal.run("evaluate", "--against-generation", "1") == 2
