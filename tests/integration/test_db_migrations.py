"""Invariant 14: the schema is what the migrations make of nothing, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.orm import Session

import migrations
from db.base import Base
from db.errors import SchemaNewer, SchemaOutdated
from db.queries import catalogue, generations, judgements, models
from db.queries.catalogue import Wanted
from db.queries.generations import Pointer
from db.session import Database
from migrations import check_schema, current, downgrade, head, upgrade
from tests.integration.catalogue_rows import image, model, store
from tests.services import DatabaseFactory, start_postgres

ROOT = Path(migrations.__file__).parents[1]


def alembic(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={**os.environ, "LOOKALIKE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def test_alembic_check_is_clean(databases: DatabaseFactory) -> None:
    with databases.empty() as url:
        assert alembic("upgrade", "head", url=url).returncode == 0
        checked = alembic("check", url=url)
        assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n")


def test_the_tables_are_those_of_the_models(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_up_from_nothing_down_to_nothing_and_up_again(databases: DatabaseFactory) -> None:
    with databases.empty() as url:
        database = Database(url)
        for _ in range(2):
            assert current(database) is None
            with pytest.raises(SchemaOutdated, match=r"none.*lookalike-worker migrate"):
                check_schema(database)
            upgrade(database)
            upgrade(database)
            check_schema(database)
            assert current(database) == head()
            store(database, model(database), [image("sku")])
            downgrade(database, "base")
        with database.reading() as session:
            assert set(inspect(session.connection()).get_table_names()) <= {"alembic_version"}
        database.close()


def test_what_the_first_schema_holds_outlives_every_migration(databases: DatabaseFactory) -> None:
    """Up from the first one with rows in it, down again to it, and up once more."""
    with databases.empty() as url:
        database = Database(url)
        upgrade(database, "0001")
        with database.migrating() as connection:
            for statement in FIRST_ROWS:
                connection.exec_driver_sql(statement)
        for _ in range(2):
            upgrade(database)
            with database.reading() as session:
                assert generations.pointer(session) == Pointer(3, 7, pinned=False)
                current = generations.current(session)
                assert current is not None
                assert (current.number, current.directory) == (3, "generation-3")
                assert catalogue.head(session).revision == 5
                assert catalogue.live_images(session, ["sku"])["sku"].image_pks == (2,)
                names = {each["name"] for each in _indexes(session, "product")}
                assert "ix_product_revision" in names
                assert "ix_product_category_product_id" in names
                assert [each.product_id for each in catalogue.page(session, Wanted(), "S", 5)] == [
                    "sku"
                ]
                assert judgements.of_product(session, "sku", 5) == []
                assert "ix_image_content_sha256" in {
                    each["name"] for each in _indexes(session, "image")
                }
                serving = models.serving(session)
                assert serving.active is not None
                assert (serving.active.digest, serving.incoming) == ("d", None)
                (known,) = models.listed(session)
                assert (known.retired_at, known.comparison, known.model.source) == (None,) * 3
            downgrade(database, "0001")
            with database.reading() as session:
                names = {each["name"] for each in _indexes(session, "product")}
                assert "ix_product_revision" not in names
                assert "ix_product_category" in names
        database.close()


def _indexes(session: Session, table: str) -> list[ReflectedIndex]:
    return inspect(session.connection()).get_indexes(table)


FIRST_ROWS = (
    """INSERT INTO model_version (pk, digest, name, dimension, config, active, created_at)
       VALUES (1, 'd', 'm', 3, '{}', true, '2026-01-01 00:00:00')""",
    """INSERT INTO product (pk, product_id, attributes, version, revision)
       VALUES (1, 'sku', '{}', 1, 5)""",
    """INSERT INTO image (pk, product_pk, name, content_sha256, source, version, removed, revision)
       VALUES (2, 1, 'main', 'x', '/a.jpg', 1, false, 5)""",
    """INSERT INTO index_generation (number, model_version_pk, revision, images, directory,
                                     manifest_sha256, recall, created_at)
       VALUES (3, 1, 5, 1, 'generation-3', 'a', 0.9, '2026-01-01 00:00:00')""",
    "UPDATE index_pointer SET generation = 3, token = 7",
    "UPDATE revision_counter SET value = 5",
)
"""What a service of the first version wrote; in SQL, since this version's queries know newer columns."""


def test_an_older_or_newer_schema_is_told_apart(database: Database) -> None:
    check_schema(database)
    with database.migrating() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'future'")
    for look in check_schema, upgrade:
        with pytest.raises(SchemaNewer, match=f"future, of a later version.*{head()}"):
            look(database)
    with database.migrating() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(SchemaOutdated, match="lookalike-worker migrate") as older:
        check_schema(database)
    assert not isinstance(older.value, SchemaNewer)


def test_processes_that_migrate_at_once_wait_for_each_other(databases: DatabaseFactory) -> None:
    with databases.empty() as url, ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: alembic("upgrade", "head", url=url), range(3)))
        assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
        database = Database(url)
        check_schema(database)
        database.close()


def test_alembic_without_a_database_says_which_variable() -> None:
    run = alembic("upgrade", "head", url="")
    assert run.returncode != 0
    assert "LOOKALIKE_DATABASE_URL" in run.stdout + run.stderr


def test_foreign_keys_are_off_while_migrating_sqlite_only(sqlite_database: Database) -> None:
    with sqlite_database.migrating() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 0


@pytest.mark.slow
def test_an_older_postgresql_gives_the_same_answers(tmp_path: Path) -> None:
    server = start_postgres(16)
    try:
        with DatabaseFactory("postgresql", tmp_path, server).migrated() as url:
            database = Database(url)
            tiny = model(database)
            assert store(database, tiny, [image("sku", attributes={"a": 1.0})]).revision == 1
            with database.reading() as session:
                pks = catalogue.live_images(session, ["sku"])["sku"].image_pks
                assert catalogue.describe(session, pks)[pks[0]].attributes == {"a": 1.0}
            database.close()
    finally:
        server.stop()
