"""Going over to another model: when it becomes the active one, by what generation, and what an operator may do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from db.queries import catalogue, generations, models
from db.session import Database
from producer.messages import PathImage, PictureLookup, Reply, Selection
from producer.reasons import Reason
from tests.faults.episodes_process import CONFIG
from tests.integration.test_worker_cli import Terminal
from tests.integration.two_models import NEW, OLD, Network, TwoModels, as_embedder, stored
from tests.unit.worker.index.factories import QUICK, build
from worker import rollout, shelf
from worker import serving as serving_module
from worker.audit.auditor import Auditor
from worker.backfill import Backfill
from worker.desk import Unanswerable
from worker.embedding import library
from worker.embedding.errors import ModelError, ModelUnavailable
from worker.errors import DeviceFailed, RolloutRefused, StartError
from worker.index.errors import BuildSuperseded
from worker.index.follower import Follower
from worker.index.rebuild import RebuildLimits, due, read_state, rebuild
from worker.index.rollback import rollback
from worker.lookup import Answerer
from worker.picture_answerer import PictureAnswerer
from worker.serving import Serving
from worker.settings import WorkerSettings

KEEP = replace(QUICK, keep=5)
LIMITS = RebuildLimits(max_age=timedelta(hours=1), max_pending=1000)


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations are not tried in a process of their own, which has its own tests and takes a second each."""
    monkeypatch.setattr("worker.index.builder.check_in_child", lambda *_: None)


@pytest.fixture
def two(database: Database) -> TwoModels:
    """60 products of the old model, on one database and then on the other."""
    return filled(database)


@pytest.fixture
def one(sqlite_database: Database) -> TwoModels:
    """The same on SQLite, for what does not depend on the kind."""
    return filled(sqlite_database)


def filled(database: Database) -> TwoModels:
    """With 60 products of the old model."""
    found = TwoModels(database)
    for number in range(60):
        found.add(f"p{number}")
    return found


def active(database: Database) -> str:
    """Digest of the active model; the current generation must be of it."""
    with database.reading() as session:
        serving, current = models.serving(session), generations.current(session)
    assert serving.active is not None
    assert current is None or current.model_digest == serving.active.digest
    return serving.active.digest


def why(database: Database, data_dir: Path) -> str | None:
    """Why the index is to be rebuilt."""
    return due(read_state(database, data_dir), LIMITS, datetime.now(UTC))


# -- the switch -----------------------------------------------------------------------------------


def test_it_becomes_active_with_its_generation_once_it_has_every_picture(
    two: TwoModels, data_dir: Path
) -> None:
    build(two.database, data_dir, KEEP)
    two.begin()
    assert why(two.database, data_dir) is None
    assert build(two.database, data_dir, KEEP).number == 2
    assert active(two.database) == OLD, "pictures are missing: the old model's index is rebuilt"
    two.backfill().work()
    said = why(two.database, data_dir)
    assert said is not None
    assert "embedded by new" in said
    follower = Follower(two.database, data_dir)
    assert follower.refresh().model_digest == OLD
    build(two.database, data_dir, KEEP)
    assert active(two.database) == NEW
    assert why(two.database, data_dir) is None
    view = follower.refresh()
    assert (view.model_digest, view.number, view.pending) == (NEW, 3, 0)
    with two.database.reading() as session:
        (_, new) = models.listed(session)
    assert new.comparison is not None
    assert (new.comparison["before"], new.comparison["after"]) == (2, 3)
    assert 0 <= new.comparison["overlap"] < 0.6
    assert new.comparison["category_after"] == 1.0, "there is one category"


def test_pictures_that_are_given_up_are_waited_for_unless_told_otherwise(
    two: TwoModels, data_dir: Path
) -> None:
    build(two.database, data_dir, KEEP)
    two.begin()
    del two.files["/p7"]
    two.backfill().work()
    assert why(two.database, data_dir) is None
    build(two.database, data_dir, KEEP)
    assert active(two.database) == OLD
    two.begin(without_missing=True)
    assert why(two.database, data_dir)
    assert build(two.database, data_dir, KEEP).images == 59
    assert active(two.database) == NEW


