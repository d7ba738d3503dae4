"""Settings are checked before anything starts, and no secret leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.errors import SettingsError
from producer.settings import load
from worker.index.rebuild import BuildSettings
from worker.roles import build_settings
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
        ("LOOKALIKE_TREES", "10001"),
        ("LOOKALIKE_ENGINE", "hnswlib"),
        ("LOOKALIKE_RECALL_TARGET", "1.5"),
        ("LOOKALIKE_RECALL_TARGET", "0"),
        ("LOOKALIKE_RECALL_MARGIN", "-0.1"),
        ("LOOKALIKE_SEARCH_K", "-1"),
        ("LOOKALIKE_RERANK", "0"),
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


@pytest.mark.parametrize("name", ["annoy", "exact", "faiss"])
def test_every_engine_can_be_chosen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LOOKALIKE_ENGINE", name)
    assert build_settings(load(WorkerSettings)).engine == name


@pytest.mark.parametrize(
    ("said", "trees", "per_category"),
    [("auto", 0, False), ("12", 12, False), ("categories", 0, True)],
)
def test_trees_are_counted_given_or_of_the_categories(
    monkeypatch: pytest.MonkeyPatch, said: str, trees: int, per_category: bool
) -> None:
    monkeypatch.setenv("LOOKALIKE_TREES", said)
    settings = build_settings(load(WorkerSettings))
    assert (settings.trees, settings.trees_per_category) == (trees, per_category)


def test_with_nothing_set_the_index_is_built_as_by_default() -> None:
    assert build_settings(load(WorkerSettings)) == BuildSettings()
    assert build_settings(load(WorkerSettings), force=True) == BuildSettings(force=True)


def test_the_index_is_built_as_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "recall_target": "0.9",
        "recall_margin": "0.1",
        "search_k": "500",
        "reduce_to": "32",
        "rerank": "77",
        "keep_generations": "4",
    }
    for name, value in said.items():
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", value)
    assert build_settings(load(WorkerSettings)) == BuildSettings(
        recall_target=0.9, recall_margin=0.1, search_k=500, reduce_to=32, rerank=77, keep=4
    )


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
