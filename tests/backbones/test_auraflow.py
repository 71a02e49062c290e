"""What is particular to AuraFlow: text that ends in zeros, a grid of places that ends, a size that no file names."""

import pytest
import torch

from ddspo.backbones.auraflow import AuraFlow
from ddspo.backbones.base import Model
from ddspo.errors import InputError


@pytest.fixture(scope="module")
def backbone() -> AuraFlow:
    return AuraFlow.tiny()


def test_what_is_no_text_is_zero(backbone: AuraFlow) -> None:
    """T5 reads "x" as a space, a letter and the end: 3 tokens, and 21 zeros."""
    hidden = backbone.encode(["x"])["encoder_hidden_states"]
    assert hidden.shape == (1, 24, 32)
    assert hidden[0, :3].any(dim=1).all()
    assert not hidden[0, 3:].any()


def test_the_size_is_the_pipelines() -> None:
    """1024 pixels, though the configuration says `sample_size` 8: 128 latents a side, in 64 patches."""
    made = AuraFlow.of(AuraFlow.tiny().pipeline, Model("x"))
    assert made.call == {"height": 1024, "width": 1024, "max_sequence_length": 256}
    assert made.latent_shape == (4, 128, 128)
    assert made.tokens == 64**2


def test_no_side_is_longer_than_the_grid(backbone: AuraFlow) -> None:
    """4096 places are 64 a side, of 16 pixels each; beyond, the network reads places of other rows."""
    assert AuraFlow.of(backbone.pipeline, Model("x", resolution=1024)).tokens == 4096
    with pytest.raises(InputError, match=r"model\.resolution 1040: the transformer goes to 1024: give less"):
        AuraFlow.of(backbone.pipeline, Model("x", resolution=1040))


def test_an_image_takes_the_middle_of_the_grid(backbone: AuraFlow) -> None:
    """4 x 4 patches of 64 x 64 places: rows and columns 30 to 33, and no other place has a part in it."""
    backbone.denoiser.zero_grad()
    grid = backbone.denoiser.get_submodule("pos_embed")
    x, condition = torch.randn(1, *backbone.latent_shape), backbone.encode(["x"])
    backbone.predict(backbone.denoiser, x, torch.tensor([500.0]), condition).sum().backward()
    assert isinstance(grid.pos_embed, torch.Tensor)
    assert grid.pos_embed.grad is not None
    taken = grid.pos_embed.grad.any(dim=2).view(64, 64).nonzero()
    assert taken.tolist() == [[row, column] for row in range(30, 34) for column in range(30, 34)]
