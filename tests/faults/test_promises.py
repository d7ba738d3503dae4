"""Every promise in its short form; `make faults` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.promise import Promise, Scale
from tests.faults.promises import PROMISES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("promise", PROMISES, ids=[promise.name for promise in PROMISES])
def test_the_promise_is_kept(promise: Promise, tmp_path: Path) -> None:
    shown = promise.show(Scale(short=True), tmp_path)
    print(f"{promise.name}: {shown.figure}")
    assert shown.broken == ()
