"""The HTTP gateway beside the workers: what `up` starts on loopback, where what it needs is installed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from producer.errors import SettingsError
from producer.gateway.settings import GatewaySettings
from worker.up import Child

LOOPBACK = "127.0.0.1"
NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class Front:
    """The gateway that is to be started, or why there is none."""

    child: Child | None
    shown: str
    """Its address, or the reason."""

    @classmethod
    def of(cls, logs: Path) -> Front:
        """The gateway of the environment's settings. Raises SettingsError if one of them is wrong.

        What is not installed, or a port that is taken, is a reason to do without it.
        """
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            return cls(None, f"not started: it needs {missing[0]} (pip install 'lookalike[http]')")
        settings = GatewaySettings.with_options(LOOPBACK)
        from producer.gateway.server import address, listen

        try:
            with listen(settings) as listener:
                shown = address(listener)
        except SettingsError as error:
            return cls(None, f"not started: {error}")
        port = shown.rpartition(":")[2]
        serve = [sys.executable, "-m", "producer.cli", "serve", "--host", LOOPBACK, "--port", port]
        command = [sys.executable, "-m", "worker.tether", *serve]
        where = f"{shown}/lookbook/, and for programs {shown}/docs"
        return cls(Child("gateway", command, logs / "gateway.log"), where)
