"""Settings of the gateway, from the environment and `.env`, checked before it listens."""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from producer.gateway.access import parse_keys
from producer.pictures import MAX_BYTES
from producer.settings import WatchedSettings, load

DEFAULT_PORT = 8390
LEAST_BODY = 4096


class GatewaySettings(WatchedSettings):
    """What the gateway needs to know besides. Every field is the variable LOOKALIKE_<FIELD>."""

    api_keys: SecretStr | None = None
    """Who may do what, `NAME:SCOPE:SECRET` with commas between; SCOPE is read, write, or read+write."""
    http_host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; any but loopback needs `api_keys`."""
    http_port: int = Field(DEFAULT_PORT, ge=0, le=65_535)
    """Port to listen on; 0: any that is free, which is said at start."""
    http_timeout: float = Field(10.0, gt=0)
    """Seconds that a client may take for the headers of a request, or keep silent within its body."""
    max_body: int = Field(MAX_BYTES + (7 << 20), ge=LEAST_BODY)
    """Bytes of the largest request that brings pictures."""

    @field_validator("api_keys")
    @classmethod
    def _readable(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None:
            parse_keys(keys)
        return keys

    @field_validator("http_host")
    @classmethod
    def _open_to_this_machine_only(cls, host: str, info: ValidationInfo) -> str:
        if not is_loopback(host) and "api_keys" in info.data and info.data["api_keys"] is None:
            raise ValueError(
                f"{host} can be reached from other machines: set LOOKALIKE_API_KEYS to "
                "NAME:SCOPE:SECRET, or listen on 127.0.0.1"
            )
        return host

    @classmethod
    def with_options(cls, host: str | None = None, port: int | None = None) -> Self:
        """The environment's, but for what a command line gives. Raises SettingsError."""
        given: dict[str, Any] = {"http_host": host, "http_port": port}
        return load(
            partial(cls, **{name: each for name, each in given.items() if each is not None})
        )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.http_host)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
