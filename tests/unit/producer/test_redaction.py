"""What is taken out of text before people read it."""

from __future__ import annotations

import time

import pytest

from producer.messages import UrlImage
from producer.redaction import without_secrets


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("https://cdn.example/1.jpg", "https://cdn.example/1.jpg"),
        ("https://cdn.example/1.jpg?w=300&fm=webp", "https://cdn.example/1.jpg?w=300&fm=webp"),
        ("https://cdn.example/1.jpg?", "https://cdn.example/1.jpg?"),
        ("https://cdn.example/1.jpg?token=abc", "https://cdn.example/1.jpg?…"),
        ("https://cdn.example/1.jpg?w=300&sig=abc", "https://cdn.example/1.jpg?…"),
        ("https://cdn.example/1.jpg?v=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "https://cdn.example/1.jpg?…"),
        ("https://cdn.example/1.jpg#secret", "https://cdn.example/1.jpg"),
        ("redis://user:pass@host:1/0", "redis://…@host:1/0"),
        ("redis://:p@ss@host", "redis://…@host"),
        ("redis://:p/s?s#@host/1", "redis://…@host/1"),
        ("https://cdn.example/a@2x.jpg", "https://cdn.example/a@2x.jpg"),
        ("s3://bucket/key?versionId=x", "s3://bucket/key?…"),
        ("of 'https://a.b/c?key=1' and <http://u:p@d/>", "of 'https://a.b/c?…' and <http://…@d/>"),
        ("went…https://u:p@d/, zu späthttps://u:p@d", "went…https://…@d/, zu späthttps://…@d"),
        ("tries: ...redis://u:p@d/0", "tries: ...redis://…@d/0"),
        ("no address: a?b=c, user:pass@host", "no address: a?b=c, user:pass@host"),
    ],
)  # fmt: skip
def test_secrets_of_addresses(text: str, bare: str) -> None:
    assert without_secrets(text) == bare
    assert without_secrets(bare) == bare


@pytest.mark.parametrize("part", ["a.", "a:/", "://", "a://b@", "?w=1", "a-b"])
def test_long_text_takes_no_longer_than_its_length(part: str) -> None:
    # Some of these took half a minute: whoever sends a long word would stop whoever logs it.
    began = time.process_time()
    without_secrets(part * 50_000)
    assert time.process_time() - began < 5.0


def test_the_repr_of_an_address_is_bare() -> None:
    image = UrlImage(url="https://u:p@cdn.example/1.jpg?X-Amz-Signature=abc")
    assert "abc" not in f"{image!r} {image}"
    assert "u:p" not in f"{image!r} {image}"
