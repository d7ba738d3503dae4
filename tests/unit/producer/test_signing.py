"""Signatures: made of what was meant, not of how it was spelt."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from producer.signing import Signer

NEW, OLD = b"the new key of twenty", b"the old key of twenty"
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_a_signature_survives_the_way(message: object) -> None:
    signer = Signer([NEW])
    signature = signer.sign("task", message)
    arrived = json.loads(json.dumps(message, sort_keys=True, indent=1))
    assert signer.believes("task", arrived, signature)
    assert not signer.believes("other", arrived, signature)
    assert not signer.believes("task", [arrived], signature)


def test_any_of_several_keys_is_believed_and_the_first_one_signs() -> None:
    both, new, old = Signer([NEW, OLD]), Signer([NEW]), Signer([OLD])
    assert both.sign("task", 1) == new.sign("task", 1)
    assert both.believes("task", 1, old.sign("task", 1))
    assert not new.believes("task", 1, old.sign("task", 1))


def test_what_is_no_signature_is_not_believed() -> None:
    for each in (None, 1, "", "é", "0" * 64, b"x"):
        assert not Signer([NEW]).believes("task", 1, each)


def test_the_setting() -> None:
    assert Signer.of(None) is None
    signer = Signer.of(SecretStr(f"{NEW.decode()}, {OLD.decode()}"))
    assert signer is not None
    assert signer.believes("task", 1, Signer([OLD]).sign("task", 1))
