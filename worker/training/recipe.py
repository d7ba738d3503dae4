"""What a network is trained with: enough to do it again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.images.decode import Resize

BASE_RATE = 2e-3
"""fastai's own for `fine_tune`."""
Augment = Literal["full", "mirror", "none"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Recipe(BaseModel):
    """How to train. The numbers that are not here are those of fastai's `fine_tune`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    """As in a model's config: `efficientnet-lite0`, `resnet152`, `timm/NAME`."""
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """Height and width of the network's input, pixels."""
    resize: Resize = "pad"
    crop: bool = False
    """Whether DeepFashion's pictures are cropped to the products' boxes."""
    frozen_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs of the head alone."""
    epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs of all of it, lower layers slower."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    rate: Annotated[float, Field(gt=0)] = BASE_RATE
    """Highest learning rate of the head."""
    augment: Augment = "full"
    """What is done to pictures at random: mirrored, turned, zoomed, warped and lit; mirrored only; nothing."""
    pretrained: bool = True
    """Whether to begin with ImageNet's weights."""
    precision: Precision = "auto"
    """`auto`: mixed where a GPU has it."""
    seed: int = 0

    @property
    def total_epochs(self) -> int:
        """Of both phases."""
        return self.frozen_epochs + self.epochs
