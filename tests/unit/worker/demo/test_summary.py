"""The summary: its keys, its table, and the progress that leads to it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from producer.gallery import Exhibit
from producer.recording import RecordingProducer
from tests.unit.worker.demo.factories import match, reply
from worker.demo.catalogue import Added, Changed
from worker.demo.exhibition import exhibition, page, paint
from worker.demo.lookups import Answered, Precision
from worker.demo.show import Show
from worker.demo.stage import Machine
from worker.demo.stock import sample_stock
from worker.demo.summary import Measured, Summary, summarise
from worker.demo.swaps import Swapped
from worker.demo.timing import Spread, percentile


def summary(precision: Precision | None = None, refused: int = 0) -> Summary:
    asked = [Answered("a", reply(match("b", "dress")), 4.0)]
    measured = Measured(
        added=Added(1000, (), 5.0),
        refused=refused,
        by_product=asked * 3,
        by_picture=asked * 2,
        precision=precision,
        changed=Changed((80.0, 90.0), (10.0,)),
        swapped=Swapped((1, 2), (5.0, 6.0)),
        products=1000,
        images=1000,
        generations=3,
    )
    return summarise(measured, Machine(2, "3.12.1", "cpu"), 0, 61.23)


def text_of(drawn: object, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(drawn)
    return out.getvalue()


def test_the_file_holds_what_was_promised(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary(Precision(0.726, {"dress": 0.726})).write(path)
    kept = json.loads(path.read_text())
    assert kept["products"] == kept["images"] == 1000
    assert kept["images_per_second"] == 200.0
    assert kept["lookups"] == 3 + 2 + 2
    assert kept["lookup_by_product_ms"] == {"count": 3, "p50": 4.0, "p95": 4.0, "max": 4.0}
    assert kept["precision_at_10"] == 0.726
    assert kept["freshness_ms"]["p50"] == 85.0
    assert kept["removal_ms"]["max"] == 10.0
    assert (kept["generations"], kept["errors"], kept["seconds"]) == (3, 0, 61.2)
    assert kept["machine"] == {"cores": 2, "python": "3.12.1", "device": "cpu"}


def test_the_table_fits_a_terminal() -> None:
    shown = text_of(summary(Precision(0.726, {"dress": 0.726}), refused=2).table(), width=80)
    assert "precision@10" in shown
    assert "2 refused" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert len(shown.splitlines()) == 10


def test_what_was_not_measured_is_not_shown() -> None:
    assert "precision" not in text_of(summary().table())
    assert json.loads(json.dumps(summary().as_dict()))["precision_at_10"] is None


def test_nothing_measured_is_no_number() -> None:
    assert Spread.of([]) == Spread(0, None, None, None)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_lie_among_the_values_and_grow(values: list[float], share: float) -> None:
    assert min(values) <= percentile(values, share) <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 1) == max(values)
    assert percentile(values, share / 2) <= percentile(values, share) + 1e-6


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(terminal: bool) -> None:
    out = io.StringIO()
    show = Show(Console(file=out, force_terminal=terminal, width=100))
    with show.bar("Adding [b]pictures[/b]", 100) as advance:
        for done in range(0, 101, 10):
            advance(done)
    text = out.getvalue()
    assert ("\x1b[" in text) == terminal
    assert "Adding [b]pictures[/b]" in text
    if not terminal:
        assert text.splitlines()[-1].endswith("100 of 100")
        assert len(text.splitlines()) == 4


def test_the_page_and_the_poster_show_unseen_products_of_every_category(tmp_path: Path) -> None:
    stock = sample_stock(tmp_path)
    found = reply(match(stock.rows[0].product_id, stock.rows[0].category), match("elsewhere"))
    by_picture = [Answered(row.product_id, found, 1.0) for row in stock.unseen]
    shown = exhibition(RecordingProducer(), stock, by_picture, [])
    assert len({exhibit.category for exhibit in shown.exhibits}) == 10
    assert set(shown.pictures) == {(stock.rows[0].product_id, "main")}
    html = page(shown, summary(Precision(0.726, {})), "net:128")
    assert html.count("<section>") == 10
    assert "0.73" in html
    assert paint(shown, summary(), "net:128", stock.credit).startswith(b"\x89PNG")


def test_a_catalogue_without_unseen_pictures_shows_lookups_by_product(tmp_path: Path) -> None:
    stock = sample_stock(tmp_path)
    asked = stock.rows[0].product_id
    shown = exhibition(RecordingProducer(), stock, [], [Answered(asked, reply(), 1.0)])
    assert shown.exhibits == (
        Exhibit(reply(), asked, stock.picture(asked), stock.rows[0].category),
    )
    assert "products of the catalogue" in page(shown, summary(), "net:128")
