"""Settings are checked before anything starts, and no secret leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.errors import SettingsError
from producer.settings import load
from worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in WorkerSettings.model_fields:
        monkeypatch.delenv(f"LOOKALIKE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_with_nothing_set_everything_is_embedded(tmp_path: Path) -> None:
    settings = load(WorkerSettings)
    assert settings.embedded_redis
    assert settings.database == f"sqlite:///{tmp_path / 'lookalike-data' / 'catalogue.db'}"
    assert settings.roots == (tmp_path,)


def test_values_come_from_the_environment_and_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOOKALIKE_IMAGE_ROOTS", f"{tmp_path}:/srv/pictures")
    (tmp_path / ".env").write_text(
        "LOOKALIKE_IMAGE_HOSTS=cdn.example, img.example\nLOOKALIKE_TREES=categories\n"
    )
    settings = load(WorkerSettings)
    assert settings.image_roots == (tmp_path, Path("/srv/pictures"))
    assert settings.image_hosts == ("cdn.example", "img.example")
    assert settings.trees == "categories"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LOOKALIKE_REDIS_URL", "http://nowhere"),
        ("LOOKALIKE_TREES", "0"),
        ("LOOKALIKE_TREES", "many"),
        ("LOOKALIKE_DEVICE", "toaster"),
        ("LOOKALIKE_REBUILD_EVERY", "-1"),
        ("LOOKALIKE_KEEP_GENERATIONS", "1"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        load(WorkerSettings)


def test_children_get_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = WorkerSettings(
        data_dir=tmp_path / "data",
        database_url="postgresql://shop:geheim@db/lookalike",
        image_roots=(tmp_path, Path("/srv")),
        image_hosts=("a.example", "b.example"),
        trees="categories",
        reduce_to=0,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load(WorkerSettings) == settings


def test_no_secret_is_shown() -> None:
    settings = WorkerSettings(
        redis_url="redis://:geheim@cache/0", database_url="postgresql://shop:geheim@db/lookalike"
    )
    assert "geheim" not in repr(settings)
    assert "geheim" not in str(settings)
    assert "geheim" not in settings.model_dump_json()
