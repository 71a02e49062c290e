"""PixArt-alpha: what it is told of an image's size, when, and what its folders call its transformer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PixArtTransformer2DModel

from ddspo.backbones._outline import outline
from ddspo.backbones.base import Model
from ddspo.backbones.pixart_alpha import PixArtAlpha


def test_the_size_and_the_shape_are_told() -> None:
    """Height, width, and their ratio, of the image that is made, not of the one that the model was made for."""
    backbone = PixArtAlpha.tiny()
    for side in (16, 48):
        read = PixArtAlpha.of(backbone.pipeline, Model("x", resolution=side, max_length=24)).encode(["x", "y"])
        assert read["resolution"].tolist() == [[side, side]] * 2
        assert read["aspect_ratio"].tolist() == [[1.0]] * 2


def test_what_is_told_matters() -> None:
    """And reaches the network: the same noisy latents of another image are denoised otherwise."""
    backbone = PixArtAlpha.tiny()
    x, t, read = torch.randn(1, *backbone.latent_shape), torch.tensor([500]), backbone.encode(["x"])
    with torch.no_grad():
        found = backbone.predict(backbone.denoiser, x, t, read)
        for name, other in {"resolution": 2 * read["resolution"], "aspect_ratio": 2 * read["aspect_ratio"]}.items():
            moved = backbone.predict(backbone.denoiser, x, t, {**read, name: other})
            assert not torch.allclose(moved, found, atol=1e-4)


def test_smaller_models_are_told_nothing() -> None:
    """As the pipeline has it: of 512 pixels, 64 a side."""
    pipeline = PixArtAlpha.tiny_pipeline(sample_size=64, attention_head_dim=12, cross_attention_dim=24)
    backbone = PixArtAlpha.of(pipeline, Model("x", resolution=16, max_length=24))
    assert backbone.encode(["x"]).keys() == {"encoder_hidden_states", "encoder_attention_mask"}
    assert torch.isfinite(backbone.generate(["x"], [1], 2, 4.5)).all()


@pytest.mark.parametrize("older", ["Transformer2DModel", "PixArtTransformer2DModel"])
def test_a_folder_may_call_its_transformer_by_an_older_name(older: str, tmp_path: Path) -> None:
    """As the official ones do; it is loaded, and outlined, as what it is."""
    backbone = PixArtAlpha.tiny()
    backbone.save(tmp_path)
    index, config = tmp_path / "model_index.json", tmp_path / "transformer/config.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"transformer": ["diffusers", older]}))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": older}))
    model = Model(str(tmp_path), resolution=16, max_length=24)
    found = PixArtAlpha.load(model)
    assert type(found.denoiser) is type(outline(PixArtAlpha, model).denoiser) is PixArtTransformer2DModel
    x, t = torch.randn(1, *backbone.latent_shape), torch.tensor([500])
    with torch.no_grad():
        ours, theirs = (each.predict(each.denoiser, x, t, each.encode(["a b"])) for each in (found, backbone))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, DDIMScheduler])
def test_a_single_step_goes_to_the_image(kind: Any) -> None:
    """x_0 = (x_t - sigma eps) / alpha, and where the scheduler ends at the image there is nothing behind it.

    The pipeline alone fails with the solver that its folders have, and takes what DDIM says of the image.
    """
    backbone = PixArtAlpha.tiny()
    options = {"clip_sample": False} if kind is DDIMScheduler else {}
    backbone.pipeline.scheduler = kind(beta_schedule="linear", **options)
    found = backbone.generate(["x"], [1], 1, 1.0)
    (t,) = backbone.pipeline.scheduler.timesteps
    noise = backbone.initial_noise([1])
    with torch.no_grad():
        eps = backbone.predict(backbone.denoiser, noise, t[None], backbone.encode(["x"]))
    alpha, sigma = backbone.path.coefficients(t[None])
    torch.testing.assert_close(found, (noise - sigma * eps) / alpha, rtol=1e-3, atol=1e-4)
    assert "step" not in vars(backbone.pipeline.scheduler)
