"""Arbitrary pictures, messages, settings and ids: only the errors that are meant for them come out."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from producer.errors import InvalidRequest, SettingsError
from producer.messages import ImageItem, IngestChunk, Message, PathImage
from producer.messages import Job as _Job
from producer.reasons import Reason
from producer.rows import Row
from producer.settings import ProducerSettings, load
from tests.hostile.fuzz import DECODED, SPEC, Found, _heard, bases, main, mutant, run
from worker.images.errors import ImageError
from worker.images.pool import DecoderPool
from worker.settings import WorkerSettings

often = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- pictures -------------------------------------------------------------------------------------


def test_500_broken_pictures_end_no_child() -> None:
    found = run(500, seed=500)
    assert found.pictures == 500
    assert found.clean, found
    assert set(found.reasons) <= {
        *(DECODED, Reason.CORRUPT_IMAGE, Reason.UNSUPPORTED_FORMAT, Reason.TOO_LARGE)
    }
    assert 0.05 < found.reasons[DECODED] / 500 < 0.6  # they are broken, and not beyond recognition


def test_a_mutant_can_be_made_again() -> None:
    assert [mutant(1, number) for number in range(50)] == [
        mutant(1, number) for number in range(50)
    ]
    assert len({mutant(1, number) for number in range(50)}) > 40
    assert mutant(1, 7) != mutant(2, 7)


def test_what_is_broken_was_whole() -> None:
    with DecoderPool(1) as pool:
        results = pool.decode_many(bases(), SPEC)
    assert not [each for each in results if isinstance(each, ImageError)]


def test_a_child_that_a_signal_ends_is_counted() -> None:
    found = Found(seed=1)
    with DecoderPool(1) as pool, _heard(found):
        pool.decode(bases()[0], SPEC)
        os.kill(pool.pids[0], signal.SIGSEGV)
        pool.decode(bases()[0], SPEC)
    assert (found.signals, found.exceptions, found.clean) == (1, 0, False)


def test_a_picture_that_hangs_is_counted() -> None:
    found = Found(seed=1)
    found.take(3, Reason.DECODE_TIMEOUT, transient=False)
    found.take(4, Reason.DECODER_DIED, transient=False)
    found.take(5, Reason.UNAVAILABLE, transient=True)
    assert (found.hangs, found.exceptions, found.numbers, found.clean) == (1, 1, [3, 4, 5], False)


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "70", "--seed", "9", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert sum(value["reasons"].values()) == value["pictures"] == 70
    assert (value["signals"], value["hangs"], value["exceptions"]) == (0, 0, 0)
    assert main(["--count", "10"]) == 0
    assert "0 signals, 0 hangs, 0 uncaught exceptions" in capsys.readouterr().out


# -- messages -------------------------------------------------------------------------------------


def _messages(kind: type[Message] = Message) -> Iterator[type[Message]]:
    for each in kind.__subclasses__():
        if "task" in vars(each):
            yield each
        yield from _messages(each)


MESSAGES = sorted(_messages(), key=lambda each: each.task)
texts = st.text() | st.sampled_from(["path", "url", "bytes", "\0", "\ud800", "9" * 50, "http://a"])
numbers = st.integers() | st.floats() | st.sampled_from([2**63, 10**400, -1, 1, 1e308])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
"""What `json.loads` can give, numbers that are none included."""


def bodies(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Anything, and objects with the message's own keys, whose values are nearly right or anything."""
    known = {name: values | _nearly(name) for name in kind.model_fields}
    return values | st.fixed_dictionaries({}, optional={**known, "more": values})


def _nearly(name: str) -> st.SearchStrategy[Any]:
    image = st.fixed_dictionaries(
        {"kind": texts}, optional={"path": texts, "url": texts, "key": texts}
    )
    item = st.fixed_dictionaries(
        {"product_id": texts, "version": numbers},
        optional={"image": image, "attributes": values, "name": texts},
    )
    nearly = {
        "v": st.just(1),
        "id": st.just("0" * 36),
        "items": st.lists(item, max_size=3),
        "images": st.lists(image, max_size=3),
        "product_ids": st.lists(texts, max_size=3),
        "liked": st.lists(texts, max_size=3),
        "selection": st.fixed_dictionaries({}, optional={"limit": numbers, "where": values}),
    }
    return nearly.get(name, scalars)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.task)
