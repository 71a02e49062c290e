"""What is particular to Chroma: its mask, in sampling, in training, and where blocks run again."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddspo.adaptations.base import recompute_activations
from ddspo.backbones.base import Model
from ddspo.backbones.chroma import Chroma


def test_the_mask_keeps_one_token_of_padding() -> None:
    """T5 reads "x" as a space, a letter and the end, 3 tokens; "a red cube" as 3 spaces, 8 letters and the end."""
    backbone = Chroma.tiny()
    mask = backbone.encode(["x", "a red cube"])["attention_mask"]
    assert mask.sum(1).tolist() == [3 + 1, 12 + 1]
    assert mask[0, :4].all()


def test_where_nothing_is_padding_everything_is_read() -> None:
    backbone = Chroma.of(Chroma.tiny().pipeline, Model("x", max_length=5))
    assert backbone.encode(["abcdefgh"])["attention_mask"].tolist() == [[1.0] * 5]


@pytest.mark.parametrize("side", [8, 12])
def test_the_mask_goes_on_over_the_image(side: int) -> None:
    """The text's 24 tokens, and one for each patch of 2 x 2, whatever the image's size."""
    backbone, seen = Chroma.tiny(), []
    backbone.denoiser.register_forward_pre_hook(
        lambda _, args, named: seen.append(named["attention_mask"]), with_kwargs=True
    )
    x, condition = torch.randn(1, 4, side, side), backbone.encode(["x"])
    backbone.predict(backbone.denoiser, x, torch.tensor([500.0]), condition)
    assert seen[0].shape == (1, 24 + side * side // 4)
    assert seen[0].sum() == 4 + side * side // 4


def test_a_forward_whose_blocks_will_run_again_reads_the_mask() -> None:
    """To the bit what it predicts without a backward pass: so policy and reference stay one function at the start."""
    backbone = Chroma.tiny()
    x, condition = torch.randn(2, *backbone.latent_shape), backbone.encode(["x", "a red cube"])
    t = torch.tensor([10.0, 700.0])
    recompute_activations(backbone.denoiser)
    again = backbone.predict(backbone.denoiser, x, t, condition)
    assert again.requires_grad
    with torch.no_grad():
        assert torch.equal(backbone.predict(backbone.denoiser, x, t, condition), again.detach())


def test_other_spacings_of_times_are_sampled() -> None:
    """A folder may ask for times spaced by a beta distribution."""
    backbone = Chroma.tiny()
    backbone.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_beta_sigmas=True)
    assert torch.isfinite(backbone.generate(["x"], [1], 3, 5.0)).all()
    assert backbone.evaluations(3, 5.0) == 6
