"""`make faults`: try to break every promise, print a line for each, exit 1 if one was broken."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.promise import Promise, Scale, Shown
from tests.faults.promises import PROMISES

OUT = Path("bench-out/faults.json")


def main() -> None:
    """Run the promises named, or all, in the long form unless told otherwise."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="promises to try; all, if none is named")
    parser.add_argument("--short", action="store_true", help="the form that `make test` runs")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    known = {promise.name: promise for promise in PROMISES}
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no such promise: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in arguments.names or known]
    scale = Scale(short=arguments.short, seed=arguments.seed)
    results = {promise.name: _run(promise, scale) for promise in chosen}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(
        json.dumps({"short": scale.short, "seed": scale.seed, "promises": results}, indent=2)
    )
    sys.exit(any(result["broken"] for result in results.values()))


def _run(promise: Promise, scale: Scale) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="lookalike-faults-"))
    began = time.monotonic()
    try:
        shown = promise.show(scale, folder)
    except Exception as error:  # the others are still worth trying
        shown = Shown("did not end", (f"{type(error).__name__}: {error}",))
    seconds = time.monotonic() - began
    _print(promise, shown, seconds)
    if not shown.broken:  # the logs of a broken one are worth reading
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"  its files are in {folder}")
    return {
        "promise": promise.text,
        "figure": shown.figure,
        "broken": list(shown.broken),
        "seconds": round(seconds, 1),
        **shown.details,
    }


def _print(promise: Promise, shown: Shown, seconds: float) -> None:
    mark = "BROKEN" if shown.broken else "kept"
    print(f"{mark:6}  {promise.name:14} {shown.figure}  ({seconds:.0f} s)", flush=True)
    for each in shown.broken[:20]:
        print(f"        - {each}", flush=True)


if __name__ == "__main__":
    main()
