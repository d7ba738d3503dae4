"""The crash points are found where they are, so that none can be added without being tried."""

from __future__ import annotations

import ast
import textwrap

import pytest

from tests.faults.crash_points import Crash, Point, Visitor, Visits, armed, here, points
from tests.faults.episodes_process import PROCESSES


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("with self._database.writing() as session: pass", "commit"),
        ("session.commit()", "commit"),
        ("send(app, job)", "publish"),
        ("self.send(job)", "publish"),
        ("task.apply_async()", "publish"),
        ("os.fsync(file)", "fsync"),
        ("durable.write(path, data)", "fsync"),
        ("durable.sync_folder(path)", "fsync"),
        ("directory.rename(target)", "rename"),
        ("os.replace(part, path)", "rename"),
        ("part.replace(path)", "rename"),
    ],
)
def test_a_new_one_is_noticed(line: str, name: str) -> None:
    source = f"class Thing:\n    def work(self):\n        {line}\n"
    visitor = Visitor("worker.new")
    visitor.visit(ast.parse(source))
    assert visitor.names == {f"{name} in worker.new.Thing.work"}


def test_what_only_looks_like_one_is_none() -> None:
    source = """
    def work(text):
        text.replace("a", "b")
        replace(state, failures=1)
        path.write("x")
        later = lambda: send(job)
        async def answer(scope, receive, send):
            await send({"type": "http.response.start"})
        self._clear(now)
    """
    visitor = Visitor("worker.new")
    visitor.visit(ast.parse(textwrap.dedent(source)))
    assert visitor.names == set()


def test_every_kind_is_known() -> None:
    kinds = {point.name.partition(" in ")[0] for point in points()}
    assert kinds == {"commit", "publish", "acknowledge", "ledger", "fsync", "rename"}


def test_a_frame_of_no_product_has_no_name() -> None:
    assert here("commit") is None


def test_visits_are_counted_and_nothing_stays_in_the_way() -> None:
    import os

    before = os.fsync
    with armed() as visits:
        assert os.fsync is not before
        visits.come_to("commit in worker.new.work", after=False)
    assert visits.seen == {Point("commit in worker.new.work", after=False): 1}
    assert os.fsync is before


def test_only_its_visit_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: deaths.append((pid, number)))
    point = Point("commit in worker.new.work", after=True)
    visits = Visits(Crash(point, visit=2))
    for _ in range(3):
        visits.come_to(point.name, after=False)
        visits.come_to(point.name, after=True)
    assert len(deaths) == 1


def test_episodes_have_names_of_their_own() -> None:
    names = [episode.name for episode in PROCESSES]
    assert len(names) == len(set(names))
