"""What operators' tools read: it is well-formed, it fits together, and every alert tells what to do."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from producer import keys
from producer.messages import Queue
from tests.promql import ALERTS, ROOT, alerts, dashboards, expressions, names_in
from tests.unit.test_compose import services
from worker.app import worker_app
from worker.lookout import FIRST_PORT, NAMES
from worker.settings import WorkerSettings

MONITORING = ROOT / "monitoring"
CASES = Path(__file__).with_name("alerts_test.yml")
ROLES = {"embed", "query", "search", "index", "beat", "gateway"}


def promtool(*arguments: object) -> str:
    """What Prometheus's own tool says of a file; it must be content."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run(
        [tool, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up == 0", {"up"}),
        ('sum by (le, kind) (rate(a_bucket{kind!="b{c"}[5m]))', {"a_bucket"}),
        ("histogram_quantile(0.95, sum(rate(a_bucket[$__rate_interval])) by (le)) > 1e3", {"a_bucket"}),
        ("a - b offset 1h and on (x, y) max(c) or vector(0)", {"a", "b", "c"}),
        ("a / ignoring (b) group_left (c) d > bool 0", {"a", "d"}),
        ("changes(max(a)[1m:15s]) unless absent(b:c)", {"a", "b:c"}),
        ('label_replace(a, "b", "$1", "c", "(.*)")', {"a"}),
    ],
)  # fmt: skip
def test_names_are_found_in_expressions(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


# -- alerts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook"}
    assert len(said["summary"]) < 100 < len(said["description"])
    file, _, anchor = said["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)$", (ROOT / file).read_text(), re.M)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings


def test_no_alert_is_told_of_that_there_is_not() -> None:
    told = re.findall(r"^### (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.M)
    assert Counter(told) == Counter(rule["alert"] for rule in alerts())


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    cases = Counter(each["name"] for each in yaml.safe_load(CASES.read_text())["tests"])
    for rule in alerts():
        assert cases[f"{rule['alert']} fires"]
        assert cases[f"{rule['alert']} does not fire"]
    promtool("test", "rules", CASES)


# -- what is scraped ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-up.yml"])
def test_what_prometheus_reads_is_valid(name: str) -> None:
    promtool("check", "config", MONITORING / name)


def test_all_processes_of_one_machine_are_scraped() -> None:
    (job,) = yaml.safe_load((MONITORING / "prometheus-up.yml").read_text())["scrape_configs"]
    found = {each["labels"]["role"]: each["targets"] for each in job["static_configs"]}
    assert found == {name: [f"127.0.0.1:{FIRST_PORT + place}"] for place, name in enumerate(NAMES)}


def test_all_services_of_compose_are_scraped_where_they_serve() -> None:
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    everything = services()
    roles = set()
    for job in jobs:
        (found,) = job["dns_sd_configs"]
        (relabelled,) = job["relabel_configs"]
        roles.add(relabelled["replacement"])
        for name in found["names"]:
            environment = everything[name]["environment"]
            assert environment["LOOKALIKE_METRICS_PORT"] == str(found["port"])
            assert environment["LOOKALIKE_METRICS_HOST"] == "0.0.0.0"
    assert roles == ROLES
    assert {name for job in jobs for name in job["dns_sd_configs"][0]["names"]} >= {
        name
        for name, each in everything.items()
        if "LOOKALIKE_METRICS_PORT" in each.get("environment", {}) and name != "migrate"
    }


# -- the dashboard --------------------------------------------------------------------------------


def test_a_dashboard_has_a_place_for_everything() -> None:
    for dashboard in dashboards():
        panels = dashboard["panels"]
        assert len({each["id"] for each in panels}) == len(panels)
        for one, other in combinations([each["gridPos"] for each in panels], 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or above, (one, other)
        assert all(each["gridPos"]["x"] + each["gridPos"]["w"] <= 24 for each in panels)
        for each in panels:
            assert each["title"]
            for target in each.get("targets", ()):
                assert target["datasource"]["uid"] == "${datasource}"
        rows = [each["title"] for each in panels if each["type"] == "row"]
        assert rows == [
            "Are lookups fast?",
            "Is it fresh?",
            "Is ingest moving?",
            "Is the index right?",
            "Processes",
        ]


def test_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """As rules, which is what the tool can judge; what Grafana fills in is filled in."""
    rules = [
        {"record": f"a:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", path)


def test_grafana_finds_its_files() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/lookalike.yml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    assert mounts["./monitoring/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"


# -- Flower ---------------------------------------------------------------------------------------


def test_flower_knows_the_queues_and_where_they_are() -> None:
    found = runpy.run_path(str(MONITORING / "flower" / "celeryconfig.py"))
    assert found["broker_transport_options"] == {"global_keyprefix": keys.PREFIX}
    assert [queue.name for queue in found["task_queues"]] == [queue.value for queue in Queue]
    assert services()["flower"]["volumes"] == [
        "./monitoring/flower/celeryconfig.py:/data/celeryconfig.py:ro"
    ]


@pytest.mark.parametrize("told", [False, True])
def test_workers_tell_of_tasks_only_where_somebody_wants_it(told: bool) -> None:
    app = worker_app(WorkerSettings(task_events=told))
    assert app.conf.worker_send_task_events is told
