"""Everything that the index raises.

IndexError_
├── EngineBroken             the library that searches does not work on this machine
├── GenerationRefused        a generation that must not be opened
│   ├── GenerationMissing    its directory or a file of it is not there
│   ├── GenerationDamaged    a file differs from what the manifest says
│   └── GenerationMismatch   whole, but not the one that was asked for
├── BuildFailed              no new generation; the old one stays
│   ├── BadVectors           stored embeddings that cannot be searched
│   ├── RecallTooLow         the new index finds too few of the true neighbours
│   ├── CheckFailed          the new index failed in the process that tried it
│   ├── BuildSuperseded      somebody else published meanwhile, or the lease was lost
│   └── BuildStopped         the process is stopping
├── RollbackRefused          no earlier generation can be current again (in `rollback`)
└── WrongModel               a vector of another model than the one the index is made with
"""

from __future__ import annotations


class IndexError_(Exception):  # noqa: N801 - Python has an IndexError
    """Something about the index."""


class EngineBroken(IndexError_):
    """The library that searches does not work on this machine, or is not there."""


class GenerationRefused(IndexError_):
    """A generation that must not be opened."""


class GenerationMissing(GenerationRefused):
    """The directory of a generation, or a file in it, is not there."""


class GenerationDamaged(GenerationRefused):
    """A file of a generation differs from what its manifest says."""


class GenerationMismatch(GenerationRefused):
    """A generation that is whole, but of another number, model or format than expected."""


class BuildFailed(IndexError_):
    """No new generation was made; the old one stays."""


class BadVectors(BuildFailed):
    """Stored embeddings that cannot be searched."""


class RecallTooLow(BuildFailed):
    """The new index finds too few of the true neighbours."""


class CheckFailed(BuildFailed):
    """The new index failed in the process that tried it."""


class BuildSuperseded(BuildFailed):
    """Another process published a generation meanwhile, or the lease was lost."""


class BuildStopped(BuildFailed):
    """The process is stopping; the next one builds."""


class WrongModel(IndexError_):
    """The vector is of another model than the one that the index is made with."""