@often
@given(data=st.data())
def test_any_json_is_a_message_or_a_validation_error(kind: type[Message], data: Any) -> None:
    body = data.draw(bodies(kind))
    try:
        parsed = kind.parse(body)
    except ValidationError:
        return
    assert kind.parse(parsed.model_dump(mode="json")).model_dump_json() == parsed.model_dump_json()


@pytest.mark.parametrize("depth", [100, 300, 900])
@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.task)
def test_a_message_as_deep_as_json_is_read(kind: type[Message], depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValidationError):
            kind.parse(json.loads(text))


def test_there_are_messages_of_all_kinds() -> None:
    assert len(MESSAGES) >= 12
    assert {IngestChunk} <= set(MESSAGES)
    assert any(issubclass(each, _Job) for each in MESSAGES)


# -- settings -------------------------------------------------------------------------------------

printable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
likely = st.sampled_from(
    [
        *(
            "",
            "0",
            "-1",
            "1e400",
            "nan",
            "inf",
            "1_000",
            "0x10",
            "true",
            " 7 ",
            "9" * 400,
            "[]",
            "{}",
        ),
        *(
            "null",
            '"',
            "redis://",
            "redis://[::1",
            "sqlite://",
            "cuda:99999999999",
            "*",
            ",",
            "auto",
        ),
        *("annoy", "/", "a:b", "٣", "1e-320", "efficientnet-lite0:0", '{"s3": {}}', "s3://"),
    ]
)
SECRET = "s3cr3t-0f-th3-sh0p"
SECRETS = ("redis_url", "database_url", "signing_keys", "store_options")


@pytest.mark.parametrize("kind", [ProducerSettings, WorkerSettings])
@often
@given(data=st.data())
def test_any_environment_is_settings_or_a_settings_error(
    kind: type[ProducerSettings], data: Any
) -> None:
    names = list(kind.model_fields)
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=6))
    environment = {name: data.draw(likely | printable) for name in chosen}
    kept = {name for name in SECRETS if name in kind.model_fields}
    secret = {
        name: data.draw(likely | printable) + SECRET
        for name in data.draw(st.sets(st.sampled_from(sorted(kept))))
    }
    said = _said(kind, environment | secret)
    assert SECRET not in said


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "value", [f"http://u:{SECRET}@h", f"{SECRET}", f'{{"a": "{SECRET}', f"{SECRET},x"]
)
def test_a_secret_that_is_wrong_is_not_repeated(name: str, value: str) -> None:
    assert SECRET not in _said(WorkerSettings, {name: value, "chunk_size": "none"})


def _said(kind: type[ProducerSettings], values: dict[str, str]) -> str:
    """The text of the error, or of the settings as they would end in a log."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LOOKALIKE_")}
    environment |= {f"LOOKALIKE_{name.upper()}": value for name, value in values.items()}
    with patch.dict(os.environ, environment, clear=True):
        try:
            return repr(load(kind))
        except SettingsError as error:
            return str(error)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` lies."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


# -- product ids ----------------------------------------------------------------------------------


@often
@given(st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "Cf"]), min_size=1))
@example("")
@example("\0")
@example("\ud800")
@example("x" * 255)
@example("x" * 256)
@example("\U0010ffff" * 255)
@example("\u202e'\"\\\u2028\ufeff")
def test_an_id_that_is_taken_comes_back_as_it_was(product_id: str) -> None:
    try:
        item, _ = Row(product_id, Path("/a.jpg")).item(1)
    except InvalidRequest:
        with pytest.raises(ValidationError):
            ImageItem(product_id=product_id, image=PathImage(path="/a"), version=1)
        return
    chunk = IngestChunk(id="0" * 36, accepted_at=1.0, items=(item,))
    sent = json.loads(chunk.model_dump_json())
    assert sent["items"][0]["product_id"] == product_id
    assert IngestChunk.parse(sent).items[0].product_id == product_id
    assert product_id.encode().decode() == product_id
