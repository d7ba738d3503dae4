"""What is wrong before a process starts, in words that name what to change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from db.session import Database
from tests.integration.test_worker_cli import Terminal
from tests.services import DatabaseFactory, start_valkey
from tests.unit.worker.index.factories import Shop, build
from worker import rollout, startup
from worker.errors import StartError
from worker.index.rollback import rollback
from worker.roles import Role
from worker.settings import WorkerSettings
from worker.startup import Finding, Severity


@dataclass(frozen=True)
class Site:
    """Where a process is about to start."""

    settings: WorkerSettings
    database: Database
    redis: Redis

    def finding(self, subject: str) -> Finding:
        """What all checks say of this subject."""
        found = startup.examine(self.settings, self.database, self.redis)
        (finding,) = [each for each in found if each.subject == subject]
        return finding

    def with_(self, **changes: Any) -> Site:
        """The same with other settings."""
        return replace(self, settings=self.settings.with_(**changes))


@pytest.fixture
def site(
    database: Database, empty_valkey_url: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """One where everything is as it should be, but for Redis's file."""
    monkeypatch.chdir(data_dir.parent)
    settings = WorkerSettings(data_dir=data_dir, redis_url=SecretStr(empty_valkey_url))
    return Site(settings, database, Redis.from_url(empty_valkey_url))


def test_everything_is_fine(site: Site) -> None:
    found = startup.examine(site.settings, site.database, site.redis)
    assert {each.subject for each in found if each.severity is not Severity.FINE} == {"Redis"}
    startup.check(site.settings, site.database, site.redis, Role)


def test_a_data_folder_that_cannot_be_one(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    broken = site.with_(data_dir=tmp_path / "file" / "data")
    assert "LOOKALIKE_DATA_DIR" in broken.finding("data folder").message
    with pytest.raises(StartError, match="LOOKALIKE_DATA_DIR"):
        startup.check(broken.settings, broken.database, broken.redis, Role)


@pytest.mark.parametrize(("free", "severity"), [(1 << 20, "fatal"), (65 << 20, "warning")])
def test_a_disk_that_is_full_or_nearly(
    site: Site, monkeypatch: pytest.MonkeyPatch, free: int, severity: str
) -> None:
    monkeypatch.setattr(startup, "_next_build", lambda *_: 66 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    finding = site.finding("disk")
    assert finding.severity == severity
    assert "LOOKALIKE_DATA_DIR" in finding.message


def test_what_the_next_build_needs_grows_with_the_catalogue(site: Site) -> None:
    assert startup._next_build(site.settings, site.database) == 0
    Shop(site.database).fill(10)
    assert startup._next_build(site.settings, site.database) > 10 * 4 * 16


def test_a_misspelled_variable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_REDIS_UR", "redis://elsewhere")
    Path(".env").write_text("LOOKALIKE_NONSENSE=1\nOTHER=2\n")
    finding = site.finding("settings")
    assert finding.severity is Severity.WARNING
    assert "LOOKALIKE_REDIS_UR (did you mean LOOKALIKE_REDIS_URL?)" in finding.message
    assert "LOOKALIKE_NONSENSE" in finding.message
    assert "OTHER" not in finding.message


def test_image_folders_that_are_not_there(site: Site, tmp_path: Path) -> None:
    finding = site.with_(image_roots=(tmp_path, tmp_path / "away")).finding("image folders")
    assert finding.severity is Severity.WARNING
    assert str(tmp_path / "away") in finding.message
    assert f"{tmp_path}," not in finding.message


def test_a_catalogue_of_another_version(site: Site, databases: DatabaseFactory) -> None:
    with databases.empty() as url:
        empty = Database(url)
        finding = replace(site, database=empty).finding("catalogue")
        empty.close()
    assert finding.severity is Severity.FATAL
    assert "lookalike-worker migrate" in finding.message


def test_an_index_that_cannot_be_used(site: Site) -> None:
    Shop(site.database).fill(10)
    build(site.database, site.settings.data_dir)
    assert site.finding("index").severity is Severity.FINE
    (manifest,) = site.settings.data_dir.glob("generation-*/manifest.json")
    manifest.unlink()
    finding = site.finding("index")
    assert finding.severity is Severity.WARNING
    assert "generation 1 cannot be used" in finding.message
    assert "exact search answers, until the index worker has rebuilt it" in finding.message


def test_what_answers_instead_of_an_index_that_cannot(site: Site) -> None:
    shop = Shop(site.database)
    shop.fill(10)
    for _ in range(2):
        build(site.database, site.settings.data_dir)
        shop.fill(1)
    newest = max(site.settings.data_dir.glob("generation-*"))
    (newest / "manifest.json").unlink()
    said = site.finding("index").message
    assert "generation 2 cannot be used" in said
    assert "generation 1 answers" in said
    rollback(site.database, site.settings.data_dir)
    (min(site.settings.data_dir.glob("generation-*")) / "manifest.json").unlink()
    assert (
        "exact search answers, until you run `lookalike-worker reindex`"
        in site.finding("index").message
    )


def test_only_the_roles_that_fetch_look_at_the_folders_of_pictures(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = site.with_(image_roots=(tmp_path / "away",))
    startup.check(away.settings, away.database, away.redis, [Role.SEARCH, Role.INDEX])
    assert "LOOKALIKE_IMAGE_ROOTS" not in caplog.text
    startup.check(away.settings, away.database, away.redis, [Role.QUERY])
    assert "LOOKALIKE_IMAGE_ROOTS" in caplog.text


def test_a_catalogue_that_takes_no_changes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.database, "writing", site.database.reading)
    finding = site.finding("changes")
    assert finding.severity is Severity.FATAL
    assert "LOOKALIKE_DATABASE_URL" in finding.message


def test_what_could_not_be_looked_at_is_not_said_to_be_fine(site: Site) -> None:
    elsewhere = replace(site, database=Database("postgresql://127.0.0.1:1/x"))
    found = startup.examine(elsewhere.settings, elsewhere.database, elsewhere.redis)
    elsewhere.database.close()
    subjects = {each.subject for each in found}
    assert subjects == {
        "settings",
        "data folder",
        "disk",
        "image folders",
        "catalogue",
        "engine",
        "Redis",
    }


def test_a_model_that_is_not_the_catalogues(site: Site) -> None:
    Shop(site.database).fill(1)
    assert "LOOKALIKE_MODEL" in site.finding("model").message
    unknown = site.with_(model="no-such-network").finding("model")
    assert unknown.severity is Severity.FATAL


def test_the_catalogue_says_which_model_serves(site: Site) -> None:
    first, second = "efficientnet-lite0:64", "efficientnet-lite0:96"
    rollout.add(site.database, site.settings.data_dir, first)
    assert site.finding("model").severity is Severity.FINE, "LOOKALIKE_MODEL is not set"
    assert site.with_(model=first).finding("model").severity is Severity.FINE
    unknown = site.with_(model=second).finding("model")
    assert unknown.severity is Severity.FATAL
    assert f"models add {second}" in unknown.message
    rollout.add(site.database, site.settings.data_dir, second)
    known = site.with_(model=second).finding("model")
    assert known.severity is Severity.WARNING
    assert f"the catalogue's active model, {first}" in known.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--appendonly", "yes"), None),
        (("--appendonly", "no"), "appendonly yes"),
        (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), "noeviction"),
    ],
)
def test_a_redis_that_may_lose_work(
    site: Site, tmp_path: Path, options: tuple[str, ...], said: str | None
) -> None:
    server = start_valkey(*options, folder=tmp_path)
    with Redis.from_url(server.url) as redis:
        finding = replace(site, redis=redis).finding("Redis")
    server.stop()
    assert finding.severity is (Severity.WARNING if said else Severity.FINE)
    assert (said or "") in finding.message


