"""The Inception network of FID, KID and the Inception score, as the TensorFlow graph of 2015-12-05 computes it.

The same numbers as `torch_fidelity.feature_extractor_inceptionv3` (0.4.0), whose weights it reads, and which cannot be
imported without torchvision. What differs from the Inception of torchvision: average pooling leaves the padding out,
the last block takes the maximum in its place, there are 1008 classes, and images are resized as TensorFlow 1 did it,
without antialias.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddspo.downloads import Download
from ddspo.errors import InputError
from ddspo.metrics._sets import Features, in_parts, joined
from ddspo.metrics._torchmetrics import check_torchmetrics
from ddspo.metrics.base import SetMetric
from ddspo.weights import Web, Weights

SIDE = 299
AT_ONCE = 16
"""Images that go through the network at once."""

WEIGHTS = Web(
    size=95_628_359,
    licence="Apache-2.0",
    commercial=True,
    download=Download(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        95_628_359,
    ),
)

Output = Literal["features", "logits"]
"""2048 averaged features, or 1008 logits without their bias (`logits_unbiased`)."""
Kernel = int | tuple[int, int]


class Layer(NamedTuple):
    """A convolution of a block: its name in the weights, its channels, its kernel."""

    name: str
    channels: int
    kernel: Kernel = 1


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H', W']."""
        return functional.relu(self.bn(self.conv(x)))


_average = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_largest = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved = partial(functional.max_pool2d, kernel_size=3, stride=2)

Steps = Sequence[tuple[Layer, ...]]
"""Layers one after the other; those of one tuple are side by side."""


class Block(nn.Module):
    """Paths side by side, the last of which begins with a pooling; their channels are joined.

    Args:
        inputs: Channels.
        paths: Those before the last.
        pooled: Channels of the last path's convolution. 0: it has none, and the last layer of each path halves the
            sides.
        largest: Whether the pooling is by maximum where it does not halve.
    """

    def __init__(self, inputs: int, paths: Sequence[Steps], pooled: int = 0, *, largest: bool = False) -> None:
        super().__init__()
        self.paths, self.outputs = paths, pooled or inputs
        for path in paths:
            width = inputs
            for number, step in enumerate(path, start=1):
                halves = not pooled and number == len(path)
                for name, channels, kernel in step:
                    padding = 0 if halves else _same(kernel)
                    self.add_module(name, Convolution(width, channels, kernel, 2 if halves else 1, padding))
                width = sum(layer.channels for layer in step)
            self.outputs += width
        self.branch_pool = Convolution(inputs, pooled, 1) if pooled else nn.Identity()
        self.pool = (_largest if largest else _average) if pooled else _halved

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H', W']."""
        return torch.cat([*(self._walk(path, x) for path in self.paths), self.branch_pool(self.pool(x))], 1)

    def _walk(self, path: Steps, x: Tensor) -> Tensor:
        for step in path:
            x = torch.cat([self.get_submodule(layer.name)(x) for layer in step], 1)
        return x


def _same(kernel: Kernel) -> Kernel:
    """The padding that keeps the sides."""
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)


def _chain(name: str, *layers: tuple[int, Kernel]) -> Steps:
    return [(Layer(f"{name}_{number}", *layer),) for number, layer in enumerate(layers, start=1)]


def _with_fives(inputs: int, pooled: int) -> Block:
    paths: list[Steps] = [
        [(Layer("branch1x1", 64),)],
        _chain("branch5x5", (48, 1), (64, 5)),
        _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3)),
    ]
    return Block(inputs, paths, pooled)


def _with_sevens(width: int) -> Block:
    across, down = (1, 7), (7, 1)
    double: list[tuple[int, Kernel]] = [(width, 1), (width, down), (width, across), (width, down), (192, across)]
    paths: list[Steps] = [
        [(Layer("branch1x1", 192),)],
        _chain("branch7x7", (width, 1), (width, across), (192, down)),
        _chain("branch7x7dbl", *double),
    ]
    return Block(768, paths, 192)


def _with_forks(inputs: int, *, largest: bool) -> Block:
    def fork(name: str) -> tuple[Layer, ...]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    paths: list[Steps] = [
        [(Layer("branch1x1", 320),)],
        [*_chain("branch3x3", (384, 1)), fork("branch3x3_2")],
        [*_chain("branch3x3dbl", (448, 1), (384, 3)), fork("branch3x3dbl_3")],
    ]
    return Block(inputs, paths, 192, largest=largest)


def _blocks() -> dict[str, Block]:
    first_half: list[Steps] = [[(Layer("branch3x3", 384, 3),)], _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3))]
    sevens = _chain("branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3))
    second_half = [_chain("branch3x3", (192, 1), (320, 3)), sevens]
    return {
        "Mixed_5b": _with_fives(192, 32),
        "Mixed_5c": _with_fives(256, 64),
        "Mixed_5d": _with_fives(288, 64),
        "Mixed_6a": Block(288, first_half),
        "Mixed_6b": _with_sevens(128),
        "Mixed_6c": _with_sevens(160),
        "Mixed_6d": _with_sevens(160),
        "Mixed_6e": _with_sevens(192),
        "Mixed_7a": Block(768, second_half),
        "Mixed_7b": _with_forks(1280, largest=False),
        "Mixed_7c": _with_forks(2048, largest=True),
    }


class Inception(nn.Module):
    """Images [N, 3, 299, 299], 0 to 255, to [N, 2048] features or [N, 1008] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        blocks = _blocks()
        self.order = tuple(blocks)
        for name, block in blocks.items():
            self.add_module(name, block)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor, output: Output) -> Tensor:
        """The features, or the logits less their bias."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3((images - 128) / 128)))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x))))
        for name in self.order:
            x = self.get_submodule(name)(x)
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return x if output == "features" else x @ self.fc.weight.T


def resized(image: np.ndarray, side: int = SIDE) -> Tensor:
    """[3, side, side] float32, 0 to 255, of an image [H, W, 3] uint8, as TensorFlow 1 resizes bilinearly.

    Output pixel i lies at input pixel i * length / side: corners are not aligned, and nothing is averaged.
    """
    x = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
    for axis in (2, 1):
        length = x.shape[axis]
        at = torch.arange(side, dtype=torch.float32) * torch.tensor(length / side, dtype=torch.float32)
        low = at.long()
        near, far = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1))
        share = at - low
        x = near + (far - near) * (share if axis == 2 else share[:, None])
    return x


class OverInception(SetMetric):
    """Statistics of torchmetrics on what the network makes of images."""

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The network."""
        return (WEIGHTS,)

    def opened(self, device: torch.device, output: Output) -> AbstractContextManager[Features]:
        """The network, loaded, once there is torchmetrics."""
        check_torchmetrics()
        return opened(WEIGHTS, device, output)


@contextmanager
def opened(weights: Web, device: torch.device, output: Output) -> Iterator[Features]:
    """What the network makes of images of any sizes, [N, F] float32 on the CPU, a few of which are in memory.

    Raises:
        InputError: The file of weights is damaged.
    """
    network = _read(weights.path()).to(device)

    @torch.no_grad()
    def features(images: Iterable[np.ndarray]) -> Tensor:
        parts = (torch.stack([resized(each) for each in part]) for part in in_parts(images, AT_ONCE))
        return joined(network(part.to(device), output).cpu() for part in parts)

    yield features


def _read(path: Path) -> Inception:
    network = Inception()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises a dozen types on a damaged file
        raise InputError(f"{path}: no weights of Inception ({type(error).__name__}): delete the file") from None
    return network.eval().requires_grad_(False)
