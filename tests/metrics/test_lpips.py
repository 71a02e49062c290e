"""LPIPS diversity, with random weights in the published files' place."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddspo.errors import InputError
from ddspo.metrics import _lpips
from ddspo.metrics.base import Shown
from ddspo.metrics.lpips_diversity import LPIPSDiversity
from ddspo.weights import Web

CPU = torch.device("cpu")


def random(*sizes: int, draw: torch.Generator) -> torch.Tensor:
    return (torch.rand(sizes, generator=draw) - 0.5) * (12 / np.prod(sizes[1:])) ** 0.5


def trunk(draw: torch.Generator) -> dict[str, torch.Tensor]:
    """As published: AlexNet with the layers that LPIPS does not read."""
    named = {
        f"features.{name}": random(*each.shape, draw=draw) for name, each in _lpips.alexnet().state_dict().items()
    }
    return named | {"classifier.6.weight": torch.zeros(10, 4)}


def heads(draw: torch.Generator) -> dict[str, torch.Tensor]:
    channels = (64, 192, 384, 256, 256)
    return {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1, generator=draw) for n, c in enumerate(channels)}


def keep(weights: Web, content: object) -> None:
    path = weights.download._place
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    draw = torch.Generator().manual_seed(4)
    keep(_lpips.TRUNK, trunk(draw))
    keep(_lpips.HEADS, heads(draw))
    return


def noise(number: int, *sides: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    return [draw.integers(0, 256, (*each, 3), dtype=np.uint8) for each in sides]


GOLDEN = [0.566131, 1.1194068, 1.1104957]


@pytest.mark.usefixtures("kept")
def test_distances_are_those_of_lpips() -> None:
    """The numbers are those of lpips 0.1.4's `LPIPS(net="alex")` for these weights and images."""
    images = [*noise(0, (96, 80), (96, 80)), np.zeros((96, 80, 3), np.uint8)]
    with _lpips.opened(CPU) as distances:
        assert distances(images) == pytest.approx(GOLDEN, rel=1e-5)


@pytest.mark.usefixtures("kept")
def test_the_mean_is_over_pairs_of_one_prompt() -> None:
    """Three images of one prompt and two of another, resized to one size: 3 + 1 pairs; one image has no pair."""
    images = noise(1, (64, 64), (90, 70), (64, 64), (80, 100), (65, 64), (64, 64))
    with LPIPSDiversity(pixels=64).open(CPU, None) as judge:
        found = judge(Shown(*each) for each in zip(images, "abaabc", strict=True))
    small = [np.asarray(Image.fromarray(each).resize((64, 64), Image.Resampling.BICUBIC)) for each in images]
    with _lpips.opened(CPU) as distances:
        apart = [distances(pair)[0] for group in ((0, 2, 3), (1, 4)) for pair in _pairs(small, group)]
    assert len(apart) == 4
    assert found == {"lpips_diversity": pytest.approx(np.mean(apart), rel=1e-5)}


def _pairs(images: list[np.ndarray], group: tuple[int, ...]) -> list[list[np.ndarray]]:
    return [[images[a], images[b]] for a, b in combinations(group, 2)]


@pytest.mark.usefixtures("kept")
def test_one_image_a_prompt_and_a_damaged_file_are_one_line() -> None:
    images = noise(2, (64, 64), (64, 64))
    with LPIPSDiversity().open(CPU, None) as judge, pytest.raises(InputError, match="no prompt has two images"):
        judge(Shown(*each) for each in zip(images, "ab", strict=True))
    _lpips.HEADS.download._place.write_bytes(b"nothing")
    with pytest.raises(InputError, match="delete the file"), LPIPSDiversity().open(CPU, None):
        pass
