"""A gateway process for tests: a real server on a free port, in front of whatever Redis the test has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

READ, WRITE, BOTH = "read-secret-0123456789", "write-secret-0123456789", "both-secret-0123456789"
KEYS = f"reader:read:{READ},writer:write:{WRITE},shop:read+write:{BOTH}"
TIMEOUT = 30.0


@dataclass(frozen=True)
class Gateway:
    """A running `lookalike serve`."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def client(self, secret: str | None = BOTH) -> httpx.Client:
        """A client that shows a secret; none, if there are no keys."""
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)


@contextmanager
def gateway(redis_url: str, folder: Path, **settings: object) -> Iterator[Gateway]:
    """Run a gateway, by default with `KEYS`; `settings` are those of `GatewaySettings`."""
    given = {"redis_url": redis_url, "api_keys": KEYS, "http_port": 0} | settings
    variables = {f"LOOKALIKE_{name.upper()}": str(value) for name, value in given.items() if value}
    log = folder / "gateway.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", "serve", "--port", "0", "--json"],
            env=os.environ | {"PYTHONPATH": os.getcwd()} | variables,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield Gateway(process, _address(process, log), log)
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("}"):
            return str(json.loads(said)["address"])
    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")
