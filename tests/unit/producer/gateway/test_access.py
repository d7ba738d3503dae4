"""Keys and settings: who may do what, and that no secret shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from producer.errors import SettingsError
from producer.gateway.access import Access, Scope
from producer.gateway.settings import GatewaySettings, is_loopback

ONE, TWO = "first-secret-0123", "second:secret:0123"


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"LOOKALIKE_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_key_is_found_by_its_secret_alone() -> None:
    access = Access.of(SecretStr(f"shop:read+write:{ONE}, widget:read:{TWO}"))
    shop, widget = access.key(f"Bearer {ONE}"), access.key(f"bearer {TWO}")
    assert shop is not None
    assert (shop.name, shop.scopes) == ("shop", frozenset(Scope))
    assert widget is not None
    assert (widget.name, widget.scopes) == ("widget", frozenset({Scope.READ}))
    for header in (None, "", "Bearer", f"Basic {ONE}", ONE, f"Bearer {ONE}x", "Bearer \udcff"):
        assert access.key(header) is None
    assert ONE not in repr(shop)
    assert not access.is_open
    assert Access.of(None).is_open


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("secret", "number 1 does not"),
        (f"a:read:{ONE},b:{TWO}", "NAME:SCOPE:SECRET"),
        (f"a:admin:{ONE}", "that of 'a' does not"),
        (f"a:read,write:{ONE}", "number 1 does not"),
        ("a:read:short", "secret of 'a' must have at least 16 characters"),
        (f"a:read:{ONE},a:write:{TWO}", "two keys have the same name"),
        (f"a:read:{ONE},b:write:{ONE}", "two keys have the same secret"),
        (f"a:read:{ONE} x", "printable ASCII"),
        ("", "number 1 does not"),
    ],
)
def test_keys_that_are_wrong_are_named_and_their_secrets_are_not(
    monkeypatch: pytest.MonkeyPatch, keys: str, says: str
) -> None:
    monkeypatch.setenv("LOOKALIKE_API_KEYS", keys)
    with pytest.raises(SettingsError, match="LOOKALIKE_API_KEYS") as refused:
        GatewaySettings.from_env()
    assert says in str(refused.value)
    assert not any(secret in str(refused.value) for secret in (ONE, TWO, "short"))


def test_beyond_loopback_keys_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.1", "shop.example"):
        with pytest.raises(SettingsError, match="set LOOKALIKE_API_KEYS"):
            GatewaySettings.with_options(host)
    monkeypatch.setenv("LOOKALIKE_HTTP_PORT", "1")
    assert GatewaySettings.with_options("::1").http_port == 1
    assert GatewaySettings.with_options("localhost", 2).http_port == 2
    monkeypatch.setenv("LOOKALIKE_API_KEYS", f"a:read:{ONE}")
    settings = GatewaySettings.with_options("0.0.0.0")
    assert settings.http_host == "0.0.0.0"
    assert ONE not in repr(settings)
    assert ONE not in settings.model_dump_json()


def test_loopback_is_known_by_name_and_address() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "LocalHost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "8.8.8.8", "localhost.example", "")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PORT", "70000"), ("HTTP_TIMEOUT", "0"), ("MAX_BODY", "100"), ("HTTP_HOST", "")],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"LOOKALIKE_{name}", value)
    with pytest.raises(SettingsError, match=f"LOOKALIKE_{name}"):
        GatewaySettings.from_env()


def test_the_readme_tells_every_setting_of_the_gateway() -> None:
    readme = (Path(__file__).parents[4] / "README.md").read_text()
    for name in GatewaySettings.model_fields:
        assert f"`LOOKALIKE_{name.upper()}`" in readme, name
