"""A row: what a shop says of one picture of one product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from pydantic import JsonValue, ValidationError

from producer import checks
from producer.errors import InvalidRequest
from producer.messages import ImageItem
from producer.pictures import PictureSource, to_ref

COLUMNS = ("product_id", "image", "name", "category", "version", "attributes")
"""What a row has; a mapping's other keys are attributes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of one product, as `add_many` takes it.

    `image` is a path, an http(s) address, bytes or an open file. `version` orders the changes of a product;
    the time of the call is used when there is none.
    """

    product_id: str
    image: PictureSource
    name: str = "main"
    category: str | None = None
    attributes: Mapping[str, JsonValue | Decimal] = field(default_factory=dict)
    version: int | None = None

    @classmethod
    def of(cls, value: Row | Mapping[str, Any]) -> Row:
        """A row as it is, or from a mapping whose keys are those of a row or attributes."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequest(
                f"a row must be a Row or a mapping with product_id and image, not {type(value).__name__}"
            )
        absent = [column for column in COLUMNS[:2] if value.get(column) is None]
        if absent:
            raise InvalidRequest(
                f"{' and '.join(absent)} missing: a row needs product_id and image"
            )
        if not isinstance(value.get("attributes") or {}, Mapping):
            raise InvalidRequest("attributes: must be a mapping of names to values")
        attributes = {key: each for key, each in value.items() if key not in COLUMNS}
        return cls(
            product_id=value["product_id"],
            image=value["image"],
            name=value["name"] if value.get("name") is not None else "main",
            category=value.get("category"),
            attributes=attributes | dict(value.get("attributes") or {}),
            version=value.get("version"),
        )

    def item(self, version: int) -> tuple[ImageItem, bytes | None]:
        """The row as a message says it, and the bytes to go beside it; InvalidRequest if it is wrong."""
        ref, data = to_ref(self.image)
        try:
            item = ImageItem(
                product_id=self.product_id,
                name=self.name,
                image=ref,
                category=self.category,
                attributes=cast("dict[str, JsonValue]", plain(self.attributes)),
                version=version if self.version is None else self.version,
            )
        except ValidationError as error:
            checks.product_id(self.product_id)  # says it better
            raise InvalidRequest(_no_attribute(error) or checks.explain(error)) from None
        return item, data


def plain(attributes: Mapping[str, object]) -> dict[str, object]:
    """Attributes as JSON knows them: sets and tuples as lists, decimals as floats, no absent values."""
    return {
        key: [number(each) for each in cast("Iterable[object]", value)]
        if isinstance(value, list | tuple | set | frozenset)
        else number(value)
        for key, value in attributes.items()
        if value is not None
    }


def number(value: object) -> object:
    """A decimal as a float, which JSON knows; anything else as it is."""
    if isinstance(value, Decimal):
        return math.nan if value.is_nan() else float(value)  # a signalling NaN has no float
    return value


def _no_attribute(error: ValidationError) -> str | None:
    """What to pass instead of an attribute's value that JSON does not know, if that is the problem."""
    problem = error.errors(include_url=False, include_context=False)[0]
    if problem["type"] != "invalid-json-value" or problem["loc"][0] != "attributes":
        return None
    return (
        f"attribute {problem['loc'][1]!r} is a {type(problem['input']).__name__}: pass a string, number or "
        "boolean, or a list of them"
    )
