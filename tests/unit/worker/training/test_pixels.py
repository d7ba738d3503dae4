"""Pictures are decoded once, as the service decodes them, and what cannot be is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.images.decode import DecodeSpec, decode
from worker.training import pixels
from worker.training.errors import TrainingDataError
from worker.training.labelled import Box, DataSet, Labelled, Part, Problem, Problems

SPEC = DecodeSpec(32, thumbnail=0)


def photograph(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).resize((120, 80)).save(path, "JPEG")
    return path


def data(folder: Path) -> DataSet:
    torn = folder / "torn.jpg"
    torn.write_bytes(photograph(folder / "whole.jpg").read_bytes()[:300])
    boxed = folder / "boxed.jpg"
    boxed.write_bytes((folder / "whole.jpg").read_bytes())
    pictures = [
        Labelled(folder / "whole.jpg", "a", Part.TRAIN),
        Labelled(torn, "a", Part.TRAIN),
        Labelled(np.arange(784, dtype=np.uint8).reshape(28, 28), "b", Part.VALIDATION),
        Labelled(boxed, "b", Part.TRAIN, box=Box(20, 10, 60, 50)),
    ]
    return DataSet(pictures, ("a", "b"), Problems())


def prepare(of: DataSet, folder: Path) -> tuple[pixels.Pixels, list[float]]:
    shares: list[float] = []
    return pixels.prepare(of, SPEC, folder, shares.append), shares


def test_pixels_are_those_that_the_service_would_see(tmp_path: Path) -> None:
    of = data(tmp_path)
    found, _ = prepare(of, tmp_path)

    whole, grey, boxed = (found.array[row] for row in found.rows)
    assert np.array_equal(whole, decode((tmp_path / "whole.jpg").read_bytes(), SPEC).pixels)
    picture = of.pictures[2].picture
    assert isinstance(picture, np.ndarray)
    enlarged = Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(grey, np.asarray(enlarged.convert("RGB")))
    with Image.open(tmp_path / "boxed.jpg") as image:
        inside = image.crop((20, 10, 60, 50)).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(boxed, np.asarray(inside))


def test_what_cannot_be_decoded_is_left_out_and_counted(tmp_path: Path) -> None:
    of = data(tmp_path)
    found, _ = prepare(of, tmp_path)

    assert [each.category for each in found.pictures] == ["a", "b", "b"]
    assert [each.category for each in found.part(Part.TRAIN).pictures] == ["a", "b"]
    assert found.part(Part.TRAIN).rows.tolist() == [0, 3]
    assert of.problems.counts == {Problem.UNDECODABLE: 1}
    assert f"{tmp_path / 'torn.jpg'}: the picture is damaged" in of.problems.lines()[1]


def test_they_are_decoded_once(tmp_path: Path) -> None:
    prepare(data(tmp_path), tmp_path)
    of = data(tmp_path)
    again, shares = prepare(of, tmp_path)
    assert shares == [1.0]  # its files were written anew

    of = DataSet(of.pictures, of.categories, Problems())
    again, shares = prepare(of, tmp_path)
    assert shares == []
    assert len(again.pictures) == 3
    assert of.problems.counts == {Problem.UNDECODABLE: 1}


def test_another_size_is_decoded_anew(tmp_path: Path) -> None:
    of = data(tmp_path)
    prepare(of, tmp_path)
    found = pixels.prepare(of, replace(SPEC, size=48), tmp_path, lambda _share: None)
    assert found.array.shape[1:] == (48, 48, 3)


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(TrainingDataError, match="choose a smaller --size"):
        prepare(data(tmp_path), tmp_path)
