"""`lookalike serve`: the HTTP gateway, if what it needs is installed."""

from __future__ import annotations

import logging
import sys

from producer import logs, tracing
from producer.cli.terminal import Terminal
from producer.errors import SettingsError

log = logging.getLogger(__name__)

NEEDED = ("fastapi", "starlette", "uvicorn", "h11", "python_multipart", "prometheus_client")


def serve(terminal: Terminal, host: str | None, port: int | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises SettingsError if it cannot listen, or something is not installed."""
    try:
        from producer.gateway import server
        from producer.gateway.settings import GatewaySettings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        raise SettingsError(
            f"the HTTP gateway needs {error.name}, which is not installed: pip install 'lookalike[http]'"
        ) from None
    settings = GatewaySettings.with_options(host, port)
    logs.configure("gateway", settings.log_format, settings.log_level)
    tracing.configure("gateway")
    server.serve(settings, lambda address: _ready(terminal, address, settings.api_keys is not None))


def _ready(terminal: Terminal, address: str, keyed: bool) -> None:
    if logs.is_json():
        log.info("listening on %s%s", address, "" if keyed else ", open to all of this machine")
    elif terminal.json:
        terminal.data({"address": address, "keys": keyed})
    else:
        _tell(terminal, address, keyed)
    sys.stdout.flush()


def _tell(terminal: Terminal, address: str, keyed: bool) -> None:
    terminal.line(f"Listening on {address}: people look at /lookbook/, programs read /docs")
    if not keyed:
        terminal.note("No LOOKALIKE_API_KEYS: only this machine may ask, and it may do everything.")
    terminal.note("Ctrl-C stops it.")
