"""Distance and diversity by the autoencoder of the pipeline that the package ships, against the formulas in full."""

import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddspo.backbones._lone_autoencoder import lone_autoencoder
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.maths.frechet import frechet_distance
from ddspo.metrics import _latents
from ddspo.metrics.base import Shown
from ddspo.metrics.latent_distance import LatentDistance
from ddspo.metrics.latent_diversity import LatentDiversity
from ddspo.places import local

NOISE = "package://ddspo.scenes/noise"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The whole pipeline, its denoiser and text encoder too."""
    return SD.load(Model(NOISE))


def pictures(number: int, *sizes: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(number)
    small = [draw.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in sizes]
    return [np.asarray(Image.fromarray(each).resize(size)) for each, size in zip(small, sizes, strict=True)]


def shown(images: list[np.ndarray], prompts: int) -> Iterator[Shown]:
    return (Shown(image, str(number % prompts)) for number, image in enumerate(images))


def side(backbone: Backbone) -> tuple[int, int]:
    return (backbone.call["width"], backbone.call["height"])


@pytest.mark.parametrize("at_once", [64, 2])
def test_the_distance_is_that_of_features_of_all_images_cropped_to_the_model(
    backbone: Backbone, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references have other sizes, are cropped as the backbone does it, and are read once for two sets."""
    monkeypatch.setattr(_latents, "AT_ONCE", at_once)
    own = pictures(0, *[side(backbone)] * 7)
    real = pictures(1, (20, 40), side(backbone), (90, 70), (64, 100), (33, 31))
    reads = []
    with LatentDistance(NOISE).open(CPU, lambda: reads.append(1) or iter(real)) as judge:
        found = [judge(shown(part, 3)) for part in (own, own[:3])]
    features = backbone.features([backbone.fit(each) for each in real])
    wanted = [frechet_distance(backbone.features(part), features) for part in (own, own[:3])]
    exact = pytest.approx if at_once == 2 else lambda each: each  # sums of other batches round differently
    assert [each["distance"] for each in found] == exact(wanted)
    assert (reads, wanted[0] != wanted[1]) == ([1], True)


def test_diversity_is_the_mean_over_pairs_of_one_prompt(backbone: Backbone) -> None:
    """Five images of two prompts: 3 + 1 pairs, all of equal weight, and none across prompts."""
    own = pictures(2, *[side(backbone)] * 5)
    with LatentDiversity(NOISE).open(CPU, None) as judge:
        found = judge(shown(own, 2))
    features = backbone.features(own)
    groups = [features[0::2], features[1::2]]
    apart = [float((a - b).norm()) for group in groups for a, b in combinations(group, 2)]
    assert len(apart) == 4
    assert found == {"diversity": float(np.mean(apart))}


def test_diversity_of_smaller_images_is_that_of_their_own_pixels(backbone: Backbone) -> None:
    """Cropped to 16 pixels a side, a multiple of the autoencoder's cells, beside others of the model's own side."""
    small, own = pictures(6, (17, 16), (16, 19), (16, 16)), pictures(7, *[side(backbone)] * 2)
    with LatentDiversity(NOISE).open(CPU, None) as judge:
        found = judge([Shown(image, str(len(image) > 19)) for image in small + own])
    cropped = [backbone.autoencoder.fit(image, 16, 16, "crop") for image in small]
    groups = [backbone.features(cropped), backbone.features(own)]
    apart = [float((a - b).norm()) for group in groups for a, b in combinations(group, 2)]
    assert found["diversity"] == pytest.approx(float(np.mean(apart)), rel=1e-5)


def test_an_image_of_the_models_size_is_left_as_it_is(backbone: Backbone) -> None:
    (own,) = pictures(3, side(backbone))
    assert (backbone.fit(own) == own).all()


def test_only_the_autoencoders_weights_are_read(tmp_path: Path, backbone: Backbone) -> None:
    """A folder that holds no others will do, and nothing else is in memory."""
    source = local(NOISE)
    assert source
    shutil.copytree(source, tmp_path / "part")
    for path in [*tmp_path.glob("part/unet/*.safetensors"), *tmp_path.glob("part/text_encoder/*.safetensors")]:
        path.unlink()
    part = lone_autoencoder(tmp_path / "part", torch.float32, CPU)
    own = pictures(4, side(backbone), side(backbone))
    assert torch.equal(part.features(own), backbone.features(own))
    assert next(part.denoiser.parameters()).is_meta


def no_vae(folder: Path) -> None:
    next(folder.glob("vae/*.safetensors")).unlink()


def other_pipeline(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"AudioLDMPipeline"'))


@pytest.mark.parametrize(("harm", "line"), [(no_vae, "vae has no weights"), (other_pipeline, "no backbone reads")])
def test_a_folder_that_will_not_do_is_one_line(tmp_path: Path, harm: Callable[[Path], None], line: str) -> None:
    source = local(NOISE)
    assert source
    shutil.copytree(source, tmp_path / "part")
    harm(tmp_path / "part")
    with pytest.raises(InputError, match=line), LatentDiversity(str(tmp_path / "part")).open(CPU, None):
        pass


def test_too_few_images_are_one_line(backbone: Backbone) -> None:
    own = pictures(5, *[side(backbone)] * 3)
    with LatentDiversity(NOISE).open(CPU, None) as judge, pytest.raises(InputError, match="no prompt has two images"):
        judge(shown(own, 3))
    with LatentDistance(NOISE).open(CPU, lambda: own) as judge, pytest.raises(InputError, match="it takes 2 or more"):
        judge(shown(own[:1], 1))
    with (
        LatentDistance(NOISE).open(CPU, lambda: own[:1]) as judge,
        pytest.raises(InputError, match="it takes 2 or more"),
    ):
        judge(shown(own, 1))
    with pytest.raises(InputError, match="give references"), LatentDistance(NOISE).open(CPU, None):
        pass
