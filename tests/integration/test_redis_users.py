"""The users of `docs/redis-users.acl`, over TLS: what a shop needs works, and nothing else does."""

from __future__ import annotations

import asyncio
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from producer import keys
from producer.client import Producer
from producer.errors import LookalikeError, QueueUnavailable
from producer.settings import ProducerSettings
from tests.faults.group import Group, group
from tests.services import RedisServer, free_port, start_valkey
from tests.stack import picture, save_picture

USERS = Path(__file__).parents[2] / "docs" / "redis-users.acl"
SHOP, WORKER = "lookalike-shop", "lookalike-worker"


@dataclass(frozen=True)
class Door:
    """A TLS socket before a server, which knows its users."""

    server: RedisServer
    port: int
    authority: Path

    def url(self, user: str, password: str | None = None) -> SecretStr:
        """What LOOKALIKE_REDIS_URL is for a user."""
        secret = f"{user}:{password or _password(user)}"
        return SecretStr(f"rediss://{secret}@127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}")

    def shop(self, url: SecretStr | None = None) -> Producer:
        """A shop's producer, with the user of its own."""
        return Producer(ProducerSettings(redis_url=url or self.url(SHOP)))


def _password(user: str) -> str:
    return f"{user}-secret"


def _load_users(server: RedisServer) -> None:
    text = USERS.read_text().replace("SHOP-PASSWORD", _password(SHOP))
    text = text.replace("WORKER-PASSWORD", _password(WORKER))
    with Redis.from_url(server.url) as admin:
        for line in text.splitlines():
            if line.startswith("user lookalike"):
                admin.execute_command("ACL", "SETUSER", *line.split()[1:])


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("users")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server = start_valkey("--appendonly", "yes", folder=folder)
    _load_users(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    port = free_port()
    with _served(port, server.port, context):
        yield Door(server, port, folder / "ca.pem")
    server.stop()


@pytest.fixture(scope="module")
def service(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Workers that log in as themselves."""
    folder = tmp_path_factory.mktemp("service")
    with group(
        folder, server=door.server, redis_url=door.url(WORKER), image_roots=(folder,)
    ) as opened:
        opened.start()
        opened.ready()
        yield opened


@contextmanager
def _served(port: int, leads_to: int, context: ssl.SSLContext) -> Iterator[None]:
    """Encrypt for a server that cannot: the wheel's has no TLS."""
    loop = asyncio.new_event_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", leads_to)
        ways = [asyncio.create_task(_copy(reader, forth)), asyncio.create_task(_copy(back, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for each in (writer, forth):
                each.close()

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
        ready.set()
        async with server:
            await stop.wait()

    stop, ready = asyncio.Event(), threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:  # either end has hung up
        return


def test_a_shop_can_do_all_that_a_producer_does(door: Door, service: Group) -> None:
    with door.shop() as shop:
        for number in range(3):
            path = save_picture(service.folder / f"{number}.jpg", number)
            shop.add(f"p{number}", str(path), category="dress").wait(60.0)
        shop.add("by-bytes", picture(9)).wait(60.0)
        lookup = shop.find_similar("p0", limit=2)
        assert len(lookup.result(30.0).matches) == 2
        assert len(shop.lookup(lookup.id).result(1.0).matches) == 2
        assert shop.find_similar(image=picture(9)).result(30.0).matches
        assert shop.find_similar_many(["p0", "p1"]).result(30.0)
        for receipt in shop.remove("p0"):
            receipt.wait(60.0)
        assert shop.status(30.0).products == 3
        assert shop.backlog() == 0
    with Redis.from_url(door.server.url, decode_responses=True) as admin:
        refused = {(each["username"], each["object"]) for each in admin.acl_log()}
    # With CLIENT SETINFO redis-py says which library it is; it does without.
    assert {each for each in refused if each[1] != "client|setinfo"} == set()


def test_a_shop_learns_how_many_messages_wait_and_is_not_refused_twice(door: Door) -> None:
    with door.shop() as shop:
        seen = shop.queue_status()
        assert {(each.unacked, each.oldest) for each in seen} == {(None, None)}
        refusals = _refusals(door)
        assert shop.queue_status() == seen
        assert _refusals(door) == refusals > 0


def _refusals(door: Door) -> int:
    with Redis.from_url(door.server.url, decode_responses=True) as admin:
        return sum(each["count"] for each in admin.acl_log() if each["object"] == "evalsha")


FORBIDDEN = [
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("INFO",),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("SHUTDOWN",),
    ("LRANGE", keys.queue("ingest"), "0", "-1"),
    ("RPOP", keys.queue("ingest")),
    ("DEL", keys.queue("ingest")),
    ("HGETALL", keys.LEDGER),
    ("HDEL", keys.LEDGER, "x"),
    ("ZRANGE", keys.LEDGER_DUE, "0", "-1"),
    ("GET", keys.REBUILD_FAILURE),
    ("HGETALL", keys.WORKERS),
    ("HSET", keys.WORKERS, "x", "1"),
    ("HSET", keys.LEDGER_STARTS, "x", "1"),
    ("SET", "of-somebody-else", "1"),
    ("GET", "of-somebody-else"),
    ("EVAL", "return redis.call('KEYS', '*')", "0"),
    ("EVAL", "return redis.call('GET', 'of-somebody-else')", "0"),
    ("PUBLISH", "x", "1"),
    ("SUBSCRIBE", "x"),
]


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
def test_a_shop_can_do_nothing_more(door: Door, command: tuple[str, ...]) -> None:
    with Redis.from_url(door.url(SHOP).get_secret_value()) as shop:
        assert shop.ping()
        with pytest.raises(RedisError, match=r"(?i)permission"):
            shop.execute_command(*command)


def test_a_worker_may_not_touch_what_is_not_ours(door: Door) -> None:
    with Redis.from_url(door.url(WORKER).get_secret_value()) as worker:
        for command in (
            ("SET", "of-somebody-else", "1"),
            ("FLUSHALL",),
            ("CONFIG", "SET", "a", "b"),
        ):
            with pytest.raises(NoPermissionError):
                worker.execute_command(*command)


def test_a_wrong_password_is_said_and_not_shown(door: Door) -> None:
    wrong = f"wrong-{uuid.uuid4()}"
    with door.shop(door.url(SHOP, wrong)) as shop:
        with pytest.raises(QueueUnavailable, match="refused the user or password") as raised:
            shop.add("p", "/x.jpg")
        assert wrong not in str(raised.value)


def test_a_server_whose_certificate_nobody_vouches_for_is_not_talked_to(door: Door) -> None:
    url = door.url(SHOP).get_secret_value().partition("?")[0]
    with (
        door.shop(SecretStr(url)) as shop,
        pytest.raises(LookalikeError, match=r"(?i)certificate"),
    ):
        shop.add("p", "/x.jpg")
