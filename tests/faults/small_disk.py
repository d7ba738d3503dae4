"""Builds on a disk of two megabytes that others fill meanwhile: a tmpfs that nobody but this process sees."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.errors import DatabaseUnavailable
from db.session import Database
from tests.faults.index_builders import attempt
from tests.faults.index_site import Site, index_preferred, site
from tests.services import DatabaseFactory
from worker.index.builder import STEPS

RUN = "tests.faults.small_disk:run"
SIZE, ROOM_FOR_CATALOGUE, INODES = 2 << 20, 8 << 20, 150
PRODUCTS = 400
NEEDED = {"": (190_000, 20), "begun": (180_000, 18), "read": (165_000, 17), "sorted": (120_000, 6)}
"""Bytes that a build takes from a step on, and files and folders that it makes."""
LITTLE = (9_000, 2)
"""The same from later steps on."""
SHORT_LEASE, PATIENCE = 1.0, 10.0
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def run(folder: str, seed: str, trials: int, same_disk: bool) -> dict[str, object]:
    """Fill the disk in so many builds; `same_disk` has the catalogue there too. Gives `broken`, or `skipped`."""
    chance = random.Random(seed)
    disk = Path(folder) / "disk"
    disk.mkdir(parents=True)
    try:
        _mount(disk, SIZE + same_disk * ROOM_FOR_CATALOGUE)
    except OSError as error:
        return {"skipped": f"no mounts here: {error.strerror}"}
    with (
        _catalogue(Path(folder), disk if same_disk else None) as url,
        index_preferred(),
        site(url, disk / "data", chance, PRODUCTS) as of,
    ):
        tried = Disk(disk, of, Path(folder) / "answer", chance, same_disk)
        broken = [each for number in range(trials) for each in tried.trial(number)]
        broken += tried.recover()
    return {"broken": broken, "failed": tried.failed, "built": tried.built}


@contextmanager
def _catalogue(folder: Path, disk: Path | None) -> Iterator[str]:
    """URL of a migrated catalogue in the folder, or on the disk."""
    with DatabaseFactory("sqlite", folder).migrated() as url:
        if disk is None:
            yield url
        else:
            shutil.copy(url.removeprefix("sqlite:///"), disk / "catalogue.db")
            yield f"sqlite:///{disk}/catalogue.db"


def _mount(disk: Path, size: int) -> None:
    """Mount a tmpfs in a namespace of our own, which ends with us."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},nr_inodes={INODES}".encode()
    calls: list[tuple[Any, tuple[object, ...]]] = [
        (libc.unshare, (_CLONE_NEWNS,)),
        (libc.mount, (b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)),
        (libc.mount, (b"tmpfs", str(disk).encode(), b"tmpfs", 0, options)),
    ]
    for call, arguments in calls:
        if call(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@dataclass
class Disk:
    """The disk, and what is built on it."""

    path: Path
    site: Site
    answer: Path
    chance: random.Random
    same_disk: bool
    failed: int = 0
    built: int = 0

    def trial(self, number: int) -> Iterator[str]:
        """Fill it in the middle of a build, and look while it is full; every now and then build with space."""
        if number % 4 == 0:
            yield from self.recover()
        self.site.change()
        step, fill, left = self._moment(number)
        result = self._build_while(step, fill)
        when = f"{left} left from {step or 'the start'!r} on"
        yield from (f"{when}: {each}" for each in self._judge(result))
        yield from (f"{when}: {each}" for each in self._while_full())
        self._empty()
        yield from (f"{when}, afterwards: {each}" for each in self.site.problems())

    def _moment(self, number: int) -> tuple[str, Callable[[], None], str]:
        """From when on how little is left. The first time, too little for the note of who has verified it."""
        if number == 0:
            return "renamed", lambda: self._use_up_space(0), "0 bytes"
        step = self.chance.choice((*NEEDED, *STEPS[:-1]))
        most, most_files = NEEDED.get(step, LITTLE)
        if self.chance.random() < 0.3:
            files = self.chance.randrange(most_files)
            return step, lambda: self._use_up_inodes(files), f"{files} files"
        size = self.chance.randrange(most)
        return step, lambda: self._use_up_space(size), f"{size} bytes"

    def _build_while(self, step: str, fill: Callable[[], None]) -> dict[str, object]:
        if not step:
            fill()
        filled = {step} if step else set[str]()

        def checkpoint(name: str) -> None:
            if name in filled:
                fill()

        return self._built(checkpoint)

    def _judge(self, result: dict[str, object]) -> Iterator[str]:
        said = str(result.get("failed"))
        if result.get("built") is not None:
            self.built += 1
        elif "LOOKALIKE_DATA_DIR" in said or (self.same_disk and _is_of_the_catalogue(result)):
            self.failed += 1
        else:
            yield f"the builder ended with {result}"

    def _while_full(self) -> Iterator[str]:
        yield from self.site.problems()
        if (
            not self.same_disk
        ):  # a publication that could not be committed may leave its files to the next build
            yield from self.site.litter()

    def recover(self) -> Iterator[str]:
        """With space again, the next build succeeds and removes what is left."""
        result = self._built(lambda _: None)
        if result.get("built") is None:
            yield f"with space again: {result}"
        yield from self.site.problems()
        yield from self.site.litter()

    # -- building, in a fork ----------------------------------------------------------------------

    def _built(self, checkpoint: Callable[[str], None]) -> dict[str, object]:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                self.answer.write_text(json.dumps(self._attempt(checkpoint)))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            return {"exit code": code}
        answer: dict[str, object] = json.loads(self.answer.read_text())
        return answer

    def _attempt(self, checkpoint: Callable[[str], None]) -> dict[str, object]:
        database = Database(self.site.database_url)
        try:
            # Whose lease could not be given back, for want of space, has it run out.
            return attempt(database, self.site.data_dir, checkpoint, SHORT_LEASE, PATIENCE)
        except DatabaseUnavailable as error:
            return {"built": None, "failed": str(error)}
        finally:
            database.close()

    # -- the others that use the disk -------------------------------------------------------------

    @property
    def _others(self) -> Path:
        return self.path / "others"

    def _use_up_space(self, left: int) -> None:
        self._others.mkdir(exist_ok=True)
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_bsize
        with (self._others / "large").open("wb") as file:
            if free > left:
                os.posix_fallocate(file.fileno(), 0, free - left)

    def _use_up_inodes(self, left: int) -> None:
        self._others.mkdir(exist_ok=True)
        for number in range(os.statvfs(self.path).f_ffree - left):
            (self._others / str(number)).touch()

    def _empty(self) -> None:
        for path in self._others.iterdir() if self._others.exists() else ():
            path.unlink()


def _is_of_the_catalogue(result: dict[str, object]) -> bool:
    """Whether the catalogue had no space: for the lease, which then runs out, or for anything else."""
    return "superseded" in result or "LOOKALIKE_DATABASE_URL" in str(result.get("failed"))
