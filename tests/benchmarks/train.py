"""Fine-tuning on Fashion-MNIST, by the commands that people type, and what it does for retrieval."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.report import Report, Row, arguments, workspace
from worker.demo.make_sample import SOURCE

TITLE = "Fine-tuning on Fashion-MNIST, beside ImageNet's weights alone"
MINUTES, TOP_1, PRECISION = 30.0, 0.92, 0.90
ARCHITECTURE, SIDE = "efficientnet-lite0", 64
RECIPE = ("--frozen-epochs", "1", "--epochs", "5", "--rate", "8e-3", "--augment", "mirror")
QUICK = ("--frozen-epochs", "0", "--epochs", "1", "--limit", "128", "--batch-size", "32")


def worker(*words: str) -> Any:
    """Run `lookalike-worker` with `--json`, and read what it says."""
    code = "from worker.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def measure(report: Report, data: Path, folder: Path) -> None:
    """Train, then judge both on the 10,000 pictures of the test part against the 60,000 others."""
    side = 32 if report.quick else SIDE
    options = QUICK if report.quick else RECIPE
    model = folder / "model"
    named = ("--arch", ARCHITECTURE, "--size", str(side), "--out", str(model))
    trained = worker("train", str(data), *named, *options)
    seconds = sum(epoch["seconds"] for epoch in trained["epochs"])
    report.table("epochs", trained["epochs"])
    report.add("training", seconds / 60, "min", at_most=MINUTES)
    limit = ("--limit", "128") if report.quick else ()
    judged = worker(
        *("evaluate", str(data), "--model", str(model), "--against", f"{ARCHITECTURE}:{side}"),
        *("--gallery", "train", "--gallery", "val", *limit),
    )
    tuned, plain = judged["models"]
    report.table("of unseen pictures", [_row("fine-tuned", tuned), _row("ImageNet alone", plain)])
    report.add("top-1", tuned["classifier"]["top_1"], at_least=TOP_1)
    report.add("precision@10 by category", _precision(tuned), at_least=PRECISION)
    report.add("precision@10, ImageNet's weights alone", _precision(plain))
    same = "least cosine of validation's vectors and the service's"
    report.add(same, trained["least_cosine"], at_least=0.9999)


def _precision(judged: dict[str, Any]) -> float:
    return float(judged["retrieval"]["category"]["precision_10"])


def _row(name: str, judged: dict[str, Any]) -> Row:
    classifier, relevance = judged["classifier"] or {}, judged["retrieval"]["category"]
    names = ("top_1", "top_3", "top_5", "macro")
    shown = ("precision_1", "precision_10", "recall_10", "mean_average_precision")
    return {
        "network": name,
        **{each: classifier.get(each) for each in names},
        **{each: relevance[each] for each in shown},
        "index recall@10": judged["index"]["recall"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = arguments(TITLE)
    parser.add_argument("--data", type=Path, default=SOURCE, help="folder of the four IDX files")
    options = parser.parse_args(argv)
    if not options.data.is_dir():
        sys.stderr.write(
            f"error: no folder {options.data}: sudo apt install dataset-fashion-mnist\n"
        )
        return 1
    report = Report("train", TITLE, options.out, options.quick)
    with workspace(options.out) as folder:
        measure(report, options.data, folder)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
