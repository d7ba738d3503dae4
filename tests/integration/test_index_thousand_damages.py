"""A thousand damaged generations, opened in a process of its own: none is accepted, and none ends the process."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from db.queries import generations
from db.session import Database
from tests.services import DatabaseFactory
from tests.unit.worker.index.factories import QUICK, Shop, build
from worker.index.engines import EngineName

SEED, DAMAGES = 11, 1000
PRODUCTS = 300
NODE = 16 + 4 * 8
"""Bytes of a node of the trees: its header and a vector of width 8."""
CHILD = """
import json, sys
from pathlib import Path
from db.session import Database
from tests.unit.worker.index.factories import answerer, question
from worker.index.errors import GenerationRefused
from worker.index.generation import Expected, Generation
import logging; logging.disable()
database = Database(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    if "data_dir" in asked:
        reply = answerer(database, Path(asked["data_dir"])).by_products(question("p5", limit=5)).replies[0]
        said = [reply.generation, [match.product_id for match in reply.matches]]
    else:
        try:
            Generation.open(Path(asked["directory"]), Expected(*asked["expected"]))
            said = "accepted"
        except GenerationRefused as error:
            said = type(error).__name__
    print(json.dumps(said), flush=True)
"""


@dataclass(frozen=True)
class Whole:
    """A generation that nothing is wrong with, and another one of the same catalogue."""

    directory: Path
    other: Path
    expected: tuple[int, str, str]
    """Number, model and digest of the manifest, as SQL has them."""

    @property
    def files(self) -> list[str]:
        """What can be damaged, its lock aside."""
        return sorted(path.name for path in self.directory.iterdir() if path.name != "lock")


# -- damages: each gets a copy whose files it may write to, and may change what SQL says --------------

Damage = Callable[[Path, Whole, random.Random], tuple[object, ...]]


def _some(copy: Path, whole: Whole, chance: random.Random) -> Path:
    """A file that has something in it, its own copy and no link to the whole one."""
    names = [n for n in whole.files if not n.startswith("verified-") and (copy / n).stat().st_size]
    return _own(copy / chance.choice(names))


def _own(path: Path) -> Path:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def cut(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    path = _some(copy, whole, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))
    return whole.expected


def cut_at_a_node(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    name = "tree.ann" if "tree.ann" in whole.files else "vectors.f16"
    path = _own(copy / name)
    nodes = path.stat().st_size // NODE
    os.truncate(path, NODE * chance.randrange(nodes))
    return whole.expected


def flip(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    path = _some(copy, whole, chance)
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return whole.expected


def zero_a_page(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    path = _some(copy, whole, chance)
    data = bytearray(path.read_bytes())
    start = chance.randrange(0, len(data), 4096)
    before = bytes(data)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    if bytes(data) == before:
        data[start] ^= 1
    path.write_bytes(data)
    return whole.expected


def lengthen(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    with _some(copy, whole, chance).open("ab") as file:
        file.write(chance.randbytes(chance.choice([1, 4, NODE, 4096])))
    return whole.expected


def lose(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    _some(copy, whole, chance).unlink()
    return whole.expected


def replace_by_another_kind(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    path = _some(copy, whole, chance)
    path.unlink()
    kind = chance.randrange(4)
    if kind == 0:
        path.symlink_to(
            whole.directory / path.name
        ) if path.name != "manifest.json" else path.mkdir()
    elif kind == 1:
        path.mkdir()
    elif kind == 2 and path.name != "manifest.json":
        os.mkfifo(path)
    else:
        path.symlink_to("/nowhere")
    return whole.expected


def exchange(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    """A file of another generation of the same catalogue."""
    path = _some(copy, whole, chance)
    theirs = (whole.other / path.name).read_bytes()
    path.write_bytes(theirs if theirs != path.read_bytes() else theirs + b"\0")
    return whole.expected


def after_it_was_opened(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    """The note of this host says that all is well; then a byte changes, and no time or size tells."""
    from worker.index.generation import Expected, Generation

    for name in whole.files:
        _own(copy / name)
    Generation.open(copy, Expected(*whole.expected))
    path = copy / chance.choice(["vectors.f16", "slot_product.npy", "rotation.npy"])
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(chance.randrange(before.st_size))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return whole.expected


def retell(copy: Path, whole: Whole, chance: random.Random) -> tuple[object, ...]:
    """A manifest that says something else; SQL's digest tells, and where it is not known the files do."""
    path = _own(copy / "manifest.json")
    told = json.loads(path.read_text())
    what = chance.randrange(9)
    if what == 0:
        told["dimension"] += chance.choice([-1, 1, 16])
    elif what == 1:
        told["metric"] = "angular"
    elif what == 2:
        told["model_digest"] = "0" * 64
    elif what == 3:
        told["format"] = chance.choice([1, 3])
    elif what == 4:
        told["images"] += chance.choice([-1, 1])
    elif what == 5:
        told["parameters"]["reduced"] += chance.choice([-1, 1])
    elif what == 6:
        name = chance.choice(sorted(told["files"]))
        told["files"][name]["sha256"] = "0" * 64
    elif what == 7:
        del told["files"][chance.choice(sorted(told["files"]))]
    else:
        told["number"] += 1
    path.write_text(json.dumps(told))
    number, model, digest = whole.expected
    return (number, model, chance.choice([digest, None]))


KINDS: list[Damage] = [
    cut,
    cut_at_a_node,
    flip,
    zero_a_page,
    lengthen,
    lose,
    replace_by_another_kind,
    exchange,
    after_it_was_opened,
    retell,
]


# -- the process that opens them ----------------------------------------------------------------------


class Opener:
    """Opens generations and answers lookups in a process of its own."""

    def __init__(self, url: str) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        )  # fmt: skip

    def ask(self, **asked: object) -> object:
        """What it says; fails when it died of the question."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait()} over {asked}"
        return json.loads(line)

    def lookup(self, data_dir: Path) -> tuple[object, list[str]]:
        """Which generation answers, and what."""
        said = self.ask(data_dir=data_dir)
        assert isinstance(said, list)
        return said[0], said[1]

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture
def catalogue_url(sqlite_databases: DatabaseFactory) -> Iterator[str]:
    with sqlite_databases.migrated() as url:
        yield url


def said_of(outcomes: Counter[tuple[str, str]]) -> Counter[str]:
    """How often each thing was said."""
    said: Counter[str] = Counter()
    for (_, what), count in outcomes.items():
        said[what] += count
    return said


def _copied(whole: Whole, target: Path) -> Path:
    """The same files, without reading them."""
    target.mkdir()
    for path in whole.directory.iterdir():
        os.link(path, target / path.name)
    return target


@pytest.mark.parametrize("engine", ["annoy", "exact", "faiss"])
def test_none_is_accepted_and_none_is_fatal(
    catalogue_url: str, data_dir: Path, tmp_path: Path, engine: EngineName
) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss")
    database = Database(catalogue_url)
    shop = Shop(database)
    shop.fill(PRODUCTS)
    numbers = []
    for price in (1, 2):
        shop.add("p0", shop.items["p0"].pictures["main"], attributes={"price": price, "new": "x"})
        shop.add(f"new{price}", shop.items["p1"].pictures["main"])
        numbers.append(build(database, data_dir, replace(QUICK, engine=engine)).number)
    with database.reading() as session:
        rows = [generations.get(session, number) for number in numbers]
    database.close()
    before, row = rows
    assert before is not None
    assert row is not None
    current = data_dir / row.directory
    whole = Whole(
        current, data_dir / before.directory, (row.number, row.model_digest, row.manifest_sha256)
    )
    opener, chance = Opener(catalogue_url), random.Random(SEED)
    assert opener.ask(directory=whole.directory, expected=whole.expected) == "accepted"
    truth = [product for product, _ in shop.nearest("p5", 5)]
    outcomes: Counter[tuple[str, str]] = Counter()
    for number in range(DAMAGES // 3 + 1):
        damage = KINDS[number % len(KINDS)]
        damaged = _copied(whole, tmp_path / "damaged")
        expected = damage(damaged, whole, chance)
        said = opener.ask(directory=damaged, expected=expected)
        outcomes[damage.__name__, str(said)] += 1
        if number % 25 == 0 and expected == whole.expected:
            aside = current.rename(tmp_path / "aside")
            damaged.rename(current)
            generation, found = opener.lookup(data_dir)
            assert generation == before.number, damage.__name__
            assert found == truth
            shutil.rmtree(current)
            aside.rename(current)
        shutil.rmtree(damaged, ignore_errors=True)
    generation, found = opener.lookup(data_dir)
    assert (generation, found) == (row.number, truth)
    opener.close()
    print(f"\n{engine}: {outcomes.total()} damages, {dict(said_of(outcomes))}")
    accepted = [kind for kind, said in outcomes if said == "accepted"]
    assert not accepted
