"""`evaluate`: how good a model is, and beside another one; the same of two generations of the index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.errors import InvalidRequest
from worker.cli.evaluations import as_json as models_as_json
from worker.cli.evaluations import (
    generations_as_json,
    judgements_as_json,
    show,
    show_generations,
    show_judgements,
)
from worker.cli.progress import meter
from worker.cli.shell import AsJson, catalogue, console, print_json, settings
from worker.training.labelled import Part

if TYPE_CHECKING:
    from worker.evaluation.page import Contrast
    from worker.settings import WorkerSettings

SHOWN = 24
"""Questions on the page of differences."""
GENERATION_QUESTIONS = 1000
FIGURES, PAGE = "evaluation.json", "differences.html"

_STEPS = {
    "rank": "ranking the gallery",
    "read": "index: reading vectors",
    "sort": "index: laying them down",
    "index": "index: building",
    "tune": "index: measuring",
    "check": "index: checking",
}


def evaluate(
    *,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Labelled pictures: a DeepFashion tree, a folder of categories, IDX files, or a CSV."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model, as in LOOKALIKE_MODEL, which is taken if this is not given."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another model to judge beside it, on the same pictures.")
    ] = None,
    part: Annotated[Part, typer.Option(help="The part that is asked about.")] = Part.TEST,
    gallery: Annotated[
        list[Part],
        typer.Option(
            help="A part that is searched, and another; the one that is asked about leaves each picture out "
            "of its own answers."
        ),
    ] = [Part.TRAIN],  # noqa: B006 - typer copies it
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="At most so many pictures of each part, chosen by chance."),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", min=1, max=1000, help="Neighbours that are looked at.")
    ] = 10,
    crop: Annotated[
        bool, typer.Option("--crop", help="Crop to the products' boxes, which DeepFashion has.")
    ] = False,
    generation: Annotated[
        int | None,
        typer.Option(help="A generation of the service's index to judge, instead of a model."),
    ] = None,
    against_generation: Annotated[
        int | None, typer.Option(help="Another generation to judge beside it.")
    ] = None,
    judgements: Annotated[
        bool,
        typer.Option(
            "--judgements",
            help="Judge generations, the current one if none is named, by what people think of matches.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for {FIGURES}, and for {PAGE} when two are compared."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a classifier, what is near in a model's space, and what an index finds: three things apart."""
    found = settings()
    numbers = [each for each in (generation, against_generation) if each is not None]
    of_models = any((data, model, against, crop))
    of_generations = generation is not None or (judgements and not numbers)
    if of_generations is (data is not None) or ((numbers or judgements) and of_models):
        raise InvalidRequest(
            "say which pictures to judge a model by (DATA, with --model and --against), which generation of the "
            "index to judge (--generation, with --against-generation), or --judgements to judge it by"
        )
    if len(set(numbers)) < len(numbers):
        raise InvalidRequest("a generation differs from itself in nothing: name two")
    if data is not None:
        specs = [model or found.model, *([against] if against else [])]
        asked = _Asked(data, part, gallery, limit, k, crop)
        figures, page = _of_models(found, specs, asked, shown=out is not None, quiet=as_json)
    elif judgements:
        figures, page = _by_judgements(found, numbers, k, quiet=as_json), None
    else:
        figures, page = _of_generations(
            found, numbers, k, limit or GENERATION_QUESTIONS, quiet=as_json
        )
    if as_json:
        print_json(figures)
    if out is not None:
        _write(out, figures, page, quiet=as_json)


@dataclass(frozen=True)
class _Asked:
    """What models are judged by."""

    data: Path
    part: Part
    of: Sequence[Part]
    limit: int | None
    k: int
    crop: bool


def _of_models(
    found: WorkerSettings, specs: Sequence[str], asked: _Asked, *, shown: bool, quiet: bool
) -> tuple[dict[str, Any], str | None]:
    """Figures, and where two models are compared and it is to be shown, the page of their differences."""
    from worker.evaluation.evaluation import evaluate as judge
    from worker.evaluation.model import Model
    from worker.evaluation.scope import scope
    from worker.roles import build_settings
    from worker.training.layouts import read

    data = read(asked.data, boxes=asked.crop)
    chosen = scope(data, asked.part, asked.of, asked.limit)
    with ExitStack() as stack:
        models = [stack.enter_context(Model(spec, found)) for spec in specs]
        on_step = stack.enter_context(meter(_STEPS, quiet=quiet))
        build = build_settings(found, force=True)
        evaluation = judge(data, chosen, models, build, k=asked.k, on_step=on_step)
        page = None
        if len(models) == 2 and shown:
            page = _page(evaluation.contrasts(SHOWN, models[0]), specs, evaluation.overlap, asked.k)
    if not quiet:
        show(data, evaluation)
    return models_as_json(data, evaluation), page


def _of_generations(
    found: WorkerSettings, numbers: Sequence[int], k: int, limit: int, *, quiet: bool
) -> tuple[dict[str, Any], str | None]:
    """The same of generations of the service's own index."""
    from worker.evaluation.generations import judge

    with catalogue(found) as database:
        with meter({}, quiet=quiet) as on_step:
            evaluation = judge(database, found.data_dir, numbers, k=k, limit=limit, on_step=on_step)
        page = None
        if len(numbers) == 2:
            names = [f"generation {number}" for number in numbers]
            page = _page(evaluation.contrasts(database, SHOWN), names, evaluation.overlap, k)
    if not quiet:
        show_generations(evaluation)
    return generations_as_json(evaluation), page


def _by_judgements(
    found: WorkerSettings, numbers: Sequence[int], k: int, *, quiet: bool
) -> dict[str, Any]:
    """Figures of generations of the service's own index, by what people think."""
    from worker.evaluation.judgements import judge

    with catalogue(found) as database, meter({}, quiet=quiet) as on_step:
        evaluation = judge(database, found.data_dir, numbers, k=k, on_step=on_step)
    if not quiet:
        show_judgements(evaluation)
    return judgements_as_json(evaluation)


def _page(
    contrasts: Sequence[Contrast], names: Sequence[str], overlap: float | None, k: int
) -> str:
    from worker.evaluation.page import page

    return page(contrasts, (names[0], names[1]), {f"overlap@{k}": f"{overlap:.3f}"})


def _write(out: Path, figures: dict[str, Any], page: str | None, *, quiet: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2, ensure_ascii=False, default=str)
    (out / FIGURES).write_text(text + "\n", encoding="utf-8")
    written = [out / FIGURES]
    if page is not None:
        (out / PAGE).write_text(page, encoding="utf-8")
        written.append(out / PAGE)
    if not quiet:
        console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)
