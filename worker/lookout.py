"""Where the processes that `up` starts can be watched: a port of its own for each, side by side."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.roles import Role
from worker.settings import WorkerSettings

FIRST_PORT = 8391
NAMES = (*(role.value for role in Role), "beat", "gateway")
"""In the order of their ports."""


@dataclass(frozen=True)
class Lookout:
    """A port for each process, or why there are none."""

    shown: str
    """Where they are, or the reason."""
    ports: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: WorkerSettings) -> Lookout:
        """From LOOKALIKE_METRICS_PORT on; a port that is taken is a reason to do without all of them."""
        first = FIRST_PORT if settings.metrics_port is None else settings.metrics_port
        if not first:
            return cls("not served: LOOKALIKE_METRICS_PORT is 0")
        host = settings.metrics_host
        for port in range(first, first + len(NAMES)):
            if problem := _problem(host, port):
                hint = "set LOOKALIKE_METRICS_PORT to the first of six that are free"
                return cls(f"not served: port {port} of {host} {problem}: {hint}")
        ports = {name: first + place for place, name in enumerate(NAMES)}
        last = first + len(NAMES) - 1
        return cls(f"http://{host}:{first}/metrics ({NAMES[0]}) to {last} ({NAMES[-1]})", ports)


def _problem(host: str, port: int) -> str:
    """Why nobody can listen there; nothing, if one can."""
    if port > 65_535:
        return "is none"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        return f"cannot be had ({error.strerror or error})"
    return ""
