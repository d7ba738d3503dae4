"""The demo: the main job from end to end, measured, checked and shown."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from producer.broker import celery_app, send
from producer.client import Producer
from producer.errors import LookalikeError
from producer.messages import Reindex
from producer.rows import Row
from producer.settings import ProducerSettings
from worker.demo import catalogue, exhibition, lookups, swaps
from worker.demo.complaints import Complaints
from worker.demo.lookups import Answered, Refused
from worker.demo.show import Show
from worker.demo.stage import machine, stage
from worker.demo.stock import Stock, evenly, own_stock, sample_stock
from worker.demo.summary import Measured, Summary, summarise
from worker.settings import WorkerSettings

LOOKUPS, CHANGES, SWAPS = 200, 10, 2
SUMMARY, PAGE, POSTER, LOGS = "summary.json", "gallery.html", "gallery.png", "logs"
SHOWN = 10


def run_demo(
    out: Path, source: Path | None, settings: WorkerSettings, *, as_json: bool = False
) -> Summary:
    """Run the demo on `source` (a folder, CSV or JSONL), or on the sample that comes with Lookalike.

    Writes summary.json, gallery.html and gallery.png into `out`, made when absent. The service is one of its
    own; model, device and index follow `settings`. With `as_json` the summary is printed as JSON, and what
    is going on to stderr. Raises CatalogueFileError, StartError or LookalikeError when it cannot be run to
    its end; wrong or missing answers are counted in the summary's `errors`.
    """
    show = Show(Console(stderr=as_json, highlight=False))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lookalike-sample-") as folder:
        stock = sample_stock(Path(folder)) if source is None else own_stock(source)
        summary = _perform(out, stock, settings, show)
    if as_json:
        Console().print_json(json.dumps(summary.as_dict()))
    return summary


def _perform(out: Path, stock: Stock, settings: WorkerSettings, show: Show) -> Summary:
    start = time.perf_counter()
    complaints = Complaints()
    show.say(f"Starting the service with {settings.model} …")
    ready: list[str] = []
    with stage(settings, stock.roots, out / LOGS, ready.append) as running:
        show.say(f"Running: {', '.join(ready)}")
        facts = machine(running)
        with Producer(running.producer_settings) as shop:
            rebuild = _rebuilder(running.producer_settings)
            measured = _measure(shop, stock, rebuild, complaints, show)
            shown = exhibition.exhibition(shop, stock, measured.by_picture, measured.by_product)
    summary = summarise(measured, facts, len(complaints.lines), time.perf_counter() - start)
    summary.write(out / SUMMARY)
    page = exhibition.page(shown, summary, settings.model)
    (out / PAGE).write_text(page, encoding="utf-8")
    (out / POSTER).write_bytes(exhibition.paint(shown, summary, settings.model, stock.credit))
    _report(out, summary, complaints, show)
    return summary


def _measure(
    shop: Producer, stock: Stock, rebuild: Callable[[], None], complaints: Complaints, show: Show
) -> Measured:
    added = _fill(shop, stock, show)
    show.say("Building the first index …")
    swaps.build(shop, rebuild)
    counted = shop.status(lookups.TIMEOUT)
    products = _asked(stock, added)
    with show.bar("Looking up products", len(products)) as advance:
        by_product = lookups.by_product(shop, products, complaints, advance)
    by_picture, refused = _ask_unseen(shop, stock, complaints, show)
    refused += [Refused(each.product_id, each.detail) for each in added.refused]
    _judge(refused, stock, complaints, show)
    changing = _changing(stock, by_picture)
    with show.bar("Adding and removing products", len(changing)) as advance:
        changed = catalogue.come_and_go(shop, changing, complaints, advance)
    with show.bar("Swapping the index under lookups", SWAPS) as advance:
        swapped = swaps.swap_while_asking(shop, products, rebuild, complaints, advance, swaps=SWAPS)
    return Measured(
        added=added,
        refused=len(refused),
        by_product=by_product,
        by_picture=by_picture,
        precision=lookups.precision(stock.unseen, by_picture),
        changed=changed,
        swapped=swapped,
        products=counted.products,
        images=counted.images,
        generations=_generations(shop),
    )


def _fill(shop: Producer, stock: Stock, show: Show) -> catalogue.Added:
    with show.bar("Adding pictures", len(stock.rows)) as advance:
        added = catalogue.add(shop, stock.rows, advance)
    if added.applied == 0:
        why = f", the first because {added.refused[0].detail}" if added.refused else ""
        raise LookalikeError(f"none of the pictures could be used{why}")
    return added


def _ask_unseen(
    shop: Producer, stock: Stock, complaints: Complaints, show: Show
) -> tuple[list[Answered], list[Refused]]:
    with show.bar("Looking up unseen pictures", len(stock.unseen)) as advance:
        asked = lookups.by_picture(shop, stock.unseen, complaints, advance)
    answered = [each for each in asked if isinstance(each, Answered)]
    return answered, [each for each in asked if isinstance(each, Refused)]


def _generations(shop: Producer) -> int:
    generation = shop.status(lookups.TIMEOUT).generation
    return generation.number if generation else 0


def _judge(refused: list[Refused], stock: Stock, complaints: Complaints, show: Show) -> None:
    """A shop's own folder may hold pictures that cannot be used; the sample may not."""
    for each in refused if stock.sound else ():
        complaints.add(f"{each.about} was refused: {each.detail}")
    for each in () if stock.sound else refused[:SHOWN]:
        show.say(f"  refused: {each.about}: {each.detail}")
    if not stock.sound and len(refused) > SHOWN:
        show.say(f"  … and {len(refused) - SHOWN} more")


def _changing(stock: Stock, usable: list[Answered]) -> list[Row]:
    able = {answer.about for answer in usable}
    return evenly([row for row in stock.unseen if row.product_id in able], CHANGES)


def _asked(stock: Stock, added: catalogue.Added) -> list[str]:
    """The products that are asked about, spread over the catalogue; none whose picture was refused."""
    refused = {failure.product_id for failure in added.refused}
    products = dict.fromkeys(row.product_id for row in stock.rows)
    return evenly([product for product in products if product not in refused], LOOKUPS)


def _rebuilder(settings: ProducerSettings) -> Callable[[], None]:
    app = celery_app(settings)
    return lambda: send(app, Reindex(reason="the demo asks for it"))


def _report(out: Path, summary: Summary, complaints: Complaints, show: Show) -> None:
    show.console.print()
    show.console.print(summary.table())
    for line in complaints.lines[:SHOWN]:
        show.say(f"  wrong: {line}")
    show.console.print()
    show.say(f"Look at {out / PAGE} or {out / POSTER}; the numbers are in {out / SUMMARY}.")
