"""`lookalike-worker evaluate` as an ML engineer runs it, on real pictures and on a catalogue."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from db.queries import judgements
from db.queries.judgements import Judgement
from db.session import Database
from tests.integration.test_worker_cli import Terminal
from tests.services import DatabaseFactory
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


# -- judgements -----------------------------------------------------------------------------------


def vote(database: Database, product_id: str, match: str, good: bool, judge: str = "anna") -> None:
    kept = Judgement(product_id, match, judge, good, datetime.now(UTC))
    with database.writing() as session:
        judgements.note(session, kept, None)


def test_generations_are_judged_by_what_people_like(terminal: Terminal, shop: Shop) -> None:
    near = [each for each, _ in shop.nearest("p1", 69) if not each.startswith("new")]
    # Of the four that are judged, one liked and one disliked are near; the order is right in three pairs of four.
    for place, good in ((0, True), (2, False), (1, True), (50, True), (40, False)):
        vote(shop.database, "p1", near[place], good)
    vote(shop.database, "p1", near[1], good=False, judge="bert")  # as many like it as not
    vote(shop.database, "p2", "new1", good=True)  # not in the first generation
    vote(shop.database, "p2", "never there", good=True)
    words = run(
        terminal, "--judgements", "--generation", "2", "--against-generation", "1", "-k", "15"
    )
    assert (
        "2 liked and 2 disliked matches of 1 products, 4 pairs; of 8 judgements by 2 judges"
        in words
    )
    assert "1 matches that as many like as dislike, and 2 of products that are not" in words
    figures = terminal.json("evaluate", "--judgements", "-k", "15", "--generation", "1")
    (first,) = figures["generations"]
    assert (first["near"], first["precision"], first["found"]) == (2, 0.5, 0.5)
    assert first["agreement"] == 0.5  # the nearest is nearer than both, the farthest than none
    assert "judgements" in figures["definitions"]


@pytest.fixture
def small(
    sqlite_databases: DatabaseFactory, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """Products in one generation, two of them of two pictures."""
    with sqlite_databases.migrated() as url:
        monkeypatch.setenv("LOOKALIKE_DATABASE_URL", url)
        database = Database(url)
        yield _two_pictured(database, data_dir)
        database.close()


def _two_pictured(database: Database, data_dir: Path) -> Shop:
    shop = Shop(database)
    shop.fill(30)
    (twin,) = shop.items["p1"].pictures.values()
    shop.add("many", vectors(1, seed=91)[0], name="front")
    shop.add("many", twin, name="back")
    shop.add("p1", vectors(1, seed=92)[0], name="side")
    build(database, data_dir, KEEP)
    return shop


def test_the_current_generation_is_judged_if_none_is_named(terminal: Terminal, small: Shop) -> None:
    vote(small.database, "p2", "p3", good=True)
    figures = terminal.json("evaluate", "--judgements", "-k", "30")
    (only,) = figures["generations"]
    assert (only["number"], only["precision"], only["found"]) == (1, 1.0, 1.0)
    assert only["agreement"] is None


def test_judgements_that_say_nothing(terminal: Terminal, small: Shop) -> None:
    assert terminal.run("evaluate", "--judgements") == 1
    assert "there are no judgements to count" in terminal.err
    vote(small.database, "not", "there", good=True)
    assert terminal.run("evaluate", "--judgements") == 1
    assert "none of the 1 judged matches is of products" in terminal.err
    assert terminal.run("evaluate", "pictures", "--judgements") == 2
    assert terminal.run("evaluate", "--judgements", "--against-generation", "1") == 2


def test_a_product_of_several_pictures_is_as_near_as_its_nearest(
    terminal: Terminal, small: Shop
) -> None:
    vote(small.database, "p1", "many", good=True)
    vote(small.database, "p1", small.nearest("p1", 2)[1][0], good=False)
    (only,) = terminal.json("evaluate", "--judgements", "-k", "1")["generations"]
    assert (only["near"], only["precision"], only["agreement"]) == (1, 1.0, 1.0)


def test_judgements_are_written_to_a_file(terminal: Terminal, small: Shop, tmp_path: Path) -> None:
    vote(small.database, "p1", "p2, é", good=True)
    vote(small.database, "p1", "p3", good=False)
    assert terminal.run("judgements", "--out", "judged.csv") == 0, terminal.err
    assert "judged.csv (2 judgements)" in terminal.words
    with (tmp_path / "judged.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["match"], row["verdict"], row["judge"]) for row in csv.DictReader(file)]
    assert rows == [("p2, é", "up", "anna"), ("p3", "down", "anna")]
    assert [each["match"] for each in terminal.json("judgements")] == ["p2, é", "p3"]
    assert terminal.run("judgements") == 0
    assert (
        terminal.out.splitlines()[0]
        == "product_id,match,verdict,judge,at,generation,model_version,distance"
    )
