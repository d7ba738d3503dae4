"""The network: the only place where torch is used for inference.

Importing this module loads torch, so import it where a network is needed and nowhere else. CUDA is touched
by `Network.load` and `Network.embed` only, never on import.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from worker.embedding import architectures
from worker.embedding.config import EFFICIENTNET_LITE0, TIMM, ModelConfig
from worker.embedding.errors import ModelDamaged, ModelUnavailable
from worker.embedding.library import ModelSource

Precision = Literal["auto", "fp32", "bf16"]

_log = logging.getLogger(__name__)
_PIECE: Final = 32
"""Most pictures in one pass of one CPU thread: more do not go faster, and need more memory."""
_FOLDABLE: Final = {
    # convolution → the batch norm that always follows it
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
    "conv1": "bn1",
    "conv2": "bn2",
    "conv3": "bn3",
    "0": "1",
}
_ACTIVATED: Final = {"_conv_stem", "_expand_conv", "_depthwise_conv", "_conv_head"}
"""Convolutions of EfficientNet-Lite whose batch norm is always followed by the block's ReLU6."""


class Network:
    """Turns decoded pictures into embeddings. To be used by one thread at a time: the batcher's.

    On a GPU: bf16 autocast, channels-last. On a CPU: batch norms folded away, bf16 where the processor computes
    in it, and one thread of ours for each part of a batch rather than torch's threads within each layer, which
    wait for each other by spinning and slow down many times over when decoders want the same cores.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        threads: int,
    ) -> None:
        self.config = config
        self.device = str(device)
        self.precision = "bf16" if dtype is torch.bfloat16 else "fp32"
        self._model = model
        self._layer = model.get_submodule(config.layer)
        self._device = device
        self._dtype = dtype
        self._threads = (
            ThreadPoolExecutor(threads, "network", _one_torch_thread) if threads else None
        )
        self._parallel = max(threads, 1)
        scale = torch.tensor([config.mean, config.std], dtype=torch.float32, device=device) * 255
        self._mean, self._std = scale.reshape(2, 1, 3, 1, 1)
        self._staging: Tensor | None = None

    @classmethod
    def load(
        cls,
        source: ModelSource,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load a resolved model onto a device: `auto`, `cpu`, `cuda` or `cuda:N`.

        `precision` auto is bf16 where the device computes in it, and fp32 for fine-tuned networks. `threads`
        counts those of the CPU path; None: one for each core this process may use.
        Raises ModelDamaged when layer, shapes or dimension are not what the config says, and
        ModelUnavailable when there is no such device.
        """
        where = device_named(device)
        if precision == "auto" and source.config.head is not None:
            # Behind pooling the head subtracts means that are many times the differences between pictures: in
            # bf16 the cosine to the vectors that were judged in training was 0.97, and less than 0.9 for some.
            precision = "fp32"
        dtype = _dtype(where, precision)
        model = _build(source.config, read_state(source))
        layer = _layer(model, source.config)
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            _pad_natively(model)
            if not source.config.architecture.startswith(
                TIMM
            ):  # which has a norm before a layer, too
                _fold_batch_norms(model)
        if where.type == "cuda":
            if dtype is torch.float32:
                # TF32 has ten bits, and rounds folded weights otherwise than those that were trained.
                torch.backends.cudnn.allow_tf32 = False
            model = model.to(where).to(memory_format=torch.channels_last)
            return cls._checked(source.config, model, where, dtype, 0)
        torch.set_num_threads(1)
        model = model.to(dtype).to(memory_format=torch.channels_last)
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            model = _with_fused_activations(model, source.config, dtype)
        return cls._checked(source.config, model, where, dtype, threads or _cores())

    @classmethod
    def _checked(cls, config: ModelConfig, *rest: Any) -> Self:
        network = cls(config, *rest)
        side = config.image_size
        shape = network._run(np.zeros((1, side, side, 3), np.uint8), network._layer).shape
        if shape != (1, config.dimension):
            network.close()
            raise ModelDamaged(
                f"layer {config.layer!r} gives {shape[-1]} numbers, the config says {config.dimension}; "
                "LOOKALIKE_MODEL names a model whose config.json does not fit its weights"
            )
        return network

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed uint8 [n, S, S, 3] as float32 [n, d], rows of length 1.

        A row is NaN where the network gives no direction (NaN, infinite or zero).
        """
        vectors = self._run(pixels, self._layer)
        with np.errstate(all="ignore"):
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(np.isfinite(lengths) & (lengths > 0), lengths, np.nan)
        return vectors

    def classify(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores float32 [n, c] of uint8 [n, S, S, 3], of the config's categories in their order; not yet softmax.

        ValueError if the network was not fine-tuned on any.
        """
        if self.config.categories is None:
            raise ValueError(f"{self.config.name} tells no categories of its own apart")
        return self._run(pixels, self._model.get_submodule(_classifier(self.config)))

    def close(self) -> None:
        """Stop the threads of the CPU path."""
        if self._threads is not None:
            self._threads.shutdown()

    def _run(self, pixels: NDArray[np.uint8], layer: nn.Module) -> NDArray[np.float32]:
        with capture(layer, stop=True) as captured:
            if self._threads is None:
                return self._on_gpu(pixels, captured)
            parts = _split(pixels, self._parallel)
            # The parts share nothing but weights, which nobody writes.
            rows = self._threads.map(
                lambda part: self._forward(torch.from_numpy(part), captured), parts
            )
            return np.concatenate([each.numpy() for each in rows])

    def _on_gpu(self, pixels: NDArray[np.uint8], captured: Captured) -> NDArray[np.float32]:
        """One pass; a batch that does not fit the card's memory is halved until it does."""
        try:
            batch = self._staged(pixels).to(self._device, non_blocking=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=self._dtype is torch.bfloat16):
                return self._forward(batch, captured).cpu().numpy()
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(pixels) // 2
        _log.warning("the card's memory is full at %d pictures; trying %d", len(pixels), half)
        parts = (self._on_gpu(part, captured) for part in (pixels[:half], pixels[half:]))
        return np.concatenate(list(parts))

    def _staged(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Copy into page-locked memory, kept between calls: the only kind that is copied asynchronously.

        The result of every call is waited for, so that the buffer is free again at the next.
        """
        if self._staging is None or len(self._staging) < len(pixels):
            self._staging = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        staged = self._staging[: len(pixels)]
        staged.numpy()[...] = pixels
        return staged

    @torch.inference_mode()
    def _forward(self, batch: Tensor, captured: Captured) -> Tensor:
        """uint8 [n, S, S, 3] on the device → float32 [n, d], averaged over positions if it has any."""
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32)  # channels-last without a copy
        dtype = self._dtype if self._device.type == "cpu" else torch.float32
        with suppress(_LayerReached):
            self._model(pixels.sub_(self._mean).div_(self._std).to(dtype))
        output = captured.take()
        if output.dim() > 2:
            output = output.flatten(2).mean(2)
        return output.float()


class _LayerReached(Exception):
    """The forward pass has got what it was for."""


class Captured:
    """The latest output of a module, for each thread its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    def put(self, output: Tensor) -> None:
        """Keep an output of the calling thread."""
        self._local.output = output

    def take(self) -> Tensor:
        """Give back what the calling thread's forward pass left."""
        output: Tensor = self._local.output
        del self._local.output
        return output


@contextmanager
def capture(module: nn.Module, *, stop: bool = False) -> Iterator[Captured]:
    """Catch what a module puts out, with a forward hook that is removed whatever happens.

    With `stop` the hook then ends the forward pass by raising, so that later layers cost nothing.
    """
    captured = Captured()

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        captured.put(output)
        if stop:
            raise _LayerReached

    handle = module.register_forward_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


# -- devices --------------------------------------------------------------------------------------


def device_named(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`; raises ModelUnavailable when there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelUnavailable(f"{name!r} is no device: auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"there is no {name} here; take cpu or auto (LOOKALIKE_DEVICE)")
    return device


def _dtype(device: torch.device, precision: Precision) -> torch.dtype:
    if precision == "auto":
        fast = _card_computes_bf16(device) if device.type == "cuda" else _computes_bf16()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _card_computes_bf16(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _computes_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; emulated, it is slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_torch_thread() -> None:
    torch.set_num_threads(1)


def _split(pixels: NDArray[np.uint8], parts: int) -> Sequence[NDArray[np.uint8]]:
    """Near-equal parts, a multiple of `parts` many where there are enough pictures, none too large."""
    rounds = -(-len(pixels) // (parts * _PIECE))
    return np.array_split(pixels, min(len(pixels), parts * rounds))


# -- models ---------------------------------------------------------------------------------------


def read_state(source: ModelSource) -> dict[str, Tensor]:
    """Load the weights as they lie in the file: safetensors, or a pinned file of tensors alone."""
    if source.weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(source.weights)
    state: dict[str, Tensor] = torch.load(source.weights, map_location="cpu", weights_only=True)
    return state


def download(architecture: str) -> Path:
    """Path of a torchvision ResNet's ImageNet weights, fetched from the hub unless they are there already.

    The first release of the weights: later ones score higher on ImageNet, with recipes that cost transfer.
    """
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    url = str(get_model_weights(architecture)["IMAGENET1K_V1"].url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=None, progress=False)
        except OSError as error:
            raise ModelUnavailable(
                f"the weights of {architecture} cannot be fetched here ({error}); put them at {path}, "
                "or take a model directory or efficientnet-lite0 (LOOKALIKE_MODEL; --arch, or --untrained)"
            ) from None
    return path


def _build(config: ModelConfig, state: Mapping[str, Tensor]) -> nn.Module:
    """The architecture with its weights; the classifier has as many classes as the weights have."""
    classifier = _classifier(config)
    last = f"{classifier}.weight"
    classes = len(state[last]) if last in state else 1
    make = architectures.fine_tuned if config.head else architectures.whole
    model = make(config.architecture, config.image_size, classes)
    absent = model.load_state_dict(state, strict=False) if _fits(model, state) else None
    if (
        absent is None
        or absent.unexpected_keys
        or any(not key.startswith(f"{classifier}.") for key in absent.missing_keys)
    ):
        raise ModelDamaged(
            f"the weights are not those of {config.architecture}; check LOOKALIKE_MODEL's config.json"
        )
    return model.eval().requires_grad_(False)


def _classifier(config: ModelConfig) -> str:
    """Name of the last layer."""
    if config.head is not None:
        return "1.8"
    return "_fc" if config.architecture == EFFICIENTNET_LITE0 else "fc"


def _fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(
        tensor.shape == state[name].shape
        for name, tensor in model.state_dict().items()
        if name in state
    )


def _layer(model: nn.Module, config: ModelConfig) -> nn.Module:
    try:
        return model.get_submodule(config.layer)
    except AttributeError:
        top = ", ".join(name for name, _ in model.named_children())
        raise ModelDamaged(
            f"{config.architecture} has no layer {config.layer!r} (LOOKALIKE_MODEL); it has {top} and theirs"
        ) from None


# -- making it fast on a CPU ----------------------------------------------------------------------


def _pad_natively(model: nn.Module) -> None:
    """Let convolutions do their padding where it is symmetric, instead of a copy before each."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Conv2dStaticSamePadding":
                setattr(module, name, _plain(child))


def _plain(padded: Any) -> nn.Module:
    conv = nn.Conv2d(
        *(padded.in_channels, padded.out_channels, padded.kernel_size, padded.stride),
        groups=padded.groups,
        bias=padded.bias is not None,
    )
    conv.weight, conv.bias = padded.weight, padded.bias
    conv.eval()
    if not isinstance(padded.static_padding, nn.ZeroPad2d):
        return conv
    left, right, top, bottom = padded.static_padding.padding
    if left == right and top == bottom:
        conv.padding = (top, left)
        return conv
    return nn.Sequential(padded.static_padding, conv)


def _fold_batch_norms(model: nn.Module) -> None:
    """Multiply each batch norm into the convolution before it: the same function in half the passes."""
    for module in list(model.modules()):
        children = dict(module.named_children())
        for name, norm_name in _FOLDABLE.items():
            norm, conv = children.get(norm_name), children.get(name)
            if conv is None or not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(conv, nn.Sequential):
                conv[-1] = _folded(cast("nn.Conv2d", conv[-1]), norm)
            else:
                setattr(module, name, _folded(cast("nn.Conv2d", conv), norm))
            setattr(module, norm_name, nn.Identity())


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    return fuse_conv_bn_eval(conv, norm).requires_grad_(False)


class _Activated(nn.Module):
    """A convolution and its ReLU6 in one oneDNN call, which saves a pass over the output."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.pad: nn.Module = conv[0] if isinstance(conv, nn.Sequential) else nn.Identity()
        self.conv: Any = conv[1] if isinstance(conv, nn.Sequential) else conv
        self.run = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001  (what torch.compile emits)

    def forward(self, pixels: Tensor) -> Tensor:
        conv = self.conv
        shape = (list(conv.padding), list(conv.stride), [1, 1], conv.groups)
        output: Tensor = self.run(
            self.pad(pixels), conv.weight, conv.bias, *shape, "hardtanh", [0.0, 6.0], ""
        )
        return output


def _with_fused_activations(model: nn.Module, config: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """EfficientNet-Lite with each ReLU6 inside its convolution; the model as it is where that does not work.

    The call is not a public one, so the outcome is compared with the plain network's before it is used.
    """
    if not config.architecture.startswith("efficientnet-lite"):
        return model
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        for name in _ACTIVATED & dict(module.named_children()).keys():
            setattr(module, name, _Activated(getattr(module, name)))
        if isinstance(getattr(module, "_swish", None), nn.ReLU6):
            setattr(module, "_swish", nn.Identity())  # noqa: B010  (a child, private to its package)
    side = config.image_size
    probe = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side).to(dtype)
    try:
        with torch.inference_mode():
            plain, quick = model(probe), fused(probe)
        alike = functional.cosine_similarity(plain.float(), quick.float()).item()
    except (RuntimeError, AttributeError) as error:
        _log.info("no fused convolutions in this build of torch: %s", error)
        return model
    return fused if alike > 0.999 else model
