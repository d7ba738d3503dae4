"""What the demo adds and what it keeps out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import CatalogueFileError
from producer.rows import Row
from worker.demo.stock import MOST_UNSEEN, evenly, one_of_each, own_stock, path, read, sample_stock


def folder_of(folder: Path, **counts: int) -> Path:
    """A folder of a shop: a sub-folder for each category, with so many files that pass for pictures."""
    for category, count in counts.items():
        (folder / category).mkdir(parents=True)
        for number in range(count):
            (folder / category / f"{category}-{number}.png").write_bytes(b"a picture")
    return folder


def ids(rows: tuple[Row, ...]) -> set[str]:
    return {row.product_id for row in rows}


def test_the_sample_keeps_its_own_queries_out(tmp_path: Path) -> None:
    stock = sample_stock(tmp_path)
    assert len(stock.rows) == 1000
    assert len(stock.unseen) == 200
    assert ids(stock.rows).isdisjoint(ids(stock.unseen))
    assert all(row.category for row in stock.unseen)
    assert stock.roots == (tmp_path.resolve(),)
    assert "MIT" in stock.credit


def test_a_tenth_of_an_own_folder_is_kept_out_across_its_categories(tmp_path: Path) -> None:
    stock = own_stock(folder_of(tmp_path, dress=50, shoe=50))
    assert len(stock.rows) == 90
    assert len(stock.unseen) == 10
    assert ids(stock.rows).isdisjoint(ids(stock.unseen))
    assert {row.category for row in stock.unseen} == {"dress", "shoe"}
    assert stock.picture("dress-1") == b"a picture"
    assert stock.picture("nothing") is None


def test_no_more_is_kept_out_than_is_asked_about(tmp_path: Path) -> None:
    stock = own_stock(folder_of(tmp_path, all=2500))
    assert len(stock.unseen) == MOST_UNSEEN


def test_two_products_are_enough_and_one_is_not(tmp_path: Path) -> None:
    two = own_stock(folder_of(tmp_path / "two", a=2))
    assert (len(two.rows), len(two.unseen)) == (1, 1)
    with pytest.raises(CatalogueFileError, match="at least two products"):
        own_stock(folder_of(tmp_path / "one", a=1))


def test_products_with_several_pictures_or_no_file_are_never_kept_out(tmp_path: Path) -> None:
    folder_of(tmp_path, a=3)
    table = tmp_path / "catalogue.csv"
    table.write_text(
        "product_id,image,name\n"
        "both,a/a-0.png,front\n"
        "both,a/a-1.png,back\n"
        "far,https://cdn.example/1.jpg,main\n"
        "near,a/a-2.png,main\n"
    )
    stock = own_stock(table)
    assert ids(stock.unseen) == {"near"}
    assert len(stock.rows) == 3
    assert stock.roots == ((tmp_path / "a").resolve(),)


def test_only_files_here_can_be_read(tmp_path: Path) -> None:
    folder_of(tmp_path, a=1)
    assert path(Row("x", tmp_path / "a" / "a-0.png")) is not None
    for elsewhere in ("https://cdn.example/1.jpg", str(tmp_path / "absent.png"), b"bytes"):
        assert path(Row("x", elsewhere)) is None
    with pytest.raises(FileNotFoundError, match="'x'"):
        read(Row("x", "https://cdn.example/1.jpg"))


@given(st.lists(st.integers()), st.integers(0, 50))
def test_evenly_gives_as_many_as_asked_in_order(items: list[int], count: int) -> None:
    positions = list(range(len(items)))
    chosen = evenly(positions, count)
    assert len(chosen) == min(count, len(items))
    assert chosen == sorted(set(chosen))


@given(st.lists(st.sampled_from(["a", "b", "c", None])), st.integers(0, 8))
def test_one_of_each_shows_every_category_that_there_is_room_for(
    categories: list[str | None], count: int
) -> None:
    rows = [Row(str(number), b"", category=each) for number, each in enumerate(categories)]
    chosen = one_of_each(rows, count)
    assert len(chosen) == min(count, len(rows))
    assert len({row.category for row in chosen}) == min(count, len(set(categories)))
    assert chosen == sorted(chosen, key=lambda row: int(row.product_id))
