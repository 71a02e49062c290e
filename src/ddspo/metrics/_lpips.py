"""LPIPS over AlexNet: weighted squares of the differences of its five layers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from ddspo.downloads import Download
from ddspo.errors import InputError
from ddspo.weights import Web

TRUNK = Web(
    size=244_408_911,
    licence="BSD-3-Clause",
    commercial=True,
    download=Download(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
    ),
)
HEADS = Web(
    size=6009,
    licence="BSD-2-Clause",
    commercial=True,
    download=Download(
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
        "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        6009,
    ),
)
SHIFT, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the colours -1 to 1 that AlexNet reads."""
AFTER = (1, 4, 7, 9, 11)
"""The places of the five ReLUs among AlexNet's layers."""
TINY = 1e-10
"""Added to lengths, so that features of nothing stay 0."""


def alexnet() -> nn.Sequential:
    """AlexNet's layers up to the last ReLU, numbered as torchvision numbers them."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


@contextmanager
def opened(device: torch.device) -> Iterator[Callable[[Sequence[np.ndarray]], list[float]]]:
    """LPIPS of all pairs of some images [H, W, 3] uint8 of one size.

    Raises:
        InputError: A file of weights is damaged.
    """
    trunk, heads = alexnet(), _read(HEADS)
    trunk.load_state_dict(
        {name.removeprefix("features."): each for name, each in _read(TRUNK).items() if name.startswith("features.")}
    )
    trunk = trunk.to(device).eval()
    weights = [heads[f"lin{number}.model.1.weight"].to(device) for number in range(len(AFTER))]

    @torch.no_grad()
    def distances(images: Sequence[np.ndarray]) -> list[float]:
        features = [_layers(trunk, _colours(image).to(device)) for image in images]
        return [_distance(a, b, weights) for a, b in combinations(features, 2)]

    yield distances


def _read(weights: Web) -> dict[str, Tensor]:
    path = weights.path()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types on a damaged file
        raise InputError(f"{path}: no weights ({type(error).__name__}): delete the file") from None


def _colours(image: np.ndarray) -> Tensor:
    """[1, 3, H, W]: -1 to 1, shifted and scaled."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return (x - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SPREAD).view(1, 3, 1, 1)


def _layers(trunk: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The five layers, of length 1 at every place."""
    found = []
    for number, layer in enumerate(trunk):
        x = layer(x)
        if number in AFTER:
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + TINY))
    return found


def _distance(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Sum over layers of the mean over places of sum_c w_c (a_c - b_c)^2."""
    layers = zip(a, b, weights, strict=True)
    return float(sum((weight * (x - y).square()).sum(1).mean() for x, y, weight in layers))
