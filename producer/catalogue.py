"""Catalogue files: CSV, JSON lines, or a folder of pictures, read as rows."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from producer.errors import CatalogueFileError, InvalidRequest
from producer.messages import Scalar
from producer.pictures import is_address
from producer.rows import COLUMNS, Row
from producer.where import parse_scalar

EXPECTED = "product_id,image[,name,category,version,…attributes]"
PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_KINDS = "a .csv or .jsonl file, or a folder of pictures"


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a catalogue, one at a time.

    A CSV (comma, semicolon or tab) has a heading line with product_id and image, and optionally name,
    category and version; other columns are attributes, in which numbers and true/false are read as such.
    JSON lines are objects of the same keys. In a folder, a sub-folder is a category and a file's stem is the
    product id. A relative path of a picture is relative to the file. Raises CatalogueFileError that
    names file and line.
    """
    return (row for _, row in read_located_rows(path))


def read_located_rows(path: str | Path) -> Iterator[tuple[str, Row]]:
    """The rows of a catalogue, each with where it stands: `FILE:LINE`, or the picture's path."""
    path = Path(path)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise CatalogueFileError(f"{str(path)[:200]}: {error.strerror or error}") from None
    if is_folder:
        return _read_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _located(path, _csv_values(path))
    if suffix in (".jsonl", ".ndjson"):
        return _located(path, _json_values(path))
    if not exists:
        raise CatalogueFileError(f"{path}: no such file or folder; expected {_KINDS}")
    raise CatalogueFileError(f"{path}: not a kind of catalogue that can be read; expected {_KINDS}")


def _located(
    path: Path, values: Iterator[tuple[int, Mapping[str, Any]]]
) -> Iterator[tuple[str, Row]]:
    folder = path.parent.absolute()
    for line, value in values:
        where = f"{path}:{line}"
        try:
            row = Row.of({**value, "image": _beside(folder, value.get("image"))})
        except InvalidRequest as error:
            raise CatalogueFileError(f"{where}: {error}; expected {EXPECTED}") from None
        yield where, row


def _beside(folder: Path, image: object) -> object:
    """A picture's address as it is, a path seen from the catalogue's folder."""
    if not isinstance(image, str) or not image or is_address(image):
        return image
    return str(folder / image)


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise CatalogueFileError(f"{path}: {error.strerror or error}; expected {_KINDS}") from None


# -- CSV ------------------------------------------------------------------------------------------


def _csv_values(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _open(path) as file:
        lines = _decoded(path, file)
        heading = next(lines, "")
        if not heading.strip():
            raise CatalogueFileError(f"{path}:1: the file is empty; expected a heading {EXPECTED}")
        delimiter = max(",;\t", key=heading.count)
        columns = [column.strip() for column in next(csv.reader([heading], delimiter=delimiter))]
        _check_columns(path, columns)
        # `line_num` counts from the line after the heading, and knows cells of several lines.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num + 1, _record(path, reader.line_num + 1, columns, cells)
        except csv.Error as error:
            raise CatalogueFileError(f"{path}:{reader.line_num + 1}: {error}") from None


def _decoded(path: Path, file: TextIO) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise CatalogueFileError(
            f"{path}: not UTF-8 text ({error.reason}): save it as UTF-8"
        ) from None


def _check_columns(path: Path, columns: list[str]) -> None:
    for column in ("product_id", "image"):
        if column not in columns:
            near = difflib.get_close_matches(column, columns, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise CatalogueFileError(
                f"{path}:1: no column {column!r}{hint}; the columns are {','.join(columns)}; "
                f"expected {EXPECTED}"
            )
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled or "" in columns:
        problem = f"column {doubled[0]!r} appears twice" if doubled else "a column has no name"
        raise CatalogueFileError(f"{path}:1: {problem}; expected {EXPECTED}")


def _record(path: Path, line: int, columns: list[str], cells: list[str]) -> Mapping[str, Any]:
    if len(cells) != len(columns):
        raise CatalogueFileError(
            f"{path}:{line}: {len(cells)} cells under {len(columns)} columns; expected "
            f"{','.join(columns)}"
        )
    stripped = ((column, cell.strip()) for column, cell in zip(columns, cells, strict=True))
    return {column: _cell(column, cell) for column, cell in stripped if cell}


def _cell(column: str, text: str) -> Scalar:
    if column == "version":
        return int(text) if text.isdecimal() else text
    return text if column in COLUMNS else parse_scalar(text)


# -- JSON lines -----------------------------------------------------------------------------------


def _json_values(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with _open(path) as file:
        for line, text in enumerate(_decoded(path, file), start=1):
            if text.strip():
                yield line, _json_object(path, line, text)


def _json_object(path: Path, line: int, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CatalogueFileError(f"{path}:{line}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CatalogueFileError(f"{path}:{line}: not a JSON object; expected {EXPECTED}")
    return value


# -- a folder -------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> Iterator[tuple[str, Row]]:
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
            continue
        if path.stem in seen:
            raise CatalogueFileError(
                f"{path}: product {path.stem!r} is already {seen[path.stem]}: rename one of them"
            )
        seen[path.stem] = path
        category = relative.parent.as_posix() if relative.parent.parts else None
        yield str(path), Row(path.stem, path.absolute(), category=category)
    if not seen:
        kinds = " ".join(sorted(PICTURE_SUFFIXES))
        raise CatalogueFileError(f"{folder}: no pictures in this folder (looked for {kinds})")
