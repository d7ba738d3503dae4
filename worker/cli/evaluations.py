"""What an evaluation measured, for people and as JSON: three things apart, each with its definition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from producer.cli.terminal import table, visible
from worker.cli.shell import console

if TYPE_CHECKING:
    from worker.evaluation.evaluation import Evaluation, Judged
    from worker.evaluation.generations import GenerationsEvaluation, JudgedGeneration
    from worker.evaluation.indexing import IndexQuality
    from worker.evaluation.judgements import JudgementsEvaluation
    from worker.evaluation.retrieval import Relevance
    from worker.training.labelled import DataSet

CLASSIFIER = (
    "Classifier accuracy: how often the right category is among the 1, 3 or 5 that the network's own classifier "
    "scores highest. Macro is the mean over the categories of their top-1."
)
RETRIEVAL = (
    "Retrieval relevance: whether the nearest pictures, by exact search, are alike: of the same category, or of "
    "the same product. Precision@k is the share of the k nearest that are alike, recall@k the share of all alike "
    "that are among the k nearest, mAP the mean over the questions of the average precision of the whole ranking."
)
INDEX = (
    "Index recall: how many of the true 10 nearest, which exact search finds, the service's index finds, whatever "
    "they show."
)
OVERLAP = "Overlap@k: the share of the k nearest, by exact search, that the two have in common."
JUDGEMENTS = (
    "Judgements: whether what people like is near. A match is liked or disliked by most of its judges. Precision "
    "over judged@k is the share of the judged matches among the k nearest products, by exact search, that are "
    "liked; liked found@k the share of all liked matches that are among them; agreement the share of the pairs of "
    "a liked and a disliked match of the same product in which the liked one is nearer (by chance 0.5)."
)
NONE = "-"

Row = tuple[str, ...]


# -- models, for people ---------------------------------------------------------------------------


def show(data: DataSet, evaluation: Evaluation) -> None:
    """Write what was wrong with the data, and then each of the three, a column for each model."""
    for line in data.problems.lines():
        _line(line)
    _block(CLASSIFIER, "", _names(evaluation, "commonest"), _classifier_rows(evaluation))
    for line in _without_classifier(evaluation):
        _line(line)
    scope = f"Scope: {evaluation.scope.described}."
    _block(RETRIEVAL, scope, _names(evaluation), _retrieval_rows(evaluation))
    found = [each.index for each in evaluation.models]
    _block(INDEX, _asked(found[0]), _names(evaluation), _index_rows(found))
    _show_overlap(evaluation.overlap, evaluation.k)


def _names(evaluation: Evaluation, *others: str) -> tuple[str, ...]:
    return (*(each.spec for each in evaluation.models), *others)


def _classifier_rows(evaluation: Evaluation) -> Iterator[Row]:
    """With a last column for naming the commonest categories of the training part, whatever the picture."""
    found = [each.classifier.accuracy if each.classifier else None for each in evaluation.models]
    columns = [*found, evaluation.commonest]
    for k in evaluation.commonest.top:
        yield (f"top-{k}", *(_share(each.top[k] if each else None) for each in columns))
    yield ("macro", *(_share(each.macro if each else None) for each in columns))


def _without_classifier(evaluation: Evaluation) -> Iterator[str]:
    for each in evaluation.models:
        if each.classifier is None:
            yield f"{each.spec} has no classifier of these categories: `lookalike-worker train` makes one."
        elif each.classifier.skipped:
            yield (
                f"{each.spec} does not know the categories of {each.classifier.skipped:,} pictures, which its "
                "accuracy leaves out."
            )


def _retrieval_rows(evaluation: Evaluation) -> Iterator[Row]:
    yield from _relevance_rows("category", [each.by_category for each in evaluation.models])
    yield from _relevance_rows("product", [each.by_product for each in evaluation.models])


def _relevance_rows(alike: str, columns: Sequence[Relevance | None]) -> Iterator[Row]:
    """Nothing but a dash where nothing is alike, which is so for all models or for none."""
    found = [each for each in columns if each is not None]
    if not found:
        yield (f"by {alike}", *(NONE for _ in columns))
        return
    tops = found[0].precision
    for k in tops:
        yield (f"by {alike}: precision@{k}", *(_share(each.precision[k]) for each in found))
    for k in tops:
        yield (f"by {alike}: recall@{k}", *(_share(each.recall[k]) for each in found))
    yield (f"by {alike}: mAP", *(_share(each.mean_average_precision) for each in found))
    yield (f"by {alike}: questions", *(f"{each.questions:,}" for each in found))


def _index_rows(columns: Sequence[IndexQuality]) -> Iterator[Row]:
    yield ("recall@10", *(_share(each.recall) for each in columns))
    yield ("at least (95 % sure)", *(_share(each.at_least) for each in columns))
    yield ("as its build measured it", *(_share(each.recorded) for each in columns))
    yield ("ms a question", *(f"{each.ms:.2f}" for each in columns))
    yield ("engine", *(each.engine for each in columns))


def _asked(index: IndexQuality) -> str:
    return (
        f"Scope: {index.questions:,} questions to an index of {index.images:,} pictures, built as the service "
        "builds it; the time is the median of one at a time."
    )


# -- generations, for people ----------------------------------------------------------------------


def show_generations(evaluation: GenerationsEvaluation) -> None:
    """Write what was measured, a column for each generation."""
    generations = evaluation.generations
    names = tuple(f"generation {each.number}" for each in generations)
    scope = (
        f"Scope: {len(evaluation.asked):,} pictures that are in all of them; its own product is left out of each "
        "question's answers."
    )
    _block(RETRIEVAL, scope, names, _generation_rows(evaluation))
    found = [each.index for each in generations]
    _block(
        INDEX,
        "Scope: pictures of its own, each left out of its own answers.",
        names,
        _index_rows(found),
    )
    _show_overlap(evaluation.overlap, evaluation.k)


def _generation_rows(evaluation: GenerationsEvaluation) -> Iterator[Row]:
    all_ = evaluation.generations
    yield (f"by category: precision@{evaluation.k}", *(_share(each.precision) for each in all_))
    yield ("products", *(f"{each.products:,}" for each in all_))
    yield ("pictures", *(f"{each.images:,}" for each in all_))
    yield ("revision", *(f"{each.revision:,}" for each in all_))
    yield ("model", *(each.model[:12] for each in all_))


# -- judgements, for people -----------------------------------------------------------------------


def show_judgements(evaluation: JudgementsEvaluation) -> None:
    """Write what was measured, a column for each generation."""
    opinion = evaluation.opinion
    names = tuple(f"generation {each.number}" for each in evaluation.generations)
    scope = (
        f"Scope: {evaluation.liked:,} liked and {evaluation.disliked:,} disliked matches of "
        f"{evaluation.questions:,} products, {evaluation.pairs:,} pairs; of {opinion.judgements:,} judgements by "
        f"{opinion.judges:,} judges. Left out: {opinion.contested:,} matches that as many like as dislike, and "
        f"{evaluation.left_out:,} of products that are not in the catalogue, or not in each generation."
    )
    _block(JUDGEMENTS, scope, names, _judgement_rows(evaluation))


def _judgement_rows(evaluation: JudgementsEvaluation) -> Iterator[Row]:
    all_, k = evaluation.generations, evaluation.k
    yield (f"precision over judged@{k}", *(_share(each.precision) for each in all_))
    yield (f"liked found@{k}", *(_share(each.found) for each in all_))
    yield ("agreement", *(_share(each.agreement) for each in all_))
    yield (f"judged among the {k} nearest", *(f"{each.near:,}" for each in all_))
    yield ("model", *(each.model[:12] for each in all_))


# -- the blocks -----------------------------------------------------------------------------------


def _block(definition: str, scope: str, names: Sequence[str], rows: Iterator[Row]) -> None:
    _line("")
    _line(definition)
    if scope:
        _line(scope)
    console.print(table(("", *names), list(rows), right=names))


def _show_overlap(overlap: float | None, k: int) -> None:
    if overlap is not None:
        _line(OVERLAP)
        _line(f"overlap@{k}: {_share(overlap)}")


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _line(text: str) -> None:
    console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


# -- for machines ---------------------------------------------------------------------------------


def as_json(data: DataSet, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation of models as a JSON object."""
    scope = evaluation.scope
    return {
        "problems": {problem.value: count for problem, count in data.problems.counts.items()},
        "questions": {"part": scope.part.value, "pictures": len(scope.questions)},
        "gallery": {"parts": [each.value for each in scope.of], "pictures": len(scope.gallery)},
        "self_excluded": scope.same,
        "categories": list(scope.categories),
        "k": evaluation.k,
        "commonest": _by_number("top", evaluation.commonest.top)
        | {"macro": evaluation.commonest.macro},
        "models": [_model(each) for each in evaluation.models],
        "overlap": evaluation.overlap,
        "definitions": {
            "classifier": CLASSIFIER, "retrieval": RETRIEVAL, "index": INDEX, "overlap": OVERLAP,
        },
    }  # fmt: skip


