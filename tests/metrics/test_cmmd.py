"""CMMD, with a tiny CLIP, worked out by hand from its own embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from ddspo.metrics import cmmd
from ddspo.metrics.base import Shown
from ddspo.metrics.cmmd import CMMD
from ddspo.pixels import normalised

CPU = torch.device("cpu")
SIDE = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the published one: both towers of a CLIP, in one pickle."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 10, "max_position_embeddings": 4},
        vision_config=small | {"image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    folder = tmp_path_factory.mktemp("clip")
    network = CLIPModel(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


def pictures(number: int, *sides: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    small = [draw.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in sides]
    return [np.asarray(Image.fromarray(each).resize(size)) for each, size in zip(small, sides, strict=True)]


OWN = pictures(0, *[(SIDE, SIDE)] * 3, (40, 24), (24, 50))
REAL = pictures(1, (30, 30), (31, 24), (SIDE, SIDE), (60, 90))


def embeddings(clip: Path, images: list[np.ndarray]) -> torch.Tensor:
    network = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        return network.get_image_features(pixel_values=cmmd.square_pixels(images, SIDE)).pooler_output


def by_hand(x: torch.Tensor, y: torch.Tensor) -> float:
    k = [[torch.exp(-torch.cdist(a, b).square() / 200).mean() for b in (x, y)] for a in (x, y)]
    return float(1000 * (k[0][0] + k[1][1] - 2 * k[0][1]))


@pytest.mark.parametrize(("at_once", "rows"), [(16, 1024), (2, 3)])
def test_cmmd_by_hand(clip: Path, at_once: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of length 1, sigma 10, each image with itself too, times 1000; without the first it is another."""
    monkeypatch.setattr(cmmd, "AT_ONCE", at_once)
    monkeypatch.setattr(cmmd, "ROWS", rows)
    with CMMD(str(clip)).open(CPU, lambda: REAL) as judge:
        found = judge(Shown(each, "any") for each in OWN)
    raw = [embeddings(clip, images).double() for images in (OWN, REAL)]
    unit = [each / each.norm(dim=1, keepdim=True) for each in raw]
    assert found["cmmd"] == pytest.approx(by_hand(*unit), rel=1e-4)
    assert found["cmmd"] != pytest.approx(by_hand(*raw), rel=0.1)
    n, m = len(OWN), len(REAL)
    least = 1000 * (1 / n + 1 / m)  # what the diagonal adds if all others were 0
    x, y = (torch.exp(-torch.cdist(each, each).square() / 200) for each in unit)
    unbiased = (x.sum() - n) / n / (n - 1) + (y.sum() - m) / m / (m - 1)
    unbiased -= 2 * torch.exp(-torch.cdist(*unit).square() / 200).mean()
    assert 0 < found["cmmd"] < least
    assert found["cmmd"] != pytest.approx(1000 * float(unbiased), rel=0.1)


def test_the_same_images_are_no_distance_apart(clip: Path) -> None:
    with CMMD(str(clip)).open(CPU, lambda: OWN[::-1]) as judge:
        assert judge(Shown(each, "any") for each in OWN)["cmmd"] == pytest.approx(0, abs=1e-9)


def test_the_middle_is_cut_out_before_it_is_resized() -> None:
    """Of 5 x 2 pixels the middle begins at 1, and what is left over is right of it; nothing outside has an influence.

    Resized first, the short side to four pixels, the two columns would be mixed with their neighbours.
    """
    row = np.array([255, 0, 0, 255, 255], np.uint8)
    image = np.broadcast_to(row[None, :, None], (2, 5, 3))
    black = cmmd.square_pixels([np.zeros((4, 4, 3), np.uint8)], 4)
    assert torch.equal(cmmd.square_pixels([image], 4), black)


def test_it_is_resized_by_the_bicubic_filter_of_pil() -> None:
    """Smaller and larger; a bilinear filter, or one without antialias, gives other pixels."""
    for image in (REAL[3], OWN[0][:10, :10]):
        square = cmmd._square(Image.fromarray(image))
        wanted = {
            name: normalised([square.resize((SIDE, SIDE), Image.Resampling[name])])
            for name in ("BICUBIC", "BILINEAR", "NEAREST")
        }
        found = cmmd.square_pixels([image], SIDE)
        assert [torch.equal(found, each) for each in wanted.values()] == [True, False, False]