def test_a_picture_that_comes_under_the_old_model_during_the_build_is_found_in_the_end(
    two: TwoModels, data_dir: Path
) -> None:
    """By a worker that has not noticed yet that another model is coming in."""
    build(two.database, data_dir, KEEP)
    two.begin()
    process = two.backfill()
    process.work()
    follower = Follower(two.database, data_dir)

    def meanwhile(step: str) -> None:
        if step == "read":
            two.add("late")

    build(two.database, data_dir, KEEP, checkpoint=meanwhile)
    assert active(two.database) == NEW
    assert len(ids(two, follower)) == 60
    process.serving.look()
    process.work()
    assert two.embedded() == {f"p{n}" for n in range(60)} | {"late"}
    assert len(ids(two, follower)) == 61
    report = Auditor(two.database, data_dir, overlay_limit=1000).audit()
    assert report.findings == ()


def ids(two: TwoModels, follower: Follower) -> list[int]:
    """Keys of the pictures that a view can find."""
    view = follower.refresh()
    with two.database.reading() as session:
        live = catalogue.live_images(session, [each[1:] for each in two.files])
    keys = [pk for product in live.values() for pk in product.image_pks]
    return [pk for pk, there in zip(keys, view.vectors_of(keys)[1].tolist(), strict=True) if there]


def test_a_rollout_that_is_cancelled_during_the_build_is_not_published(
    one: TwoModels, data_dir: Path
) -> None:
    build(one.database, data_dir, KEEP)
    one.begin()
    one.backfill().work()

    def meanwhile(step: str) -> None:
        if step == "checked":
            rollout.cancel(one.database)

    with pytest.raises(BuildSuperseded, match="not rolled out any more"):
        build(one.database, data_dir, KEEP, checkpoint=meanwhile)
    assert active(one.database) == OLD
    assert len(list(data_dir.glob("generation-*"))) == 1


def test_a_pinned_generation_is_replaced_by_a_rollout(one: TwoModels, data_dir: Path) -> None:
    for _ in range(2):
        build(one.database, data_dir, KEEP)
    rollback(one.database, data_dir)
    assert rebuild(one.database, data_dir, KEEP) is None
    rollout.activate(one.database, "new")
    assert rebuild(one.database, data_dir, KEEP) is None
    one.backfill().work()
    assert why(one.database, data_dir)
    build(one.database, data_dir, KEEP)
    assert active(one.database) == NEW


def test_back_and_forth_leaves_nothing_out(two: TwoModels, data_dir: Path) -> None:
    build(two.database, data_dir, KEEP)
    two.begin()
    process = two.backfill()
    process.work()
    build(two.database, data_dir, KEEP)
    with two.database.writing() as session:  # a picture that only the new model has
        two.files["/b"] = b"/b"
        change = catalogue.ImageChange(
            "b", "main", stored(b"/b", NEW).content_sha256, "/b", "c", {}, 1
        )
        catalogue.add_embeddings(session, two.new.pk, [stored(b"/b", NEW)])
        catalogue.apply(session, [change], [])
    follower = Follower(two.database, data_dir)
    assert len(ids(two, follower)) == 61
    rollback(two.database, data_dir)
    assert active(two.database) == OLD
    assert len(ids(two, follower)) == 60
    process.serving.look()
    process.work()
    assert len(ids(two, follower)) == 61
    assert Auditor(two.database, data_dir, overlay_limit=1000).audit().findings == ()


def test_an_audit_in_the_middle_of_a_rollout_finds_nothing(one: TwoModels, data_dir: Path) -> None:
    build(one.database, data_dir, KEEP)
    one.begin()
    with one.database.writing() as session:
        catalogue.add_embeddings(session, one.new.pk, [stored(b"/p1", NEW)])
    assert Auditor(one.database, data_dir, overlay_limit=1000).audit().findings == ()


# -- an operator ----------------------------------------------------------------------------------


def test_an_empty_catalogue_goes_over_at_once(database: Database) -> None:
    two = TwoModels(database)
    assert rollout.activate(database, NEW[:8]).at_once
    assert active(database) == NEW
    assert rollout.activate(database, NEW[:8]).at_once
    two.add("a")
    assert not rollout.activate(database, "old").at_once