def _model(judged: Judged) -> dict[str, Any]:
    classifier = judged.classifier
    return {
        "model": judged.spec,
        "digest": judged.digest,
        "classifier": classifier
        and {
            "pictures": classifier.accuracy.pictures,
            "skipped": classifier.skipped,
            **_by_number("top", classifier.accuracy.top),
            "macro": classifier.accuracy.macro,
        },
        "retrieval": {
            "category": _relevance(judged.by_category),
            "product": _relevance(judged.by_product),
        },
        "index": vars(judged.index),
    }


def _relevance(found: Relevance | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "questions": found.questions,
        "skipped": found.skipped,
        "gallery": found.gallery,
        **_by_number("precision", found.precision),
        **_by_number("recall", found.recall),
        "mean_average_precision": found.mean_average_precision,
    }


def _by_number(name: str, values: dict[int, float]) -> dict[str, float]:
    return {f"{name}_{k}": value for k, value in values.items()}


def generations_as_json(evaluation: GenerationsEvaluation) -> dict[str, Any]:
    """An evaluation of generations as a JSON object."""
    return {
        "questions": len(evaluation.asked),
        "k": evaluation.k,
        "generations": [_generation(each) for each in evaluation.generations],
        "overlap": evaluation.overlap,
        "definitions": {"retrieval": RETRIEVAL, "index": INDEX, "overlap": OVERLAP},
    }


def _generation(judged: JudgedGeneration) -> dict[str, Any]:
    names = ("number", "model", "images", "products", "revision", "precision")
    return {name: getattr(judged, name) for name in names} | {"index": vars(judged.index)}


def judgements_as_json(evaluation: JudgementsEvaluation) -> dict[str, Any]:
    """An evaluation by judgements as a JSON object."""
    opinion = evaluation.opinion
    counts = ("k", "questions", "liked", "disliked", "pairs", "left_out")
    return {
        "judgements": opinion.judgements,
        "judges": opinion.judges,
        "contested": opinion.contested,
        **{name: getattr(evaluation, name) for name in counts},
        "generations": [vars(each) for each in evaluation.generations],
        "definitions": {"judgements": JUDGEMENTS},
    }
