"""Both releases of HPSv2 on a tiny CLIP of open_clip's, and its weights under transformers' names."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_networks import (
    LONG,
    PROMPTS,
    SIDE,
    OpenClip,
    config,
    network,
    open_clip_weights,
    photographs,
    scores_of,
    to_open_clip,
    tokenizer,
)
from PIL import Image

from ddspo.errors import InputError
from ddspo.metrics._hps import padded
from ddspo.metrics._open_clip import from_open_clip
from ddspo.metrics.hps import HPS
from ddspo.metrics.hps_v2 import FirstHPS
from ddspo.pixels import CLIP_MEAN, CLIP_STD, clip_pixels

FILES = {HPS: "HPS_v2.1_compressed.pt", FirstHPS: "HPS_v2_compressed.pt"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration and a tokenizer, without weights."""
    folder = tmp_path_factory.mktemp("base")
    config("gelu").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def published(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> str:
    """As the published files are: 16 bits, under `state_dict`."""
    torch.save({"state_dict": {name: each.half() for name, each in weights.items()}}, folder / name)
    return str(folder)


def test_either_direction_of_the_names() -> None:
    """transformers' names to open_clip's and back, and open_clip's to transformers' and back, are all the same."""
    theirs, ours = open_clip_weights(), network().state_dict()
    there = from_open_clip(to_open_clip(ours))
    back = to_open_clip(from_open_clip(theirs))
    for one, other in ((there, ours), (back, theirs)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("release", [HPS, FirstHPS])
def test_the_score_by_hand(release: Any, base: Path, tmp_path: Path) -> None:
    """100 cos of open_clip's own network with the exact GELU: neither exp(logit_scale) nor quick_gelu has a part."""
    weights = {name: each.half().float() for name, each in open_clip_weights().items()}
    metric = release(published(tmp_path, FILES[release], weights), base=str(base))
    prompts = [PROMPTS[0], LONG, PROMPTS[2]]
    found = scores_of(metric, photographs(), prompts)
    with torch.no_grad():
        for activation, close in (("gelu", True), ("quick_gelu", False)):
            reference = OpenClip(weights, activation)
            cosines = [
                reference.cosine(padded(image, SIDE), prompt)
                for image, prompt in zip(photographs(), prompts, strict=True)
            ]
            assert (found == pytest.approx([100 * each for each in cosines], abs=2e-3)) is close


def test_weights_of_transformers_give_the_same_scores(base: Path, tmp_path: Path) -> None:
    """A CLIP of transformers written as open_clip's file, and by hand: its own vectors, without the logit scale."""
    made = network("gelu").half().float()
    metric = HPS(published(tmp_path, FILES[HPS], to_open_clip(made.state_dict())), base=str(base))
    pixels = torch.stack([padded(image, SIDE) for image in photographs()])
    tokens = tokenizer()(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = torch.cosine_similarity(
            made.get_image_features(pixels).pooler_output, made.get_text_features(**tokens).pooler_output
        )
    assert scores_of(metric, photographs(), PROMPTS) == pytest.approx((100 * expected).tolist(), abs=1e-3)


def test_neither_the_batch_nor_the_order_matters(base: Path, tmp_path: Path) -> None:
    images, prompts = photographs(), [PROMPTS[0], LONG, PROMPTS[2]]
    metric = HPS(published(tmp_path, FILES[HPS], open_clip_weights()), base=str(base))
    together = scores_of(metric, images, prompts)
    assert together == pytest.approx(scores_of(metric, images[::-1], prompts[::-1])[::-1], abs=1e-4)
    alone = [scores_of(metric, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)


def test_black_is_around_an_image_that_is_not_square() -> None:
    """White, 6 x 18 at side 12: 4 rows of white between 4 of black above and 4 below, normalised after all that."""
    white, black = ([(value - m) / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)] for value in (1, 0))
    found = padded(np.full((6, 18, 3), 255, np.uint8), 12)
    assert found.shape == (3, 12, 12)
    for row in range(12):
        colour = white if 4 <= row < 8 else black
        torch.testing.assert_close(found[:, row], torch.tensor(colour)[:, None].expand(3, 12), rtol=0, atol=1e-5)
    assert not torch.allclose(found, clip_pixels([np.full((6, 18, 3), 255, np.uint8)], 12)[0])


def test_where_one_pixel_is_left_over_it_is_below_and_to_the_right() -> None:
    """12 x 3 at side 12: 9 columns of black, 4 to the left and 5 to the right."""
    found = padded(np.full((12, 3, 3), 255, np.uint8), 12)
    assert [bool(each > 0) for each in found[0, 0]] == [4 <= column < 7 for column in range(12)]


def test_a_square_is_resized_as_pillow_does_but_on_floats() -> None:
    """Pillow rounds to 8 bits and cuts off what lies outside of black and white; the floats keep it."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    mean, std = (np.array(each).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
    found = padded(image, 12).numpy() * std + mean
    small = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    assert np.abs(found.clip(0, 1) - small).max() < 1 / 255
    assert found.min() < -0.01
    assert found.max() > 1.01


def test_an_image_a_pixel_high_leaves_a_row() -> None:
    assert padded(np.full((1, 2000, 3), 255, np.uint8), 12).isfinite().all()


class Trap:
    """What a pickle can do to whoever loads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("trapped",)


def test_nothing_of_a_pickle_is_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Trap()}, tmp_path / FILES[HPS])
    with pytest.raises(InputError, match=r"HPS_v2\.1_compressed\.pt not read") as caught:
        scores_of(HPS(str(tmp_path), base=str(base)), photographs(), PROMPTS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def test_files_that_do_not_fit_are_one_line(base: Path, tmp_path: Path) -> None:
    metric = HPS(str(tmp_path), base=str(base))
    with pytest.raises(InputError, match=r"no HPS_v2\.1_compressed\.pt there"):
        scores_of(metric, photographs(), PROMPTS)
    weights = open_clip_weights()
    for name, value, message in (
        ("visual.proj", None, "visual_projection.weight is missing"),
        ("visual.proj", torch.zeros(3, 3), "visual_projection.weight is missing or of another size"),
        ("score_predictor.weight", torch.zeros(3), "score_predictor.weight is not known to its class"),
        ("logit_scale", torch.tensor(torch.nan), "logit_scale is not finite"),
    ):
        changed = {**weights, name: value} if value is not None else {k: v for k, v in weights.items() if k != name}
        published(tmp_path, FILES[HPS], changed)
        with pytest.raises(InputError, match=message):
            scores_of(metric, photographs(), PROMPTS)
    torch.save({"state_dict": 1}, tmp_path / FILES[HPS])
    with pytest.raises(InputError, match="holds no weights"):
        scores_of(metric, photographs(), PROMPTS)


def test_what_is_downloaded_is_said_with_its_licence() -> None:
    assert [str(each) for each in HPS().weights] == [
        "xswu/HPSv2 (2 GB, Apache-2.0)",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K (0.004 GB, MIT)",
    ]
    assert HPS().weights[0].files == ("HPS_v2.1_compressed.pt",)
    assert FirstHPS().weights[0].files == ("HPS_v2_compressed.pt",)
