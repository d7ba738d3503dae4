"""The database goes away under load: restarted, killed, cut off in mid-commit, out for a while, or locked."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import make_url, select

from db.models import Embedding, Image, Product, Thumbnail
from db.session import BUSY_TIMEOUT, Database
from producer.client import Producer
from tests.faults.group import Catalogue, Group, group, pictures, read
from tests.faults.promise import Scale, Shown
from tests.faults.proxy import Proxy, proxy
from tests.faults.redis_outages import Load, resumed
from tests.services import PostgresServer, start_postgres

CUT = 0.3
"""Share of the commits that are cut while they are."""


@dataclass
class Postgres:
    """A server that can be taken away, and the proxy before it."""

    server: PostgresServer
    proxy: Proxy

    def take_away(self, how: signal.Signals) -> None:
        """End it: SIGINT is a fast shutdown, SIGKILL what a power cut leaves."""
        pid = self._postgres.get_pid()
        os.kill(pid, how)
        while Path(f"/proc/{pid}").exists():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)

    def bring_back(self) -> None:
        """Start it again, once what is left of it has ended."""
        until = time.monotonic() + 30.0
        while True:
            try:
                self._postgres.ensure_postgres_running()
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return

    @property
    def _postgres(self) -> Any:
        return self.server._server


@contextmanager
def postgres(folder: Path, scale: Scale) -> Iterator[tuple[Postgres, str]]:
    """A server, and the address of an empty database behind a proxy."""
    server = start_postgres()
    try:
        address = make_url(server.create("shop"))
        socket = Path(str(address.query["host"]))
        port = str(address.query.get("port", "5432"))
        with proxy(
            folder / f".s.PGSQL.{port}", socket / f".s.PGSQL.{port}", scale.chance("proxy")
        ) as between:
            through = address.update_query_dict({"host": str(folder)})
            yield Postgres(server, between), through.render_as_string(hide_password=False)
    finally:
        server.stop()


Fault = Callable[[Group], None]


def _restarts(server: Postgres, how: signal.Signals) -> Fault:
    def fault(_: Group) -> None:
        server.take_away(how)
        server.bring_back()

    return fault


def _outage(server: Postgres, seconds: float) -> Fault:
    def fault(service: Group) -> None:
        server.take_away(signal.SIGINT)
        _tend_for(service, seconds)
        server.bring_back()

    return fault


def _cut_commits(server: Postgres, seconds: float) -> Fault:
    def fault(service: Group) -> None:
        server.proxy.share = CUT
        _tend_for(service, seconds)
        server.proxy.share = 0.0

    return fault


def _locked(path: Path, seconds: float) -> Fault:
    """Another process holds SQLite's only lock for writing."""

    def fault(service: Group) -> None:
        other = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)
        other.execute("BEGIN IMMEDIATE")
        _tend_for(service, seconds)
        other.execute("ROLLBACK")
        other.close()

    return fault


def _tend_for(service: Group, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        service.tend()
        time.sleep(0.1)


def show(scale: Scale, folder: Path) -> Shown:
    """Nothing lost, no product in part."""
    broken: list[str] = []
    with ExitStack() as closing:
        server, url = closing.enter_context(postgres(folder, scale))
        chance = scale.chance("database")
        ways = [chance.choice([signal.SIGINT, signal.SIGKILL]) for _ in range(scale.of(6, 1))]
        on_postgres = [
            *(("restart", _restarts(server, how)) for how in ways),
            ("commits cut", _cut_commits(server, scale.of(40, 3))),
            ("outage", _outage(server, scale.of(30, 1))),
        ]
        found = _try(scale, folder / "postgresql", on_postgres, broken, url)
        locks = [chance.uniform(0.5, 3.0) for _ in range(scale.of(8, 1))]
        locks += [] if scale.short else [BUSY_TIMEOUT + 5.0]
        home = folder / "sqlite"
        path = home / "data" / "catalogue.db"
        on_sqlite = [("locked", _locked(path, seconds)) for seconds in locks]
        found_too = _try(scale, home, on_sqlite, broken, None)
        cuts = (server.proxy.before, server.proxy.after)
    if 0 in cuts:
        broken.append(f"commits cut before and after they were done: {cuts}")
    return Shown(
        f"PostgreSQL: {len(ways)} restarts, {cuts[0]} + {cuts[1]} commits cut before and after they were done, "
        f"{scale.of(30, 1)} s outage; SQLite: {len(locks)} locks of up to {max(locks):.0f} s; "
        f"{found + found_too:,} accepted, {sum('lost' in each for each in broken)} lost, "
        f"{sum('part' in each for each in broken)} partial",
        tuple(broken),
        {"accepted": found + found_too, "cut_before": cuts[0], "cut_after": cuts[1]},
    )


def _try(
    scale: Scale,
    home: Path,
    faults: list[tuple[str, Fault]],
    broken: list[str],
    url: str | None,
) -> int:
    paths = iter(pictures(home / "pictures", scale.of(12_000, 2500), bases=100))
    address = SecretStr(url) if url is not None else None
    with group(home, image_roots=(home,), database_url=address) as service:
        service.start()
        service.ready()
        with Producer(service.producer) as client:
            load = Load(client, paths)
            for name, fault in faults:
                with load.adding():
                    time.sleep(0.5)
                    fault(service)
                if (seconds := resumed(service, load)) > 60.0:
                    broken.append(f"{name}: work went on only after {seconds:.0f} s")
            service.settle(300.0)
        found = read(service.settings)
        broken += _contradictions(load, found)
        broken += _partial(service.settings.database)
    return len(load.accepted)


def _contradictions(load: Load, found: Catalogue) -> list[str]:
    broken = [f"lost: {id_}" for id_ in sorted(load.accepted - found.vectors.keys())]
    broken += [f"in part, without a vector: {id_}" for id_, v in found.vectors.items() if not v]
    return broken + [f"given up: {id_}, {why}" for id_, why in found.letters.items()]


def _partial(url: str) -> list[str]:
    """Products of which something is there and something is not."""
    database = Database(url)
    bare = select(Product.product_id).where(
        ~select(Image.pk).where(Image.product_pk == Product.pk).exists()
    )
    unseen = select(Image.pk).where(
        ~select(Thumbnail.jpeg).where(Thumbnail.content_sha256 == Image.content_sha256).exists()
    )
    orphans = select(Embedding.content_sha256).where(
        ~select(Image.pk).where(Image.content_sha256 == Embedding.content_sha256).exists()
    )
    with database.reading() as session:
        broken = [f"in part, without a picture: {id_}" for id_ in session.scalars(bare)]
        broken += [f"in part, without a thumbnail: {pk}" for pk in session.scalars(unseen)]
        broken += [f"in part, only a vector: {each.hex()}" for each in session.scalars(orphans)]
    database.close()
    return broken
