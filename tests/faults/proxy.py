"""Stands between a client and PostgreSQL, and cuts connections in the middle of a commit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

COMMIT = b"COMMIT\0"
"""What psycopg sends to commit, as a simple query."""
BLOCK = 1 << 16


@dataclass
class Proxy:
    """A Unix socket that leads to a server's.

    `share` of the commits are cut: half of them before the server hears of it, half before the client hears that
    it was done.
    """

    listens: Path
    leads_to: Path
    chance: Random
    share: float = 0.0
    before: int = 0
    after: int = 0

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until told to stop."""
        server = await asyncio.start_unix_server(self._connected, self.listens)
        async with server:
            ready.set()
            await stop.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_unix_connection(self.leads_to)
        except OSError:  # the server is away: so are we
            writer.close()
            return
        cut = asyncio.Event()
        ways = [
            asyncio.create_task(self._ask(reader, forth, cut)),
            asyncio.create_task(_answer(back, writer, cut)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for each in (writer, forth):
            each.close()

    async def _ask(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, cut: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(BLOCK):
                if COMMIT in data and self.chance.random() < self.share:
                    if self.chance.random() < 0.5:
                        self.before += 1
                        return
                    self.after += 1
                    cut.set()
                server.write(data)
                await server.drain()


async def _answer(
    server: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await server.read(BLOCK):
            if cut.is_set():  # it is done, and nobody hears of it
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def proxy(listens: Path, leads_to: Path, chance: Random) -> Iterator[Proxy]:
    """A proxy that cuts nothing until its `share` is set."""
    made = Proxy(listens, leads_to, chance)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(made.serve(ready, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10.0)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
