"""What is wrong with a model.

ModelError
├── UnknownModel       LOOKALIKE_MODEL names nothing that we know
├── ModelUnavailable   the weights cannot be had here (no hub, a missing file)
└── ModelDamaged       a digest, a layer or a shape is not what the config says
"""

from __future__ import annotations


class ModelError(Exception):
    """A model that cannot be used; the message names LOOKALIKE_MODEL and what to do."""


class UnknownModel(ModelError):
    """LOOKALIKE_MODEL names nothing that we know."""


class ModelUnavailable(ModelError):
    """The weights cannot be had here."""


class ModelDamaged(ModelError):
    """A model whose files are not what its config says, or of a kind that is never loaded."""
