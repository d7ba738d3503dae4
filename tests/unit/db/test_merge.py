"""Invariant 2: whatever the order, the lateness and the repetition of messages, the newest one counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from db.merge import NEVER, ImageChange, ImageState, ProductRemoval, ProductState, merge

Message = ImageChange | ProductRemoval


def change(product_id: str = "a", name: str = "main", version: int = 1) -> ImageChange:
    """A change whose content follows from its version, as one shop's change does."""
    digest = hashlib.sha256(f"{product_id}/{name}/{version}".encode()).digest()
    return ImageChange(
        product_id=product_id,
        name=name,
        content_sha256=digest,
        source=f"{version}.jpg",
        category=None if version % 3 == 0 else f"category {version % 2}",
        attributes={"price": version // 2},
        version=version,
    )


def removal(product_id: str = "a", version: int = 1) -> ProductRemoval:
    """A removal."""
    return ProductRemoval(product_id, version)


def merged(before: dict[str, ProductState], messages: Sequence[Message]) -> dict[str, ProductState]:
    """The state after one chunk."""
    changes = [each for each in messages if isinstance(each, ImageChange)]
    removals = [each for each in messages if isinstance(each, ProductRemoval)]
    return merge(before, changes, removals).products


def newest(messages: Sequence[Message]) -> dict[str, ProductState]:
    """What the newest messages describe, from all of them at once: the specification."""
    states = {}
    for product_id in {each.product_id for each in messages}:
        mine = [each for each in messages if each.product_id == product_id]
        changes = sorted(
            (each for each in mine if isinstance(each, ImageChange)), key=lambda m: m.version
        )
        removals = [each.version for each in mine if isinstance(each, ProductRemoval)]
        states[product_id] = ProductState(
            category=changes[-1].category if changes else None,
            attributes=changes[-1].attributes if changes else {},
            version=changes[-1].version if changes else NEVER,
            removed_version=max(removals, default=NEVER),
            images={m.name: ImageState(m.content_sha256, m.source, m.version) for m in changes},
        )
    return states


versions = st.integers(0, 6)
product_ids = st.sampled_from(["a", "b", "ü😀"])
messages = st.lists(
    st.builds(change, product_ids, st.sampled_from(["main", "back"]), versions)
    | st.builds(removal, product_ids, versions),
    max_size=12,
)


@given(messages, st.data())
def test_any_order_repetition_and_chunking_gives_what_the_newest_messages_say(
    sent: list[Message], data: st.DataObject
) -> None:
    repeated = data.draw(st.lists(st.sampled_from(sent), max_size=6)) if sent else []
    arrived = data.draw(st.permutations(sent + repeated))
    state: dict[str, ProductState] = {}
    while arrived:
        size = data.draw(st.integers(1, len(arrived)))
        state |= merged(state, arrived[:size])
        arrived = arrived[size:]
    assert state == newest(sent)


@given(messages)
def test_a_second_time_changes_nothing_and_counts_as_superseded(sent: list[Message]) -> None:
    state = merged({}, sent)
    changes = [each for each in sent if isinstance(each, ImageChange)]
    removals = [each for each in sent if isinstance(each, ProductRemoval)]
    again = merge(state, changes, removals)
    assert again.products == state
    assert (again.applied, again.superseded) == (0, len(sent))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.data())
def test_what_is_said_twice_under_one_version_ends_the_same_in_any_order(
    variants: list[int], data: st.DataObject
) -> None:
    said = [
        replace(
            change(version=1),
            content_sha256=bytes([variant % 2]) * 32,
            category=f"category {variant // 2}" if variant else None,
            attributes={"variant": variant},
        )
        for variant in variants
    ]
    assert merged({}, data.draw(st.permutations(said))) == merged({}, said)


def test_a_picture_is_live_only_above_the_removal() -> None:
    state = merged({}, [change(version=5), removal(version=5)])["a"]
    assert not state.is_live(state.images["main"])
    state = merged({"a": state}, [change(version=6)])["a"]
    assert state.is_live(state.images["main"])


def test_a_late_picture_of_a_removed_product_counts_as_superseded() -> None:
    result = merge({}, [change(version=5)], [removal(version=9)])
    late = merge(result.products, [change(name="back", version=7)], [])
    assert (late.applied, late.superseded) == (0, 1)


def test_messages_of_one_version_may_bring_several_pictures() -> None:
    state = merged({}, [change(name="main", version=5), change(name="back", version=5)])["a"]
    assert sorted(state.images) == ["back", "main"]
