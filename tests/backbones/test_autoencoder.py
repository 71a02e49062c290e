"""The autoencoder takes few pixels at a time, whatever it is given: a batch bounds the denoiser alone."""

from typing import Any

import numpy as np
import pytest
import torch

from ddspo import components
from ddspo.backbones import _autoencoder as module
from ddspo.backbones.base import Backbone


class Refusing:
    """An autoencoder that fails, as one without memory would, where it is given more than so many pixels."""

    def __init__(self, vae: Any, most: int, scale: int) -> None:
        self.vae, self.most, self.scale = vae, most, scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, x: torch.Tensor, **given: Any) -> Any:
        assert x.shape[0] * x.shape[2] * x.shape[3] <= self.most
        return self.vae.encode(x, **given)

    def decode(self, code: torch.Tensor, **given: Any) -> Any:
        assert code.shape[0] * code.shape[2] * code.shape[3] * self.scale**2 <= self.most
        return self.vae.decode(code, **given)


@pytest.mark.parametrize("name", components.names(Backbone))
def test_it_takes_few_pixels_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images by threes, and one by one where each has more than is allowed: as all at once, but for rounding."""
    backbone: Backbone = components.find(Backbone, name).tiny()
    latents = torch.randn(7, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    images = backbone.decode(latents)
    codes, features = backbone.to_latents(images), backbone.features(images)
    pixels = images[0].shape[0] * images[0].shape[1]
    whole = backbone.autoencoder
    for budget, at_once in ((3 * pixels + 1, 3), (pixels - 1, 1)):
        vae = Refusing(whole.vae, at_once * pixels, whole.scale)
        monkeypatch.setattr(module, "PIXELS", budget)
        monkeypatch.setattr(Backbone, "autoencoder", module.Autoencoder(vae, whole.processor, whole.scale))
        assert np.abs(np.stack(backbone.decode(latents)).astype(int) - np.stack(images)).max() <= 1
        torch.testing.assert_close(backbone.to_latents(images), codes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.features(images), features, rtol=1e-4, atol=1e-5)


def test_an_image_of_a_thousand_pixels_a_side_goes_alone() -> None:
    """And 64 of the miniature's size go together, as they always did."""
    assert module.at_once(1024 * 1024) == module.at_once(2048 * 2048) == 1
    assert module.at_once(512 * 512) == 4
    assert module.at_once(32 * 32) >= 64
