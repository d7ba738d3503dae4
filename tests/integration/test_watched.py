"""Every process of a running service tells what Prometheus and orchestrators ask, and it is true."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import prometheus_client.openmetrics.parser as openmetrics
import prometheus_client.parser as prometheus
import pytest
from prometheus_client import Metric
from pydantic import SecretStr

from db.session import Database
from migrations import upgrade
from producer import PictureRejected, Producer
from producer.messages import SearchPath
from producer.settings import ProducerSettings
from tests.faults.hive import GROUP, Hive, HiveWorker
from tests.http import gateway
from tests.promql import THEIRS, exposed, expressions, names_in
from tests.services import RedisServer, free_port, start_valkey
from tests.stack import picture, save_picture, stack_settings
from worker.settings import WorkerSettings

PRODUCTS = 24
WAIT = 60.0
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}

Labels = tuple[tuple[str, str], ...]


@dataclass
class Watched:
    """A running service, each process on a metrics port of its own."""

    folder: Path
    server: RedisServer
    settings: WorkerSettings
    hive: Hive
    ports: dict[str, int] = field(default_factory=dict)
    workers: dict[str, HiveWorker] = field(default_factory=dict)

    def start(self, role: str, *, stuck_after: float = 600.0, **options: Any) -> HiveWorker:
        """Start a process."""
        self.ports[role] = free_port()
        settings = self.settings.with_(metrics_port=self.ports[role], stuck_after=stuck_after)
        self.workers[role] = self.hive.start(role, settings, **options)
        return self.workers[role]

    def ask(self, role: str, path: str, **headers: str) -> httpx.Response:
        """What a process says."""
        url = f"http://127.0.0.1:{self.ports[role]}/{path}"
        return httpx.get(url, timeout=30, headers=headers)

    def figures(self, role: str) -> Figures:
        """What a process counts."""
        return Figures.of(self.ask(role, "metrics").text)


@dataclass(frozen=True)
class Figures:
    """Samples of one process."""

    values: dict[str, dict[Labels, float]]

    @classmethod
    def of(cls, text: str) -> Figures:
        """From what it exposes."""
        values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in prometheus.text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return cls(values)

    def get(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        wanted = set(labels.items())
        return sum(v for of, v in self.values[name].items() if wanted <= set(of))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    server = start_valkey(folder=folder)
    settings = stack_settings(
        folder / "data",
        redis_url=SecretStr(server.url),
        image_roots=(folder,),
        recall_sample=0.01,
    )
    upgrade(database := Database(settings.database))
    database.close()
    with Hive(folder / "logs") as hive:
        watched = Watched(folder, server, settings, hive)
        hive.wait_ready([watched.start(role) for role in GROUP])
        yield watched
    server.stop()


@pytest.fixture(scope="module")
def used(service: Watched) -> Watched:
    """The service, after a shop has used it."""
    with Producer(ProducerSettings(redis_url=service.settings.redis_url)) as shop:
        rows = [
            {"product_id": f"p{seed}", "image": save_picture(service.folder / f"{seed}.jpg", seed)}
            for seed in range(PRODUCTS)
        ]
        broken = service.folder / "broken.jpg"
        broken.write_bytes(b"no picture")
        shop.wait_for(shop.add_many([*rows, {"product_id": "broken", "image": broken}]))
        until(lambda: service.figures("search").get("lookalike_view_generation") == 1)
        until(lambda: service.figures("query").get("lookalike_view_generation") == 1)
        for seed in range(5):
            shop.find_similar(f"p{seed}").result(WAIT)
        shop.find_similar(["p1", "p2"]).result(WAIT)
        shop.find_similar_many(["p1", "p2", "p3"]).result(WAIT)
        shop.find_similar(image=picture(3)).result(WAIT)
        with pytest.raises(PictureRejected):
            shop.find_similar(image=b"no picture").result(WAIT)
        shop.status(WAIT)
        shop.wait_for(shop.remove("p0"))
    return service


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- figures --------------------------------------------------------------------------------------


def test_ingest_is_timed_and_counted(used: Watched) -> None:
    figures = used.figures("embed")
    for stage in ("fetch", "decode", "wait", "model", "commit"):
        assert figures.get("lookalike_stage_seconds_count", stage=stage) >= 1, stage
    assert figures.get("lookalike_stage_seconds_count", stage="fetch") == PRODUCTS + 1
    assert figures.get("lookalike_batch_pictures_sum") == PRODUCTS
    assert figures.get("lookalike_items_applied_total", kind="add") == PRODUCTS
    assert figures.get("lookalike_committed_seconds_count") == PRODUCTS
    assert figures.get("lookalike_items_given_up_total", reason="unsupported_format") == 1
    assert figures.get("lookalike_network_loaded") == 1
    assert used.figures("index").get("lookalike_items_applied_total", kind="remove") == 1


def test_lookups_are_timed_and_counted_by_kind_and_path(used: Watched) -> None:
    search, query = used.figures("search"), used.figures("query")
    count = "lookalike_lookup_seconds_count"
    assert search.get(count, kind="product") == 5
    paths = {dict(of)["path"] for of in search.values[count] if dict(of)["kind"] == "product"}
    assert paths <= set(get_args(SearchPath))
    assert (search.get(count, kind="taste"), search.get(count, kind="batch")) == (1, 1)
    assert search.get("lookalike_lookup_queued_seconds_count") == 7
    assert query.get(count, kind="picture") == 1
    assert query.get("lookalike_lookup_failures_total", reason="unsupported_format") == 1
    assert query.get("lookalike_stage_seconds_count", stage="model") == 1
    assert search.get("lookalike_match_distance_count", rank="1") == 8
    assert 0 < search.get("lookalike_match_distance_sum", rank="10") / 8 < 2
    assert used.figures("index").get("lookalike_question_seconds_count", question="status") == 1


def test_lookups_are_answered_once_more_exactly(used: Watched) -> None:
    until(lambda: used.figures("search").get("lookalike_sampled_recall_ratio_count") >= 1)
    figures = used.figures("search")
    count = figures.get("lookalike_sampled_recall_ratio_count")
    assert figures.get("lookalike_sampled_recall_ratio_sum") >= 0.9 * count
    assert figures.get("lookalike_recall_target_ratio") == 0.98


def test_it_is_measured_when_products_are_found(used: Watched) -> None:
    for role in ("search", "query"):
        until(lambda role=role: used.figures(role).get("lookalike_searchable_seconds_count") >= 1)  # type: ignore[misc]
        assert used.figures(role).get("lookalike_searchable_seconds_sum") > 0


def test_the_index_worker_knows_the_whole_service(used: Watched) -> None:
    until(lambda: used.figures("index").get("lookalike_products") == PRODUCTS - 1)
    figures = used.figures("index")
    assert figures.get("lookalike_redis_up") == figures.get("lookalike_database_up") == 1
    for role in GROUP:
        assert figures.get("lookalike_workers", role=role) == 1, role
    queues = {dict(of)["queue"] for of in figures.values["lookalike_queue_waiting_messages"]}
    assert queues == {"ingest", "query", "lookup", "index", "control"}
    assert figures.get("lookalike_dead_letters", reason="unsupported_format") == 1
    assert figures.get("lookalike_ledger_jobs") == 0
    assert figures.get("lookalike_index_generation") == 1
    assert figures.get("lookalike_index_images") == PRODUCTS
    assert figures.get("lookalike_index_recall_ratio") > 0.9
    assert 0 < figures.get("lookalike_index_age_seconds") < 600
    assert figures.get("lookalike_pending_changes") == 1
    assert figures.get("lookalike_rebuild_seconds_count", outcome="built") == 1
    assert figures.get("lookalike_model_info", state="active") == 1
    assert figures.get("lookalike_redis_memory_bytes") > 0
    revision = figures.get("lookalike_revision")
    until(lambda: used.figures("search").get("lookalike_view_revision") == revision)


@pytest.mark.parametrize("role", GROUP)
def test_figures_are_what_prometheus_reads(used: Watched, role: str) -> None:
    plain, strict = used.ask(role, "metrics"), used.ask(role, "metrics", **OPENMETRICS)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert strict.headers["content-type"].startswith("application/openmetrics-text")
    families: list[Metric] = list(openmetrics.text_string_to_metric_families(strict.text))  # type: ignore[no-untyped-call]
    assert all(family.documentation for family in families if family.name.startswith("lookalike"))
    assert Figures.of(plain.text).get("lookalike_build_info", role=role) == 1
    assert Figures.of(plain.text).get("process_resident_memory_bytes") > 1e6
    assert_approved(plain.text)


def assert_approved(text: str) -> None:
    """By Prometheus's own tool, where it is installed; the Python client's parsers have judged it before."""
    if (tool := shutil.which("promtool")) is not None:
        done = subprocess.run(
            [tool, "check", "metrics"],
            input=text, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_alerts_and_dashboard_ask_for_is_there(
    used: Watched, tmp_path: Path
) -> None:
    port = free_port()
    with gateway(used.server.url, tmp_path, metrics_port=port):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        there = exposed(text)
    assert_approved(text)
    for role in GROUP:
        there |= exposed(used.ask(role, "metrics").text)
    asked = list(expressions())
    assert len(asked) > 50
    missing = {
        name: place for place, expression in asked for name in names_in(expression) - there - THEIRS
    }
    assert set(missing) <= {"lookalike_rollout_images"}, (
        missing
    )  # there only while there is a rollout


# -- health ---------------------------------------------------------------------------------------


def test_each_process_is_alive_and_ready(used: Watched) -> None:
    for role in GROUP:
        live, ready = used.ask(role, "live"), used.ask(role, "ready")
        assert (live.status_code, live.json()["complaints"]) == (200, []), role
        assert (ready.status_code, ready.json()["state"]) == (200, "consuming"), role
        assert ready.json()["redis"] == "ok"
        assert ready.json().get("catalogue", "ok") == "ok"


def test_a_stuck_process_is_told_from_an_idle_one(used: Watched) -> None:
    used.workers["embed"].terminate()  # its place is taken by one whose network does not end
    used.workers["embed"].wait()
    hung = {"before": "tests.faults.hooks:hung", "arguments": {"seconds": 120.0}}
    stuck = used.start("embed", stuck_after=0.5, **hung)
    used.hive.wait_ready([stuck])
    assert used.ask("embed", "live").json()["state"] == "idle"
    with Producer(ProducerSettings(redis_url=used.settings.redis_url)) as shop:
        shop.add("late", save_picture(used.folder / "late.jpg", 99))
    until(lambda: used.ask("embed", "live").status_code == 503)
    said = used.ask("embed", "live").json()
    assert said["state"] == "stuck"
    assert said["working_on"][0]["task"] == "lookalike.ingest"
    assert "LOOKALIKE_STUCK_AFTER" in said["complaints"][0]
    assert used.figures("embed").get("lookalike_stuck") == 1
    assert used.figures("embed").get("lookalike_working_seconds", task="ingest") > 0.5
    assert used.ask("search", "live").status_code == 200
    assert used.figures("search").get("lookalike_stuck") == 0