def test_one_rollout_at_a_time(two: TwoModels) -> None:
    with two.database.writing() as session:
        models.register(session, "f" * 64, "third", 4, {})
    assert not rollout.activate(two.database, "new").at_once
    rollout.activate(two.database, "new", without_missing=True)
    with pytest.raises(RolloutRefused, match="models cancel"):
        rollout.activate(two.database, "third")
    cancelled = rollout.cancel(two.database)
    assert cancelled is not None
    assert cancelled.name == "new"
    assert rollout.cancel(two.database) is None
    rollout.activate(two.database, "third")
    with two.database.reading() as session:
        serving = models.serving(session)
    assert serving.incoming is not None
    assert (serving.incoming.name, serving.without_missing) == ("third", False)


@pytest.mark.parametrize(("which", "said"), [("eee", "no model"), ("nobody", "no model")])
def test_a_model_is_named_by_its_name_or_the_beginning_of_its_digest(
    two: TwoModels, which: str, said: str
) -> None:
    with pytest.raises(RolloutRefused, match=said):
        rollout.activate(two.database, which)


def test_a_name_that_two_models_have_is_not_enough(two: TwoModels) -> None:
    with two.database.writing() as session:
        models.register(session, "f" * 64, "new", 4, {})
    with pytest.raises(RolloutRefused, match="not one model"):
        rollout.activate(two.database, "new")
    rollout.activate(two.database, "ffff")


def test_a_retired_model_leaves_nothing_behind(two: TwoModels, data_dir: Path) -> None:
    build(two.database, data_dir, KEEP)
    two.begin()
    with pytest.raises(RolloutRefused, match="incoming"):
        rollout.retire(two.database, data_dir, "new")
    two.backfill().work()
    build(two.database, data_dir, KEEP)
    with pytest.raises(RolloutRefused, match="active"):
        rollout.retire(two.database, data_dir, "new")
    follower = Follower(two.database, data_dir)
    follower.refresh()
    done = rollout.retire(two.database, data_dir, "old")
    assert (done.vectors, len(done.generations), done.held) == (60, 1, ())
    assert [path.name[:19] for path in data_dir.glob("generation-*")] == ["generation-00000002"]
    assert len(ids(two, follower)) == 60
    with pytest.raises(RolloutRefused, match="models add"):
        rollout.activate(two.database, "old")
    assert Auditor(two.database, data_dir, overlay_limit=1000).audit().findings == ()


def test_a_generation_that_is_open_is_deleted_later(one: TwoModels, data_dir: Path) -> None:
    build(one.database, data_dir, KEEP)
    follower = Follower(one.database, data_dir)
    view = follower.refresh()
    one.begin()
    one.backfill().work()
    build(one.database, data_dir, KEEP)
    assert len(rollout.retire(one.database, data_dir, "old").held) == 1
    del view
    follower.refresh()
    again = rollout.retire(one.database, data_dir, "old")
    assert (again.vectors, len(again.generations)) == (0, 1)


# -- files ----------------------------------------------------------------------------------------


def saved(folder: Path) -> str:
    """A model directory."""
    library.save(CONFIG, {"w": np.zeros(4, np.float32)}, folder)
    return str(folder)


def test_a_models_files_are_copied_and_found_again(
    sqlite_database: Database, data_dir: Path, tmp_path: Path
) -> None:
    TwoModels(sqlite_database)
    spec = saved(tmp_path / "mine")
    for _ in range(2):  # on the next host, or once more on this one
        model = rollout.add(sqlite_database, data_dir, spec)
    settings = WorkerSettings(data_dir=data_dir, model=spec)
    assert shelf.find(settings, model).weights.parent == data_dir / "models" / model.digest
    with pytest.raises(StartError, match="models add"):
        shelf.beside_the_active(
            settings.with_(model=saved(tmp_path / "unknown") and "efficientnet-lite0:64"),
            sqlite_database,
        )
    said = shelf.beside_the_active(settings, sqlite_database)
    assert said is not None
    assert "old (dddddddddddd), serves" in said


def test_a_model_that_is_not_on_this_host(sqlite_database: Database, data_dir: Path) -> None:
    two = TwoModels(sqlite_database)
    settings = WorkerSettings(data_dir=data_dir, model="efficientnet-lite0:64")
    with pytest.raises(ModelUnavailable, match="models add"):
        shelf.find(settings, two.old)


