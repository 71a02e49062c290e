"""CLIPScore, PickScore and the aesthetic score on a tiny CLIP, against what the network itself gives by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_networks import (
    LONG,
    PROMPTS,
    SIDE,
    WIDTH,
    OpenClip,
    network,
    photographs,
    saved,
    scores_of,
    to_open_clip,
    tokens_of,
)
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil

from ddspo.errors import InputError
from ddspo.metrics.aesthetic import Aesthetic
from ddspo.metrics.clip_score import ClipScore
from ddspo.metrics.pick_score import PickScore
from ddspo.pixels import clip_pixels

PREPARE = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
"""The processor of CLIPs, whose centre begins at the whole pixel before."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(network(), tmp_path_factory.mktemp("clip"))


def cosines(images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
    """By open_clip's network with the weights of `network()`, and the processor of transformers."""
    reference = OpenClip(to_open_clip(network().state_dict()), "quick_gelu")
    pixels = PREPARE(images=list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return [reference.cosine(each, prompt) for each, prompt in zip(pixels, prompts, strict=True)]


def test_clip_score_by_hand(folder: Path) -> None:
    """max(100 cos, 0); where the configuration names no activation, as OpenAI's, it is quick_gelu."""
    written = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        written[part].pop("hidden_act", None)
    (folder / "config.json").write_text(json.dumps(written))
    found = scores_of(ClipScore(str(folder)), photographs(), PROMPTS)
    assert found == pytest.approx([max(100 * each, 0) for each in cosines(photographs(), PROMPTS)], abs=1e-3)
    assert any(found)


def test_less_than_nothing_is_nothing(tmp_path: Path) -> None:
    """With the image's vectors turned round, every cosine has the other sign: one of the two is cut at 0."""
    turned = network()
    with torch.no_grad():
        turned.visual_projection.weight.neg_()
    one = scores_of(ClipScore(str(saved(network(), tmp_path / "one"))), photographs(), PROMPTS)
    other = scores_of(ClipScore(str(saved(turned, tmp_path / "other"))), photographs(), PROMPTS)
    assert min(*one, *other) == 0
    for a, b, cosine in zip(one, other, cosines(photographs(), PROMPTS), strict=True):
        assert a - b == pytest.approx(100 * cosine, abs=1e-3)


def test_pick_score_by_hand(folder: Path) -> None:
    """exp(1.1) cos, which may be less than nothing."""
    found = scores_of(PickScore(str(folder)), photographs(), PROMPTS)
    expected = [np.exp(1.1) * each for each in cosines(photographs(), PROMPTS)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_activation_is_that_of_the_configuration(tmp_path: Path) -> None:
    """CLIP-H, hence PickScore, has the exact GELU; the other activation gives another score."""
    image, prompt = photographs()[2], PROMPTS[1]
    weights, (pixels,) = to_open_clip(network().state_dict()), clip_pixels([image], SIDE)
    found = {}
    for name in ("gelu", "quick_gelu"):
        (found[name],) = scores_of(PickScore(str(saved(network(name), tmp_path / name))), [image], [prompt])
        with torch.no_grad():
            expected = np.exp(1.1) * OpenClip(weights, name).cosine(pixels, prompt)
        assert found[name] == pytest.approx(expected, abs=1e-5)
    assert abs(found["gelu"] - found["quick_gelu"]) > 1e-3


@pytest.mark.parametrize("metric", [ClipScore, PickScore])
def test_of_a_long_prompt_the_first_tokens_count(metric: Any, folder: Path) -> None:
    """104 letters: the start, 75 of them, and the end, at which a text is read. Cut without the end, it is another."""
    assert len(tokens_of(LONG)) == 77
    images = photographs()[:1] * 3
    long, first, longer = scores_of(metric(str(folder)), images, [LONG, " ".join(LONG.split()[:75]), f"{LONG} z q"])
    assert long == pytest.approx(first, abs=1e-4)
    assert long == pytest.approx(longer, abs=1e-4)
    factor = 100 if metric is ClipScore else np.exp(1.1)
    (cosine,) = cosines(images[:1], [LONG])
    assert long == pytest.approx(max(factor * cosine, 0 if metric is ClipScore else -10), abs=1e-3)


@pytest.mark.parametrize("metric", [ClipScore, PickScore])
def test_neither_the_batch_nor_the_order_matters(metric: Any, folder: Path) -> None:
    images, prompts = photographs(), [PROMPTS[0], LONG, PROMPTS[2]]
    judged = metric(str(folder))
    together = scores_of(judged, images, prompts)
    assert together == pytest.approx(scores_of(judged, images[::-1], prompts[::-1])[::-1], abs=1e-4)
    alone = [scores_of(judged, [image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)


def head() -> dict[str, torch.Tensor]:
    """Three layers, numbered as those of the published head are: dropout is between the first and the second."""
    random = torch.Generator().manual_seed(1)
    sizes = {0: (8, WIDTH), 2: (4, 8), 3: (1, 4)}
    shapes = [(f"layers.{number}.{kind}", size) for number, size in sizes.items() for kind in ("weight", "bias")]
    return {
        name: torch.randn(size if name.endswith("weight") else size[:1], generator=random) for name, size in shapes
    }


def aesthetic(folder: Path, layers: Path, weights: dict[str, torch.Tensor]) -> Aesthetic:
    layers.mkdir(exist_ok=True)
    save_file(weights, layers / "model.safetensors")
    return Aesthetic(str(layers), clip=str(folder))


def test_the_aesthetic_score_by_hand(folder: Path, tmp_path: Path) -> None:
    """w3 (w2 (w0 v + b0) + b2) + b3 of the image's unit vector v; torchvision's centre begins at the even pixel."""
    w = head()
    reference = OpenClip(to_open_clip(network().state_dict()), "quick_gelu")
    expected = []
    for pixels in clip_pixels(photographs(), SIDE, round):
        with torch.no_grad():
            v = torch.nn.functional.normalize(reference.image(pixels), dim=0)
        for number in (0, 2, 3):
            v = w[f"layers.{number}.weight"] @ v + w[f"layers.{number}.bias"]
        expected.append(float(v))
    metric = aesthetic(folder, tmp_path / "layers", w)
    assert scores_of(metric, photographs(), PROMPTS) == pytest.approx(expected, abs=1e-4)
    assert scores_of(metric, photographs(), PROMPTS) == scores_of(metric, photographs(), PROMPTS[::-1])
    assert not metric.reads_prompt


@pytest.mark.parametrize("lacking", ["layers.2.weight", "layers.2.bias", "layers.3.weight"])
def test_a_head_that_does_not_fit(folder: Path, tmp_path: Path, lacking: str) -> None:
    weights = head()
    del weights[lacking]
    metric = aesthetic(folder, tmp_path / "layers", weights)
    with pytest.raises(InputError, match="do not lead from 16 numbers to one"):
        scores_of(metric, photographs(), PROMPTS)


def test_files_that_are_damaged_are_one_line(tmp_path: Path) -> None:
    folder = saved(network(), tmp_path / "clip")
    save_file({"logit_scale": torch.ones(())}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"missing .*its files are damaged or of another model"):
        scores_of(ClipScore(str(folder)), photographs(), PROMPTS)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="not loaded"):
        scores_of(PickScore(str(folder)), photographs(), PROMPTS)
    with pytest.raises(InputError, match="no such folder here"):
        scores_of(PickScore(str(tmp_path / "nowhere")), photographs(), PROMPTS)


def test_what_is_downloaded_is_said_with_its_licence() -> None:
    for metric in (ClipScore(), PickScore(), Aesthetic()):
        assert all(each.commercial and each.size for each in metric.weights)
    assert str(PickScore().weights[0]) == "yuvalkirstain/PickScore_v1 (3.9 GB, MIT)"
    assert [each.name for each in Aesthetic().weights] == [
        "ttj/sac-logos-ava1-l14-linearMSE",
        "openai/clip-vit-large-patch14",
    ]
