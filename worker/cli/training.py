"""`train`: from labelled pictures to a model directory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.progress import OnStep, meter
from worker.cli.shell import AsJson, console, print_json, stderr
from worker.embedding.config import EFFICIENTNET_LITE0, RESNETS, TIMM
from worker.embedding.library import DEFAULT_SIZE
from worker.images.decode import Resize
from worker.training import layouts
from worker.training.errors import TrainingError
from worker.training.history import Epoch
from worker.training.labelled import DataSet, Part, Problem, Problems
from worker.training.recipe import BASE_RATE, Augment, Precision, Recipe

if TYPE_CHECKING:
    from worker.training.run import Plan, Trained, Watching

_HEADER = (
    f"{'epoch':>6} {'learns':>7} {'training':>9} {'validation':>11} {'top-1':>7} {'top-3':>7} {'top-5':>7} "
    f"{'seconds':>8}"
)


def train(  # noqa: PLR0917 - a command's options
    data: Annotated[
        Path,
        typer.Argument(
            help="Labelled pictures: a DeepFashion tree, a folder of category sub-folders, a CSV (image, category "
            "[, part, product_id]), or Fashion-MNIST's IDX files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The model directory to make.")],
    arch: Annotated[
        str, typer.Option(help="efficientnet-lite0, a torchvision ResNet, or any name of timm's.")
    ] = "resnet152",
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=1024,
            help="Side of the network's input, pixels; 224, 128 of efficientnet-lite0.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of the whole network.")] = 10,
    frozen_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of the new head alone, before those.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    rate: Annotated[
        float, typer.Option(min=1e-9, help="Highest learning rate of the head; see --find-rate.")
    ] = BASE_RATE,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Only suggest a learning rate, with a picture.")
    ] = False,
    resize: Annotated[
        Resize, typer.Option(help="How pictures become square, here and in the service.")
    ] = "pad",
    crop: Annotated[
        bool, typer.Option("--crop", help="Crop DeepFashion's pictures to the products' boxes.")
    ] = False,
    augment: Annotated[
        Augment, typer.Option(help="full: mirror, turn, zoom, warp and light pictures at random.")
    ] = "full",
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Begin without ImageNet's weights.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="auto: mixed where a GPU has it.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option()] = 0,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many pictures of each part, to try it out."),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Forget an interrupted run instead of going on with it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a network on labelled pictures; the same command goes on after an interruption."""
    recipe = Recipe(
        architecture=_architecture(arch),
        image_size=DEFAULT_SIZE.get(arch, 224) if size is None else size,
        resize=resize,
        crop=crop,
        frozen_epochs=frozen_epochs,
        epochs=epochs,
        batch_size=batch_size,
        rate=rate,
        augment=augment,
        pretrained=not untrained,
        precision=precision,
        seed=seed,
    )
    from worker.embedding.network import device_named

    run = _imported()
    found = layouts.read(data, boxes=crop)
    _show_problems(found, quiet=as_json)
    plan = run.Plan(
        found if limit is None else found.limited(limit), recipe, out, device_named(device)
    )
    run.begin(plan, restart=restart)
    if find_rate:
        _find_rate(plan, as_json=as_json)
    else:
        _train(plan, as_json=as_json)


def _imported() -> ModuleType:
    """What trains: some seconds of importing, and warnings of libraries about each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about each other
        try:
            from worker.training import run
        except ModuleNotFoundError as error:
            raise TrainingError(
                f"training needs {error.name}: pip install -c constraints.txt -e 'worker[train]'"
            ) from None
    return run


def _architecture(name: str) -> str:
    """torchvision's and our own by their names, everything else from timm."""
    known = name == EFFICIENTNET_LITE0 or name in RESNETS or name.startswith(TIMM)
    return name if known else f"{TIMM}{name}"


def _show_problems(data: DataSet, *, quiet: bool) -> None:
    """What is wrong in the data set, by file and line; how much is right."""
    _show(data.problems.lines())
    if not quiet:
        counts = ", ".join(f"{len(data.part(part)):,} {part.value}" for part in Part)
        console.print(f"{len(data.categories)} categories; pictures: {counts}")


def _show(lines: Sequence[str]) -> None:
    for line in lines:
        stderr.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _find_rate(plan: Plan, *, as_json: bool) -> None:
    run = _imported()
    with meter({"decode": "decoding"}, quiet=as_json) as on_step:
        rate, picture = run.find_rate(
            plan, _Shown(on_step, plan.data.problems, quiet=as_json).watching()
        )
    if as_json:
        print_json({"rate": rate, "picture": str(picture)})
    else:
        console.print(f"--rate {rate:.1e} ({picture} shows why)", soft_wrap=True)


def _train(plan: Plan, *, as_json: bool) -> None:
    run = _imported()
    total = plan.recipe.total_epochs
    titles = {f"epoch {number}": f"epoch {number} of {total}" for number in range(1, total + 1)}
    with meter({"decode": "decoding"} | titles, quiet=as_json) as on_step:
        trained = run.train(plan, _Shown(on_step, plan.data.problems, quiet=as_json).watching())
    if as_json:
        print_json(_document(plan, trained))
        return
    last = trained.epochs[-1] if trained.epochs else None
    right = f" top-1 {last.accuracy:.4f} on the validation part." if last else ""
    console.print(
        f"{plan.out}: {trained.source.config.name}, {trained.source.config.digest[:12]}.{right}",
        soft_wrap=True,
    )
    console.print(
        f"The service computes the same vectors as validation did (least cosine {trained.same:.6f})."
    )
    console.print(
        f"Next: lookalike-worker evaluate DATA --model {plan.out}, then lookalike-worker models add {plan.out}",
        soft_wrap=True,
    )


class _Shown:
    """Tells people how far a training is: bars, and a row for each epoch."""

    def __init__(self, on_step: OnStep, problems: Problems, *, quiet: bool) -> None:
        self._on_step = on_step
        self._problems = problems
        self._quiet = quiet
        self._rows = 0

    def watching(self) -> Watching:
        """To give to the training."""
        watching: Watching = _imported().Watching(
            decoding=lambda share: self._on_step("decode", share),
            decoded=lambda: _show(self._problems.lines(Problem.UNDECODABLE)),
            resumed=self._resumed,
            on_batch=lambda epoch, share: self._on_step(f"epoch {epoch}", share),
            on_epoch=self._epoch,
        )
        return watching

    def _resumed(self, epochs: int) -> None:
        self._print(f"going on after epoch {epochs} of an earlier run")

    def _epoch(self, epoch: Epoch) -> None:
        if not self._rows:
            self._print(_HEADER)
        self._rows += 1
        self._print(
            f"{epoch.number:>6} {epoch.phase:>7} {epoch.training_loss:>9.4f} {epoch.validation_loss:>11.4f} "
            f"{epoch.accuracy:>7.4f} {epoch.top_3:>7.4f} {epoch.top_5:>7.4f} {epoch.seconds:>8.1f}"
        )

    def _print(self, line: str) -> None:
        if not self._quiet:
            console.print(line, highlight=False, soft_wrap=True)


def _document(plan: Plan, trained: Trained) -> dict[str, object]:
    return {
        "model": str(plan.out),
        "digest": trained.source.config.digest,
        "least_cosine": trained.same,
        "epochs": [asdict(epoch) for epoch in trained.epochs],
        "problems": {problem.value: count for problem, count in plan.data.problems.counts.items()},
    }
