"""The quarantine's process, in which deadly pictures are deadly."""

from __future__ import annotations

from tests.faults.hooks import deadly
from worker.quarantine import main

if __name__ == "__main__":
    with deadly():
        main()
