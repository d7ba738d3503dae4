"""Pictures as a shop gives them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from producer import pictures
from producer.errors import InvalidRequest
from producer.messages import BytesImage, PathImage, StoreImage, UrlImage
from producer.pictures import read_bytes, to_ref


@pytest.mark.parametrize(
    "url", ["https://cdn.example/42.jpg", "HTTP://cdn.example:8080/a?b=c", "http://[::1]/a"]
)
def test_an_address_stays_an_address(url: str) -> None:
    ref, data = to_ref(url)
    assert isinstance(ref, UrlImage)
    assert ref.url.lower() == url.lower()
    assert ref.url.startswith("http")
    assert data is None


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("s3://bucket/a/b c+ü.jpg", "s3://bucket/a/b c+ü.jpg"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("gs://bucket/key", "gs://bucket/key"),
    ],
)
def test_an_object_in_a_store_is_told_from_a_path(source: str, url: str) -> None:
    assert to_ref(source) == (StoreImage(url=url), None)


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("a/42.jpg", Path("a/42.jpg"), tmp_path / "a" / "42.jpg"):
        assert to_ref(source) == (PathImage(path=str(tmp_path / "a" / "42.jpg")), None)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_travel_beside_the_message(wrap: Any) -> None:
    ref, data = to_ref(wrap(b"picture"))
    assert ref == BytesImage(key=hashlib.sha256(b"picture").hexdigest())
    assert data == b"picture"


def test_an_open_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    with (tmp_path / "a").open("rb") as file:
        assert to_ref(file)[1] == b"picture"
        with pytest.raises(InvalidRequest, match="read to its end"):
            to_ref(file)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("file:///etc/passwd", "file: addresses are not fetched"),
        ("file:///etc/passwd", r"\(s3, gs\)"),
        ("ftp://host/a.jpg", "ftp: addresses are not fetched"),
        ("s3://bucket", "must be s3://BUCKET/KEY"),
        ("s3://bucket/", "must be s3://BUCKET/KEY"),
        ("S3:///key", "must be s3://BUCKET/KEY"),
        ("gs://bucket//key", "must be gs://BUCKET/KEY"),
        ("gs://bucket?x=/a", "must be gs://BUCKET/KEY"),
        ("az://bucket/key", "az: addresses are not fetched"),
        ("s3://bucket/" + "a" * 5000, "4096"),
        ("data:image/png;base64,AAAA", "give an http"),
        ("https:///a.jpg", "host is missing"),
        ("http://[::1/a.jpg", "host is missing"),
        ("https://cdn.example/" + "a" * 5000, "4096"),
        ("", "not empty"),
        ("a\x00b", "NUL"),
        (Path("a\ud800"), "unicode"),
        (b"", "0 bytes"),
        (io.StringIO("text"), "'rb'"),
        (42, "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_cannot_be_a_picture_is_refused_clearly(source: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        to_ref(source)


def test_a_picture_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    to_ref(b"x" * 10)
    for source in (b"x" * 11, io.BytesIO(b"x" * 11)):
        with pytest.raises(InvalidRequest, match="scale it down"):
            to_ref(source)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nowhere\.jpg.*No such file"):
        read_bytes(tmp_path / "nowhere.jpg")
    with pytest.raises(InvalidRequest, match="directory"):
        read_bytes(tmp_path)