def test_a_redis_that_is_away_is_waited_for(site: Site) -> None:
    with Redis(port=1, retry=Retry(NoBackoff(), 0)) as away:
        assert replace(site, redis=away).finding("Redis").severity is Severity.WARNING
        startup.check(site.settings, site.database, away, Role)


def test_a_redis_that_refuses_us_is_not_waited_for(site: Site, tmp_path: Path) -> None:
    server = start_valkey(folder=tmp_path)
    with Redis.from_url(server.url) as admin, Redis.from_url(server.url) as refused:
        admin.config_set("requirepass", "secret")
        finding = replace(site, redis=refused).finding("Redis")
    server.stop()
    assert finding.severity is Severity.FATAL
    assert "LOOKALIKE_REDIS_URL" in finding.message


def test_a_broken_engine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.index.annoy_engine import AnnoyEngine
    from worker.index.errors import EngineBroken

    def broken(_: AnnoyEngine) -> None:
        raise EngineBroken("Annoy finds nothing")

    monkeypatch.setattr(AnnoyEngine, "self_test", broken)
    assert site.finding("engine").severity is Severity.FATAL


def test_the_command(
    sqlite_database: Database,
    empty_valkey_url: str,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATABASE_URL", str(sqlite_database._url))
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", empty_valkey_url)
    monkeypatch.setenv("LOOKALIKE_DATA_DIR", str(data_dir))
    terminal = Terminal(monkeypatch, capsys)
    assert terminal.run("check") == 0
    assert "✓ catalogue" in terminal.out
    assert "! Redis" in terminal.out
    monkeypatch.setenv("LOOKALIKE_MODEL", "no-such-network")
    assert terminal.run("check") == 1
    assert "✗ model" in terminal.out
