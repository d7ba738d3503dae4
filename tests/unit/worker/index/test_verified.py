"""All bytes once on a host, a sample on every open."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.worker.index.factories import vectors
from tests.unit.worker.index.generations import generation
from worker.index import durable, verified
from worker.index import generation as generations
from worker.index.errors import GenerationDamaged
from worker.index.generation import Generation
from worker.index.manifest import read

LARGE = "vectors.f16"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation whose vectors, 768,000 bytes, are more than the blocks of a sample."""
    folder = tmp_path_factory.mktemp("verified") / "generation"
    rows = np.tile(vectors(1500), (1, 16))
    generation(folder, rows, engine_name="exact")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """Of its own, and never opened."""
    copied = Path(shutil.copytree(template, tmp_path / "generation"))
    for note in notes(copied):
        note.unlink()
    return copied


def notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("verified-*"))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read from end to end."""
    seen: list[str] = []
    real = durable.sha256

    def noted(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(durable, "sha256", noted)
    return seen


def flip(path: Path, place: int, *, keep_times: bool = True) -> None:
    """Change one byte where it lies, and put the time of the change back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_only_the_first_open_reads_everything(
    folder: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Generation.open(folder)
    assert sorted(whole) == sorted(read(folder).files)
    assert len(notes(folder)) == 1
    whole.clear()
    read_at: list[int] = []
    real = os.pread

    def pread(descriptor: int, count: int, place: int) -> bytes:
        read_at.append(count)
        return real(descriptor, count, place)

    monkeypatch.setattr(os, "pread", pread)
    Generation.open(folder)
    assert whole == []
    size = sum(entry.bytes for entry in read(folder).files.values())
    per_file = verified.SAMPLES * verified.SAMPLE_BYTES
    assert 0 < sum(read_at) <= per_file * len(read(folder).files)
    assert per_file < size


@pytest.mark.parametrize("place", [0, 100_001, 767_999])
def test_a_changed_byte_is_found_though_the_time_of_the_change_was_put_back(
    folder: Path, whole: list[str], place: int
) -> None:
    """The file system notes when a file's own entry changed, which nobody can put back."""
    Generation.open(folder)
    whole.clear()
    flip(folder / LARGE, place)
    with pytest.raises(GenerationDamaged, match=LARGE):
        Generation.open(folder)
    assert LARGE in whole


@pytest.mark.parametrize("name", ["rotation.npy", "slot_image.npy", "attributes.json", LARGE])
def test_a_sampled_byte_that_changes_unnoticed_by_the_file_system_is_found(
    folder: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As on a disk that fails: its ends, and blocks between, are read on every open."""
    Generation.open(folder)
    whole.clear()
    looks = verified._look(folder, read(folder))
    flip(folder / name, (folder / name).stat().st_size - 1)
    monkeypatch.setattr(verified, "_look", lambda *_: looks)
    with pytest.raises(GenerationDamaged):
        Generation.open(folder)
    assert whole == []


def test_the_same_bytes_in_another_file_are_read_again(folder: Path, whole: list[str]) -> None:
    Generation.open(folder)
    whole.clear()
    copied = folder.parent / "copied"
    shutil.copy2(folder / LARGE, copied)
    copied.replace(folder / LARGE)
    Generation.open(folder)
    assert LARGE in whole
    whole.clear()
    Generation.open(folder)
    assert whole == []


def test_the_note_of_another_host_counts_for_nothing(
    folder: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file numbers and times are of another file system, or of this one a reboot ago."""
    Generation.open(folder)
    here = notes(folder)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    whole.clear()
    Generation.open(folder)
    assert LARGE in whole
    assert set(notes(folder)) > set(here)


def test_the_note_of_another_generation_counts_for_nothing(folder: Path, whole: list[str]) -> None:
    Generation.open(folder)
    (note,) = notes(folder)
    said = json.loads(note.read_text())
    note.write_text(json.dumps(said | {"manifest": "0" * 64}))
    whole.clear()
    Generation.open(folder)
    assert LARGE in whole


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"manifest": 1}', "\udcff"])
def test_a_note_that_is_none_counts_for_nothing(folder: Path, whole: list[str], text: str) -> None:
    Generation.open(folder)
    (note,) = notes(folder)
    note.write_bytes(text.encode("utf-8", "surrogateescape"))
    whole.clear()
    Generation.open(folder)
    assert LARGE in whole


def _no_writing(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_folder_that_cannot_be_written_to_is_read_whole_each_time(
    folder: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop whoever runs the tests as root: the write is made to fail."""
    monkeypatch.setattr(Path, "write_text", _no_writing)
    for _ in range(2):
        whole.clear()
        Generation.open(folder)
        assert LARGE in whole
    assert notes(folder) == []
    flip(folder / LARGE, 5)
    with pytest.raises(GenerationDamaged):
        Generation.open(folder)


def test_a_note_that_does_not_fit_on_the_disk_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def full(path: Path, text: str, *rest: str) -> None:
        real(path, text[:100], *rest)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    before = sorted(folder.iterdir())
    Generation.open(folder)
    assert sorted(folder.iterdir()) == before


def test_what_changes_while_it_is_read_is_not_noted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verified.compare_digests

    def meanwhile(directory: Path, described: object) -> None:
        real(directory, described)  # type: ignore[arg-type]
        os.utime(directory / LARGE)

    monkeypatch.setattr(verified, "compare_digests", meanwhile)
    Generation.open(folder)
    assert notes(folder) == []


def test_damage_is_not_noted_as_verified(folder: Path) -> None:
    flip(folder / LARGE, 9)
    for _ in range(2):
        with pytest.raises(GenerationDamaged):
            Generation.open(folder)
    assert notes(folder) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    ],
    ids=["cut", "lost", "longer"],
)
def test_sizes_are_compared_on_every_open(
    folder: Path, whole: list[str], damage: Callable[[Path], None]
) -> None:
    Generation.open(folder)
    whole.clear()
    damage(folder / LARGE)
    with pytest.raises(GenerationDamaged, match=LARGE):
        Generation.open(folder)
    assert whole == []


def test_an_audit_reads_everything_whatever_is_noted(folder: Path, whole: list[str]) -> None:
    Generation.open(folder)
    whole.clear()
    generations.verify_files(folder, read(folder))
    assert sorted(whole) == sorted(read(folder).files)