def test_a_damaged_copy_is_not_taken(
    sqlite_database: Database, data_dir: Path, tmp_path: Path
) -> None:
    TwoModels(sqlite_database)
    spec = saved(tmp_path / "mine")
    model = rollout.add(sqlite_database, data_dir, spec)
    (data_dir / "models" / model.digest / library.WEIGHTS).write_bytes(b"other")
    settings = WorkerSettings(data_dir=data_dir)
    assert shelf.find(settings, model).weights.parent == tmp_path / "mine", (
        "where it was added from"
    )


# -- networks -------------------------------------------------------------------------------------


def test_the_incoming_network_is_there_before_the_switch(one: TwoModels) -> None:
    serving = one.serving()
    assert set(one.networks) == {OLD}
    one.begin()
    serving.look()
    with serving.present() as present:
        assert present.active.model == one.old
        assert [each.model for each in present.beside] == [one.new]
    with one.database.writing() as session:
        models.activate(session, one.new.pk)
    serving.look()
    with serving.present() as present:
        assert (present.active.model, present.incoming) == (one.new, None)
        assert [each.model for each in present.beside] == [one.old], "a process may answer by it"


def test_a_network_that_nobody_needs_is_let_go(
    one: TwoModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.begin()
    serving = one.serving()
    rollout.cancel(one.database)
    monkeypatch.setattr(serving_module, "LINGER", -1.0)
    with serving.of(NEW):
        serving.look()
        assert not one.networks[NEW].closed, "it is in use"
    serving.look()
    assert one.networks[NEW].closed
    with serving.of(NEW) as again:
        assert again.model == one.new, "a question that needs it all the same"
    serving.stop()
    assert one.networks[OLD].closed


def test_an_incoming_network_that_cannot_be_loaded_stops_nothing(
    one: TwoModels, caplog: pytest.LogCaptureFixture
) -> None:
    def load(model: models.ModelVersion) -> object:
        if model == one.new:
            raise ModelError("its files are not here")
        return one.load(model)

    one.begin()
    serving = Serving(one.database, load)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        serving.start()
    assert "its files are not here" in caplog.text
    with serving.present() as present:
        assert (present.active.model, present.incoming, present.beside) == (one.old, None, [])
    with one.database.writing() as session:
        models.activate(session, one.new.pk)
    serving.look()
    with pytest.raises(DeviceFailed, match="not here"), serving.present():
        pass
    serving.stop()
    with pytest.raises(ModelError, match="not here"):
        Serving(one.database, load).start()  # type: ignore[arg-type]


def question() -> PictureLookup:
    """What looks like the picture of p1?"""
    return PictureLookup(
        id="0" * 36, expires_at=1e12, images=(PathImage(path="/p1"),), selection=Selection(limit=1)
    )


def test_a_picture_is_embedded_by_the_model_of_the_index_that_answers(
    one: TwoModels, data_dir: Path
) -> None:
    build(one.database, data_dir, KEEP)
    one.begin()
    one.backfill().work()
    serving = one.serving()
    asker = PictureAnswerer(Answerer(one.database, Follower(one.database, data_dir)), serving)
    swaps = [lambda: build(one.database, data_dir, KEEP)]

    class Swapping(Network):
        """Another index comes in while this one embeds."""

        def embed_picture(self, image: object) -> object:  # type: ignore[override]
            while swaps:
                swaps.pop()()
            return super().embed_picture(image)  # type: ignore[arg-type]

    serving._loaded[one.old.pk].embedder = as_embedder(Swapping(OLD))
    reply = asker.answer(question())
    assert isinstance(reply, Reply)
    assert (reply.model_version, reply.matches[0].product_id) == (NEW, "p1")
    assert reply.matches[0].distance == pytest.approx(0, abs=1e-2)


def test_a_model_whose_network_is_nowhere_is_told_to_whoever_asks(
    one: TwoModels, data_dir: Path
) -> None:
    def load(_: models.ModelVersion) -> object:
        raise ModelError("its files are not here")

    serving = Serving(one.database, load)  # type: ignore[arg-type]
    asker = PictureAnswerer(Answerer(one.database, Follower(one.database, data_dir)), serving)
    with pytest.raises(Unanswerable) as error:
        asker.answer(question())
    assert (error.value.reason, error.value.detail) == (
        Reason.UNAVAILABLE,
        "its files are not here",
    )


def test_following_goes_on_by_itself(one: TwoModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "EVERY", 0.01)
    serving = Serving(one.database, one.load)
    serving.start()
    one.begin()
    until = time.monotonic() + 10.0
    while NEW not in one.networks:
        assert time.monotonic() < until
        time.sleep(0.01)
    serving.stop()


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def terminal(
    one: TwoModels,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    """One that finds this catalogue."""
    url = one.database._url.render_as_string(hide_password=False)
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", url)
    monkeypatch.setenv("LOOKALIKE_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal(monkeypatch, capsys)


def test_the_commands(one: TwoModels, data_dir: Path, terminal: Terminal, tmp_path: Path) -> None:
    build(one.database, data_dir, KEEP)
    added = terminal.json("models", "add", saved(tmp_path / "mine"))
    assert added["name"] == CONFIG.name
    assert terminal.run("models", "activate", "new", "--no-wait") == 0
    assert "models list" in terminal.words
    assert terminal.run("models") == 0
    assert "incoming" in terminal.out
    assert "0/60" in terminal.out
    assert terminal.run("models", "activate", added["digest"]) == 1
    assert "models cancel" in terminal.err
    assert terminal.json("models", "cancel")["name"] == "new"
    assert terminal.run("models", "cancel") == 0
    del one.files["/p7"]
    one.begin()
    one.backfill().work()
    found = {each["name"]: each for each in terminal.json("models", "list")}
    assert (found["new"]["embedded"], found["new"]["given_up"]) == (59, {"not_found": 1})
    one.begin(without_missing=True)
    build(one.database, data_dir, KEEP)
    assert terminal.run("models", "activate", "new") == 0
    assert "new (eeeeeeeeeeee) is active. Of the ten nearest" in terminal.words
    assert terminal.run("rollback") == 0
    assert "It is of another model, dddddddddddd" in terminal.words
    assert terminal.run("models", "retire", "new") == 0
    assert "59 vectors and 1 generation of the index" in terminal.words


@pytest.fixture
def worker(one: TwoModels, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that embeds, and looks more often than it would."""
    monkeypatch.setattr(serving_module, "EVERY", 0.02)
    monkeypatch.setattr("worker.backfill.EVERY", 0.02)
    monkeypatch.setattr("worker.cli.models.POLL", 0.02)
    serving = Serving(one.database, one.load)
    serving.start()
    process = Backfill(one.database, serving, one.fetch, ThreadPoolExecutor(2))
    process.start()
    yield
    process.stop()
    serving.stop()


@pytest.mark.usefixtures("worker")
def test_activating_says_what_blocks_it(one: TwoModels, terminal: Terminal) -> None:
    del one.files["/p7"]
    assert terminal.run("models", "activate", "new") == 1
    assert "1 not_found" in terminal.err
    assert "--without-missing" in terminal.err
    assert terminal.json("models")[1]["state"] == "incoming"


@pytest.mark.usefixtures("worker")
def test_activating_waits_until_it_is_active(
    one: TwoModels, data_dir: Path, terminal: Terminal
) -> None:
    build(one.database, data_dir, KEEP)
    over = threading.Event()

    def builder() -> None:
        while not over.wait(0.05):
            if read_state(one.database, data_dir).ready:
                build(one.database, data_dir, KEEP)

    thread = threading.Thread(target=builder)
    thread.start()
    code = terminal.run("models", "activate", "new")
    over.set()
    thread.join()
    assert code == 0
    assert "embedded" in terminal.err
    assert active(one.database) == NEW


@pytest.mark.usefixtures("worker")
def test_activating_notices_that_it_was_cancelled(
    one: TwoModels, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def cancelled(*_: object) -> None:
        looks.append(1)
        if len(looks) == 3:
            rollout.cancel(one.database)

    monkeypatch.setattr("worker.cli.models._said", lambda *_: "")
    monkeypatch.setattr("worker.cli.models._Lines.__call__", cancelled)
    assert terminal.run("models", "activate", "new") == 1
    assert "it was cancelled" in terminal.err
