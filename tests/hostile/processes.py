"""What a process holds now and held at most, as Linux counts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIB = 1 << 20


def held(pid: int) -> int:
    """Bytes that a process holds, without the files that it maps, which the kernel can drop."""
    return _field(pid, "RssAnon") + _field(pid, "RssShmem")


@dataclass(frozen=True)
class Growth:
    """What a process holds from a moment on, and the most that it did since."""

    pid: int
    before: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Begin to watch: the kernel forgets the peak that there was."""
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return cls(pid, _field(pid, "VmRSS"))

    @property
    def most(self) -> int:
        """MiB that its peak is above the beginning."""
        return (_field(self.pid, "VmHWM") - self.before) // MIB


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0  # it has ended, and is not waited for yet
