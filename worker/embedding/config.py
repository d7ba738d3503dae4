"""What a model version is: everything that its vectors depend on, and the digest of it."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from worker.images.decode import DecodeSpec, Interpolation, Resize

Triple = tuple[float, float, float]

EFFICIENTNET_LITE0: Final = "efficientnet-lite0"
RESNETS: Final = {
    # torchvision's, and the width of what they pool
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "resnet152": 2048,
}
TIMM: Final = "timm/"
"""Begins the name of an architecture that timm has."""


class ModelConfig(BaseModel):
    """Architecture, weights, layer and preprocessing of a network, as kept in a model's config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    """Version of this file and of the way pictures are decoded: a change of either changes the digest."""
    architecture: str
    """`efficientnet-lite0`, a torchvision ResNet from `resnet18` to `resnet152`, or `timm/NAME`."""
    head: Literal["fastai"] | None = None
    """How the classifier was replaced to fine-tune it; None: it is the architecture's own."""
    categories: tuple[str, ...] | None = None
    """What a fine-tuned network tells apart, in the order of its scores."""
    layer: str
    """Dotted name of the module whose output, averaged over positions, is the embedding."""
    dimension: Annotated[int, Field(ge=1, le=65_536)]
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """Height and width of the network's input, pixels."""
    resize: Resize = "pad"
    """A shop's pictures are often upright on white: padding keeps hems and shoes that a centre crop cuts off."""
    interpolation: Interpolation = "bilinear"
    mean: Triple
    """Subtracted per channel, in units of 0…1."""
    std: Triple
    """Divided by, per channel, in units of 0…1."""
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, over all fields but those that are None: the model version's identity."""
        fields = self.model_dump(mode="json", exclude_none=True)
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """For people: `efficientnet-lite0:128`."""
        return f"{self.architecture}:{self.image_size}"

    def decode_spec(self, *, thumbnail: int = 160) -> DecodeSpec:
        """What the decoders have to make of a picture for this model (thumbnail in pixels, 0 = none)."""
        return DecodeSpec(self.image_size, self.resize, self.interpolation, thumbnail)
