"""Ids, versions, errors and settings."""

from __future__ import annotations

import inspect
import pickle
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field
from redis.exceptions import AuthenticationError, OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer import errors
from producer.errors import (
    InvalidRequest,
    LookalikeError,
    PictureRejected,
    ProductNotFound,
    SettingsError,
)
from producer.ids import issued_at, new_id
from producer.reasons import Reason
from producer.settings import ProducerSettings, load
from producer.transport import connect, public_address, unavailable
from producer.versions import Versions


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time()
    made = uuid.UUID(new_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    issued = issued_at(str(made))
    assert issued is not None
    assert before - 0.002 <= issued <= time.time() + 0.002


def test_ids_differ_and_sort_by_time() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
    first = new_id()
    while new_id()[:13] == first[:13]:
        pass
    assert first < new_id()


@pytest.mark.parametrize(
    "text", ["", "x", str(uuid.uuid4()), new_id().upper(), new_id() + "0"], ids=range(5)
)
def test_other_ids_have_no_time(text: str) -> None:
    assert issued_at(text) is None


def test_versions_grow_from_any_thread_even_when_the_clock_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producer.versions.time.time_ns", lambda: 5)
    versions = Versions()
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(versions.next() for _ in range(500)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(5, 2005))


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)", line):
            drawn.append((len(found[1]) // 4, found[2]))
    tree = drawn[1:]
    assert {name for _, name in tree} == set(errors.__all__)
    parents: list[str] = []
    for depth, name in tree:
        parents[depth:] = [name]
        if depth:
            assert issubclass(getattr(errors, name), getattr(errors, parents[depth - 1]))


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_has_a_message_an_exit_code_and_survives_pickling(name: str) -> None:
    kind = getattr(errors, name)
    reasoned = issubclass(kind, errors._Reasoned)
    if reasoned:
        error, says = kind(Reason.NOT_FOUND, "gone"), "gone (not_found)"
    elif kind is ProductNotFound:
        error, says = kind("sku-1"), "product 'sku-1' is not in the catalogue"
    else:
        error, says = kind(), inspect.cleandoc(kind.__doc__)
    assert str(error).startswith(says)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (kind, str(error))
    assert kind.exit_code == (2 if issubclass(kind, SettingsError | InvalidRequest) else 1)


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(errors.LookupTimeout, TimeoutError)
    assert issubclass(errors.JobTimeout, TimeoutError)
    assert all(issubclass(getattr(errors, name), LookalikeError) for name in errors.__all__)


def test_errors_carry_what_code_needs() -> None:
    assert ProductNotFound("sku-1").product_id == "sku-1"
    assert "'sku-1'" in str(pickle.loads(pickle.dumps(ProductNotFound("sku-1"))))
    assert PictureRejected(Reason.TOO_LARGE, "no").reason is Reason.TOO_LARGE


def test_settings_name_every_wrong_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKALIKE_REDIS_URL", "http://:secret@example")
    monkeypatch.setenv("LOOKALIKE_MAX_BACKLOG", "0")
    with pytest.raises(SettingsError) as caught:
        ProducerSettings.from_env()
    assert "LOOKALIKE_REDIS_URL: must start with redis://" in str(caught.value)
    assert "LOOKALIKE_MAX_BACKLOG" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_settings_that_are_wrong_are_told_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Settings(ProducerSettings):
        device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
        code: str = Field("a", pattern=r"^[a-z]+$")
        trees: int | Literal["all"] = Field(3, union_mode="left_to_right")

    monkeypatch.chdir(tmp_path)
    for name, value in {
        "chunk_size": "many",
        "lookup_ttl": "long",
        "max_backlog": "0",
        "device": "gpu",
        "code": "1",
        "trees": "few",
    }.items():
        monkeypatch.setenv(f"LOOKALIKE_{name.upper()}", value)
    with pytest.raises(SettingsError) as caught:
        load(Settings)
    assert str(caught.value).split("; ") == [
        "LOOKALIKE_CHUNK_SIZE: must be a whole number",
        "LOOKALIKE_MAX_BACKLOG: Input should be greater than or equal to 1",
        "LOOKALIKE_LOOKUP_TTL: must be a number",
        "LOOKALIKE_DEVICE: must look like auto or cpu or cuda[:NUMBER]",
        "LOOKALIKE_CODE: is not one of the allowed forms",
        "LOOKALIKE_TREES: must be a whole number or Input should be 'all'",
    ]


def test_settings_come_from_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOKALIKE_REDIS_URL", raising=False)
    (tmp_path / ".env").write_text("LOOKALIKE_REDIS_URL=redis://:secret@shop:1/2\nOTHER=1\n")
    settings = ProducerSettings.from_env()
    assert settings.redis_url.get_secret_value() == "redis://:secret@shop:1/2"
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://host:1/0?socket_timeout=soon"])
def test_an_address_that_cannot_be_parsed_names_its_variable(url: str) -> None:
    with pytest.raises(SettingsError, match="LOOKALIKE_REDIS_URL"):
        connect(ProducerSettings.model_validate({"redis_url": url}))


@pytest.mark.parametrize(
    "url", ["redis://:s3/cret@shop/0", "redis://u:12/s3cret@shop/0", "redis://:s3#cret@shop/0"]
)
def test_a_password_that_is_not_encoded_is_never_shown_and_the_way_out_is(url: str) -> None:
    with pytest.raises(SettingsError, match="percent-encoded") as caught:
        connect(ProducerSettings.model_validate({"redis_url": url}))
    assert not re.search("s3|cret|12", str(caught.value))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (AuthenticationError("invalid"), "refused the user or password"),
        (OutOfMemoryError("used memory > 'maxmemory'"), "is full"),
        (RedisTimeoutError("slow"), "does not answer in time"),
        (ConnectionRefusedError("refused"), "cannot be used"),
    ],
)
def test_what_is_wrong_with_redis_is_told_apart(error: Exception, says: str) -> None:
    wrapped = RuntimeError("the broker's own")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        told = str(unavailable(each, "redis://:secret@shop:1/0"))
        assert says in told
        assert "redis://shop:1/0" in told
        assert "secret" not in told


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@shop:6379/0", "redis://shop:6379/0"),
        ("rediss://:se@cret@shop/1?password=secret", "rediss://shop/1"),
        ("unix://:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://:secret@[::1]:6379", "redis://[::1]:6379"),
        ("redis://:sec/ret@shop/0", "redis://…"),
        ("redis://user:1/2secret@shop:1/0", "redis://…"),
        ("redis://:12?secret@shop/0", "redis://…"),
        ("redis://:12#secret@shop/0", "redis://…"),
        ("redis://:secret", "redis://…"),
        ("redis://shop/0?password=a@secret", "redis://…"),
        ("unix://:sec/ret@/run/redis.sock", "unix://…"),
        ("http://secret", "://…"),
        ("redis://[secret", "redis://…"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert public_address(url) == shown


def test_the_readme_tells_what_each_reason_means() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| [^|]+ \|$", readme, re.MULTILINE))
    assert {reason: told.get(reason) for reason in Reason} == {
        reason: reason.meaning for reason in Reason
    }
