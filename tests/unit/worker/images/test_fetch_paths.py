"""Files are read from under the roots, and nothing else is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import cast

import pytest
import redis
from redis import Redis

from producer import keys
from producer.messages import BytesImage, PathImage
from producer.reasons import Reason
from worker.images.errors import ImageError
from worker.images.fetch import Fetcher, FetchPolicy


class Store:
    """What a fetcher needs of Redis."""

    def __init__(self, values: dict[str, bytes] | None = None) -> None:
        self.values = values

    def getrange(self, key: str, start: int, end: int) -> bytes:
        if self.values is None:
            raise redis.ConnectionError("no route to redis://:secret@example")
        return self.values.get(key, b"")[start : end + 1]


def fetcher(*roots: Path, values: dict[str, bytes] | None = None, limit: int = 1000) -> Fetcher:
    return Fetcher(FetchPolicy(roots=roots, max_bytes=limit), cast(Redis, Store(values)))


def refusal(root: Path, path: Path | str, limit: int = 1000) -> ImageError:
    with fetcher(root, limit=limit) as opened, pytest.raises(ImageError) as caught:
        opened.fetch(PathImage(path=str(path)))
    return caught.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return folder


def test_a_file_under_a_root(root: Path) -> None:
    with fetcher(root) as opened:
        picture = opened.fetch(PathImage(path=str(root / "inner" / "a.jpg")))

    assert picture.data == b"picture"
    assert picture.source == str(root / "inner" / "a.jpg")
    assert picture.content_sha256 == hashlib.sha256(b"picture").digest()


def test_a_link_that_stays_inside(root: Path) -> None:
    (root / "link.jpg").symlink_to(root / "inner" / "a.jpg")

    with fetcher(root) as opened:
        assert opened.fetch(PathImage(path=str(root / "link.jpg"))).data == b"picture"


def test_a_root_that_is_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)

    with fetcher(tmp_path / "alias") as opened:
        path = str(tmp_path / "alias" / "inner" / "a.jpg")
        assert opened.fetch(PathImage(path=path)).data == b"picture"


@pytest.mark.parametrize("path", ["../secret.txt", "inner/../../secret.txt", "/etc/passwd"])
def test_paths_that_lead_out(root: Path, path: str) -> None:
    error = refusal(root, root / path)

    assert error.reason is Reason.PATH_DENIED
    assert "LOOKALIKE_IMAGE_ROOTS" in error.detail


def test_a_link_that_leads_out(root: Path, tmp_path: Path) -> None:
    (root / "out.jpg").symlink_to(tmp_path / "secret.txt")
    (root / "away").symlink_to(tmp_path)

    assert refusal(root, root / "out.jpg").reason is Reason.PATH_DENIED
    assert refusal(root, root / "away" / "secret.txt").reason is Reason.PATH_DENIED


def test_no_roots_no_files(root: Path) -> None:
    with fetcher() as opened, pytest.raises(ImageError) as caught:
        opened.fetch(PathImage(path=str(root / "inner" / "a.jpg")))
    assert caught.value.reason is Reason.PATH_DENIED


def test_only_regular_files_and_never_waiting(root: Path) -> None:
    os.mkfifo(root / "fifo")

    assert refusal(root, root / "fifo").reason is Reason.PATH_DENIED
    assert refusal(root, root / "inner").reason is Reason.PATH_DENIED
    assert refusal(root, root).reason is Reason.PATH_DENIED
    assert refusal(Path("/dev"), "/dev/zero").reason is Reason.PATH_DENIED


@pytest.mark.parametrize("path", ["missing.jpg", "inner/a.jpg/b", "x" * 300])
def test_a_missing_file_is_not_tried_again(root: Path, path: str) -> None:
    error = refusal(root, root / path)

    assert error.reason is Reason.NOT_FOUND
    assert not error.transient


def test_a_root_that_is_gone_is_tried_again(root: Path, tmp_path: Path) -> None:
    gone = tmp_path / "unmounted"

    assert refusal(gone, gone / "a.jpg").transient


def test_nul_in_a_path(root: Path) -> None:
    assert refusal(root, f"{root}/a\x00.jpg").reason is Reason.PATH_DENIED


def test_a_file_over_the_limit(root: Path) -> None:
    (root / "large.jpg").write_bytes(bytes(1001))

    assert refusal(root, root / "large.jpg").reason is Reason.TOO_LARGE


def test_a_folder_swapped_for_a_link_is_not_followed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap happens after the check: resolving gives what was true a moment ago."""
    checked = (root / "inner" / "a.jpg").resolve()
    (root / "inner").rename(tmp_path / "moved")
    (root / "inner").symlink_to(tmp_path / "moved")
    opened = fetcher(root)
    monkeypatch.setattr(Path, "resolve", lambda _self, **_options: checked)

    with pytest.raises(ImageError) as caught:
        opened.fetch(PathImage(path=str(checked)))

    assert caught.value.reason in {Reason.PATH_DENIED, Reason.NOT_FOUND}


# -- bytes that travel beside the message ---------------------------------------------------------


def sent(data: bytes) -> BytesImage:
    return BytesImage(key=hashlib.sha256(data).hexdigest())


def test_bytes_from_redis() -> None:
    reference = sent(b"picture")

    with fetcher(values={keys.picture(reference.key): b"picture"}) as opened:
        assert opened.fetch(reference).data == b"picture"


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", Reason.BYTES_EXPIRED),
        (b"other", Reason.CORRUPT_IMAGE),
        (bytes(1001), Reason.TOO_LARGE),
    ],
)
def test_bytes_that_cannot_be_used(stored: bytes, reason: Reason) -> None:
    reference = sent(b"picture")

    with (
        fetcher(values={keys.picture(reference.key): stored}) as opened,
        pytest.raises(ImageError) as caught,
    ):
        opened.fetch(reference)

    assert caught.value.reason is reason
    assert not caught.value.transient


def test_redis_away_is_transient_and_keeps_its_secrets() -> None:
    with fetcher(values=None) as opened, pytest.raises(ImageError) as caught:
        opened.fetch(sent(b"picture"))

    assert caught.value.reason is Reason.UNAVAILABLE
    assert caught.value.transient
    assert "secret" not in str(caught.value)
