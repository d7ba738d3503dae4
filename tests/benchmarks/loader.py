"""What one writes first, without a service: a DataLoader, torchvision's transforms, the network in fp32.

`python -m tests.benchmarks.loader MODEL FOLDER` embeds the pictures of a folder and prints how long it took.
It is a process of its own, since torch's threads are the whole process's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms  # type: ignore[import-untyped]

from worker.embedding import architectures, library
from worker.embedding.config import ModelConfig
from worker.embedding.network import read_state

BATCH, WORKERS, WARM = 64, 2, 64


class Pictures(Dataset[Tensor]):
    """Files as tensors, as the tutorials do it."""

    def __init__(self, paths: Sequence[Path], config: ModelConfig) -> None:
        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize((config.image_size, config.image_size)),
                transforms.ToTensor(),
                transforms.Normalize(config.mean, config.std),
            ]
        )

    def __len__(self) -> int:
        """How many there are."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """The picture, float32 [3, S, S]."""
        tensor: Tensor = self._transform(Image.open(self._paths[index]).convert("RGB"))
        return tensor


def embed(model: nn.Module, layer: nn.Module, paths: Sequence[Path], config: ModelConfig) -> int:
    """Run the network on all of them; how many vectors came of it."""
    vectors: list[Tensor] = []
    handle = layer.register_forward_hook(
        lambda _module, _inputs, output: vectors.append(output.flatten(2).mean(2))
    )
    with torch.no_grad():
        for batch in DataLoader(Pictures(paths, config), BATCH, num_workers=WORKERS):
            model(batch)
    handle.remove()
    return sum(map(len, vectors))


def images_per_second(model: str, folder: Path) -> float:
    """The rate of such a process on the pictures of a folder; loading and a first batch are not counted."""
    command = [sys.executable, "-m", "tests.benchmarks.loader", model, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    return float(measured["images"] / measured["seconds"])


def main() -> None:
    """Measure, and print a line of JSON."""
    spec, folder = sys.argv[1], Path(sys.argv[2])
    source = library.resolve(spec)
    config = source.config
    state = read_state(source)
    model = architectures.whole(config.architecture, config.image_size, 1000)
    model.load_state_dict(state)
    model.eval()
    layer = model.get_submodule(config.layer)
    paths = sorted(folder.glob("*.jpg"))
    embed(model, layer, paths[:WARM], config)
    begun = time.perf_counter()
    images = embed(model, layer, paths, config)
    print(json.dumps({"images": images, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
