"""The sample is what its licence says, and can be made again."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.worker.training.factories import fashion_mnist
from worker.demo import make_sample, sample
from worker.training.idx import FASHION


def test_unpacks_a_balanced_catalogue_and_unseen_pictures(tmp_path: Path) -> None:
    unpacked = sample.unpack(tmp_path / "new")
    for folder, of_each in ((unpacked.catalogue, 100), (unpacked.queries, 20)):
        counts = Counter(path.parent.name for path in folder.rglob("*.png"))
        assert counts == dict.fromkeys(FASHION, of_each)
    stems = [path.stem for path in tmp_path.rglob("*.png")]
    assert len(set(stems)) == len(stems)


def test_unpacking_twice_changes_nothing(tmp_path: Path) -> None:
    sample.unpack(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sample.unpack(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_stand_on_white(tmp_path: Path) -> None:
    for path in sorted(sample.unpack(tmp_path).catalogue.rglob("*.png"))[::100]:
        with Image.open(path) as picture:
            assert picture.size == (28, 28)
            assert np.median(np.asarray(picture)[[0, -1]]) > 200


def test_is_small_and_says_whose_it_is() -> None:
    assert sample.ARCHIVE.stat().st_size < 2 * 1024 * 1024
    with zipfile.ZipFile(sample.ARCHIVE) as archive:
        licence = archive.read(sample.ATTRIBUTION.name)
    assert licence == sample.ATTRIBUTION.read_bytes()
    assert b"Zalando SE" in licence
    assert b"MIT License" in licence


def test_making_it_takes_the_first_of_each_class_and_negates_them(tmp_path: Path) -> None:
    source = fashion_mnist(tmp_path, of_each=25)
    made = dict(make_sample.entries(source))
    names = [name for name in made if name.startswith("queries/trouser/")]
    assert names[:2] == ["queries/trouser/fm-test-00001.png", "queries/trouser/fm-test-00011.png"]
    assert len(names) == make_sample.QUERIES_OF_EACH
    target = tmp_path / "picture.png"
    target.write_bytes(made["queries/trouser/fm-test-00011.png"])
    with Image.open(target) as picture:
        assert picture.getextrema() == (255 - 11, 255 - 11)


def test_making_it_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = fashion_mnist(tmp_path, of_each=25)
    for name in ("one.zip", "two.zip"):
        make_sample.write(source, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.skipif(not make_sample.SOURCE.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_sample_is_what_the_script_makes() -> None:
    with zipfile.ZipFile(sample.ARCHIVE) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    made = dict(make_sample.entries(make_sample.SOURCE))
    assert made.keys() == kept.keys()
    for name in list(made)[1::50]:
        assert pixels(made[name]) == pixels(kept[name])


def pixels(png: bytes) -> bytes:
    """What a PNG shows, however it was compressed."""
    import io

    with Image.open(io.BytesIO(png)) as picture:
        return picture.tobytes()
