"""FID, KID and the Inception score: the network against torch-fidelity's, the statistics worked out by hand."""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn import functional

from ddspo.errors import InputError
from ddspo.metrics import _inception
from ddspo.metrics.base import SetMetric, Shown
from ddspo.metrics.fid import FID
from ddspo.metrics.inception_score import InceptionScore
from ddspo.metrics.kid import KID

CPU = torch.device("cpu")


def weights() -> dict[str, torch.Tensor]:
    """Random ones of a fixed seed, such that numbers neither vanish nor grow from layer to layer."""
    state, draw = _inception.Inception().state_dict(), torch.Generator().manual_seed(1)
    for name, value in state.items():
        if value.is_floating_point():
            random = torch.rand(value.shape, generator=draw)
            if name.endswith(("running_var", "bn.weight")):
                value.copy_(0.5 + random)
            elif value.dim() > 1:
                value.copy_((random - 0.5) * (24 / value[0].numel()) ** 0.5)
            else:
                value.copy_((random - 0.5) * 0.2)
    return state


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache that has a file where the weights would be."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        path = _inception.WEIGHTS.download._place
        path.parent.mkdir(parents=True)
        torch.save(weights(), path)
    return folder


def noise(number: int, *sides: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    return [draw.integers(0, 256, (*each, 3), dtype=np.uint8) for each in sides]


def test_the_network_is_torch_fidelitys(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers are those of torch-fidelity 0.4.0's FeatureExtractorInceptionV3 for these weights and images.

    The first three of 2048 and of 1008, and the mean size of all.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    images = noise(0, (64, 96), (400, 310))
    for output, wanted in GOLDEN.items():
        with _inception.opened(_inception.WEIGHTS, CPU, output) as features:  # type: ignore[arg-type]
            found = features(images)
        for row, (first, size) in zip(found, wanted, strict=True):
            assert row[:3].tolist() == pytest.approx(first, rel=1e-4)
            assert float(row.abs().mean()) == pytest.approx(size, rel=1e-4)


GOLDEN: dict[str, list[tuple[list[float], float]]] = {
    "features": [([6.65395, 0.33267, 12.90631], 3.68572), ([7.24364, 0.5279, 13.49715], 3.88925)],
    "logits": [([6.10702, -3.74984, 11.06811], 7.15732), ([5.81688, -3.79692, 11.65208], 7.55606)],
}


def test_images_are_resized_as_tensorflow_1_does() -> None:
    """Two pixels to four: places 0, .5, 1, 1.5, the last beyond the edge; with aligned centres it is 0 25 75 100.

    Four pixels to two are those at places 0 and 2: nothing is averaged, as antialias would.
    """
    two = np.array([[[0] * 3, [100] * 3]] * 2, np.uint8)
    assert _inception.resized(two, 4)[0, 0].tolist() == [0, 50, 100, 100]
    four = np.array([[[each] * 3 for each in (0, 10, 200, 90)]] * 4, np.uint8)
    assert _inception.resized(four, 2)[0, 0].tolist() == [0, 200]
    smooth = torch.from_numpy(four).permute(2, 0, 1)[None].float()
    smooth = functional.interpolate(smooth, (2, 2), mode="bilinear", antialias=True)
    assert smooth[0, 0, 0].tolist() != [0, 200]


def test_a_damaged_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = _inception.WEIGHTS.download._place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match="delete the file"), FID().open(CPU, lambda: []):
        pass


SIZE = 6


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the network: the numbers of the first pixels."""

    @contextmanager
    def opened(weights: object, device: torch.device, output: str) -> Iterator[object]:
        yield lambda images: torch.tensor(np.array([each.reshape(-1)[:SIZE] for each in images]) / 64).float()

    monkeypatch.setattr(_inception, "opened", opened)


def rows(images: list[np.ndarray]) -> np.ndarray:
    return np.array([each.reshape(-1)[:SIZE] for each in images]) / 64


def measured(metric: SetMetric, images: list[np.ndarray], real: list[np.ndarray] | None = None) -> dict[str, float]:
    with metric.open(CPU, (lambda: real) if real else None) as judge:
        return judge(Shown(each, "any") for each in images)


OWN, REAL = noise(1, *[(2, 3)] * 40), noise(2, *[(3, 2)] * 30)


@pytest.mark.usefixtures("tiny")
def test_fid_by_hand() -> None:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), covariances over N - 1, the root by scipy."""
    x, y = rows(OWN), rows(REAL)
    c, d = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert measured(FID(), OWN, REAL) == {"fid": pytest.approx(wanted, rel=1e-4)}


@pytest.mark.usefixtures("tiny")
def test_kid_by_hand() -> None:
    """A subset of all images is the same each time: the mean over pairs without the diagonal, which is unbiased.

    With the diagonal it would be another number.
    """
    x, y = rows(OWN[:30]), rows(REAL)
    xx, yy, xy = ((a @ b.T / SIZE + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    own = sum(each.sum() - np.trace(each) for each in (xx, yy)) / (30 * 29)
    found = measured(KID(subsets=3, subset_size=30), OWN[:30], REAL)
    assert found["kid"] == pytest.approx(own - 2 * xy.mean(), rel=1e-3)
    assert found["kid"] != pytest.approx(xx.mean() + yy.mean() - 2 * xy.mean(), rel=1e-2)
    assert found["deviation"] == pytest.approx(0, abs=1e-3 * found["kid"])


@pytest.mark.usefixtures("tiny")
def test_inception_score_by_hand() -> None:
    """exp(mean over images of sum p log(p / mean p)) of the softmax of the logits."""
    p = np.exp(rows(OWN))
    p /= p.sum(1, keepdims=True)
    wanted = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert measured(InceptionScore(splits=1), OWN) == {"inception_score": pytest.approx(wanted, rel=1e-5)}
    assert measured(InceptionScore(splits=2), OWN)["inception_score"] < wanted


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("metric", [FID(), KID(5, 20), InceptionScore(4)], ids=lambda each: each.title)
def test_neither_the_order_nor_earlier_draws_matter(metric: SetMetric) -> None:
    """Though KID and the score shuffle; and the world's random numbers go on as if nothing had been drawn."""
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    first = measured(metric, OWN, REAL)
    assert torch.equal(torch.rand(1), wanted)
    assert measured(metric, OWN[::-1], REAL[::-1]) == pytest.approx(first)


@pytest.mark.usefixtures("tiny")
def test_too_few_images_are_one_line() -> None:
    for metric, own, real in ((FID(), OWN[:1], REAL), (FID(), OWN, REAL[:1]), (KID(), OWN, REAL)):
        with pytest.raises(InputError, match="or more: give more"):
            measured(metric, own, real)
    with pytest.raises(InputError, match="inception_score: 10 images, and it takes 20 or more"):
        measured(InceptionScore(), OWN[:10])
    with pytest.raises(InputError, match="fid: it measures against real images: give references"):
        measured(FID(), OWN)


def test_without_torchmetrics_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is downloaded."""
    plain = builtins.__import__

    def without(name: str, *given: object, **more: object) -> object:
        if name.startswith("torchmetrics"):
            raise ImportError(name)
        return plain(name, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    for metric in (FID(), KID(), InceptionScore()):
        with pytest.raises(InputError, match=r"pip install \"ddspo\[judges\]\""):
            measured(metric, OWN, REAL)
