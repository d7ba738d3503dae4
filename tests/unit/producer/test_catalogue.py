"""Catalogue files and folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from producer import CatalogueFileError, InvalidRequest, Row, read_rows

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def test_a_csv_has_products_pictures_and_attributes(write: Write) -> None:
    path = write(
        "shop.csv",
        "product_id,image,name,category,version,price,in_stock,ean\n"
        "1,a/1.jpg,,dress,1700000000000000000,49.50,true,0123\n"
        '2,https://cdn.example/2.jpg,back,,,,,"x, ""y"""\n'
        "\n"
        "3,/pics/3.jpg,,,,,,\n",
    )
    assert list(read_rows(path)) == [
        Row(
            "1",
            str(path.parent / "a/1.jpg"),
            category="dress",
            attributes={"price": 49.5, "in_stock": True, "ean": "0123"},
            version=1700000000000000000,
        ),
        Row("2", "https://cdn.example/2.jpg", name="back", attributes={"ean": 'x, "y"'}),
        Row("3", "/pics/3.jpg"),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_any_country_are_read(write: Write, delimiter: str) -> None:
    text = (
        delimiter.join(["product_id", "image"]) + "\r\n" + delimiter.join(["1", "/a.jpg"]) + "\r\n"
    )
    path = write("shop.csv", b"\xef\xbb\xbf" + text.encode())
    assert list(read_rows(path)) == [Row("1", "/a.jpg")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "sku,image\n1,a.jpg\n",
            r"shop.csv:1: no column 'product_id'.*sku,image.*expected product_id,image",
        ),
        ("productid,image\n", "did you mean 'productid'"),
        ("product_id,picture\n", "no column 'image'"),
        ("product_id,image,image\n", "appears twice"),
        ("product_id,image,\n", "no name"),
        ("", "empty"),
        ("product_id,image\n1\n", r"shop.csv:2: 1 cells under 2 columns"),
        ("product_id,image\n1,a.jpg,x\n", r"shop.csv:2: 3 cells"),
        ("product_id,image\n1,a.jpg\n,b.jpg\n", r"shop.csv:3: product_id missing"),
        ("product_id,image\n1,\n", r"shop.csv:2: image missing"),
        ('product_id,image,note\n1,a,"two\nlines"\n2\n', r"shop.csv:4: 1 cells"),
        ('product_id,image\n1,"a"b\n', r"shop.csv:2"),
        (b"product_id,image\n1,\xff.jpg\n", "UTF-8"),
    ],
)
def test_a_wrong_csv_is_refused_with_file_and_line(
    write: Write, content: str | bytes, says: str
) -> None:
    with pytest.raises(CatalogueFileError, match=says):
        list(read_rows(write("shop.csv", content)))


def test_json_lines_take_the_same_keys(write: Write) -> None:
    rows = [
        {
            "product_id": "1",
            "image": "1.jpg",
            "price": 5,
            "tags": ["a"],
            "attributes": {"size": "M"},
        },
        {"product_id": "2", "image": "http://cdn.example/2.jpg", "name": "back", "version": 3},
    ]
    path = write("shop.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    assert list(read_rows(path)) == [
        Row("1", str(path.parent / "1.jpg"), attributes={"price": 5, "tags": ["a"], "size": "M"}),
        Row("2", "http://cdn.example/2.jpg", name="back", version=3),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"product_id": "1", "image": "a"}\n{', r"shop.jsonl:2: not JSON"),
        ("[1]", r"shop.jsonl:1: not a JSON object"),
        ('{"image": "a"}', r"shop.jsonl:1: product_id missing"),
        ('{"product_id": "1", "image": "a", "attributes": [1]}', r"shop.jsonl:1: attributes"),
    ],
)
def test_wrong_json_lines_are_refused_with_file_and_line(
    write: Write, content: str, says: str
) -> None:
    with pytest.raises(CatalogueFileError, match=says):
        list(read_rows(write("shop.jsonl", content)))


def test_in_a_folder_a_sub_folder_is_a_category(write: Write, tmp_path: Path) -> None:
    for name in ("dress/42.jpg", "dress/Ärmel 7.PNG", "shoe/kids/9.webp", "8.gif"):
        write(name, b"x")
    for name in ("dress/notes.txt", ".cache/1.jpg", "dress/.hidden.jpg"):
        write(name, b"x")
    rows = {row.product_id: (row.category, row.image) for row in read_rows(tmp_path)}
    assert rows == {
        "42": ("dress", tmp_path / "dress/42.jpg"),
        "Ärmel 7": ("dress", tmp_path / "dress/Ärmel 7.PNG"),
        "9": ("shoe/kids", tmp_path / "shoe/kids/9.webp"),
        "8": (None, tmp_path / "8.gif"),
    }


def test_two_pictures_of_one_product_in_a_folder_are_refused(write: Write, tmp_path: Path) -> None:
    write("dress/42.jpg", b"x")
    write("skirt/42.png", b"x")
    with pytest.raises(
        CatalogueFileError, match=r"skirt/42.png: product '42' is already .*dress/42"
    ):
        list(read_rows(tmp_path))


def test_what_is_no_catalogue_says_what_is_expected(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError, match="no such file"):
        read_rows(tmp_path / "nowhere.csvx")
    with pytest.raises(CatalogueFileError, match="No such file"):
        list(read_rows(tmp_path / "nowhere.csv"))
    with pytest.raises(CatalogueFileError, match=r"expected a \.csv or \.jsonl"):
        read_rows(write("shop.xlsx", b"x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogueFileError, match="no pictures"):
        list(read_rows(tmp_path / "empty"))


def test_a_mapping_is_a_row() -> None:
    row = Row.of({"product_id": "1", "image": b"x", "price": 5, "category": None})
    assert row == Row("1", b"x", attributes={"price": 5})
    assert Row.of(row) is row
    for wrong in ([1], {"product_id": "1"}, {}):
        with pytest.raises(InvalidRequest):
            Row.of(wrong)  # type: ignore[arg-type]
