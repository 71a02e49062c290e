"""CogView4: texts of several lengths, a clock beside its noise, and sizes."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ddspo.adaptations.base import recompute_activations
from ddspo.backbones.base import Model
from ddspo.backbones.cogview4 import MASK, CogView4
from ddspo.errors import InputError

PROMPTS = ["x", "a red cube on a blue sphere", "two cats"]
"""Of 1, 27 and 8 letters behind two marks: 16, 32 and 16 tokens."""


@pytest.fixture
def backbone() -> CogView4:
    return CogView4.tiny()


def alone(backbone: CogView4, prompt: str, seed: int, guidance: float) -> torch.Tensor:
    """What the plain pipeline makes of one prompt."""
    noise = backbone.initial_noise([seed])
    options = {"num_inference_steps": 2, "guidance_scale": guidance, "output_type": "latent"}
    found: torch.Tensor = backbone.pipeline(prompt=prompt, latents=noise, **options, **backbone.call).images
    return found


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_each_text_is_drawn_as_the_pipeline_draws_it_alone(backbone: CogView4, guidance: float) -> None:
    """Together the pipeline would fill them up to the longest, and read what it fills them with."""
    together = backbone.generate(PROMPTS, [1, 2, 3], 2, guidance)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(together[row], alone(backbone, prompt, row + 1, guidance)[0], rtol=1e-4, atol=1e-4)
    told = {"num_inference_steps": 2, "guidance_scale": guidance, "output_type": "latent"} | backbone.call
    theirs = backbone.pipeline(prompt=PROMPTS, latents=backbone.initial_noise([1, 2, 3]), **told).images
    assert not torch.allclose(theirs[0], together[0], atol=1e-3)


def test_each_text_is_predicted_as_if_it_were_alone(backbone: CogView4) -> None:
    """Also where blocks run again in the backward pass, to the bit; and however many tokens there is room for."""
    x, t = torch.randn(3, *backbone.latent_shape), torch.tensor([10.0, 500.0, 990.0])
    condition = backbone.encode(PROMPTS)
    assert condition[MASK].sum(1).tolist() == [16, 32, 16]
    longer = CogView4.of(backbone.pipeline, Model("x", max_length=200))
    with torch.no_grad():
        found = backbone.predict(backbone.denoiser, x, t, condition)
        assert torch.equal(longer.predict(longer.denoiser, x, t, longer.encode(PROMPTS)), found)
        for row, prompt in enumerate(PROMPTS):
            one = backbone.predict(backbone.denoiser, x[row : row + 1], t[row : row + 1], backbone.encode([prompt]))
            torch.testing.assert_close(one[0], found[row], rtol=1e-4, atol=1e-5)
    recompute_activations(backbone.denoiser)
    again = backbone.predict(backbone.denoiser, x, t, condition)
    assert again.requires_grad
    assert torch.equal(again.detach(), found)


def test_what_does_not_fit_is_not_read(backbone: CogView4) -> None:
    """48 tokens; of 20, all of them are read, and 12 before them."""
    assert backbone.encode(["x" * 100])[MASK].sum() == 48
    short = CogView4.of(backbone.pipeline, Model("x", max_length=20)).encode(["x" * 100, "x"])
    assert short["encoder_hidden_states"].shape[1] == 32
    assert short[MASK].sum(1).tolist() == [32, 16]


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_clock_is_even_and_the_noise_is_moved(backbone: CogView4, *, dynamic: bool) -> None:
    """At each of the pipeline's times the path has as much noise as its scheduler.

    mu = 0.25 + 0.75 sqrt(16 / 256) = 0.4375 for 4 x 4 patches: at t = 500 sigma is 0.4375 / 1.4375.
    """
    options = {"use_dynamic_shifting": True, "time_shift_type": "linear"} if dynamic else {"shift": 3.0}
    backbone.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(base_shift=0.25, max_shift=0.75, **options)
    backbone.generate(["x"], [1], 7, 1.0)
    scheduler, path = backbone.pipeline.scheduler, backbone.path
    alpha, sigma = path.coefficients(scheduler.timesteps)
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alpha, 1 - scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)
    assert scheduler.timesteps[0] == path.times(torch.tensor([1.0]))
    half = path.times(torch.tensor([0.5]))
    assert half.tolist() == [500.0]
    shift = 0.4375 if dynamic else 3.0
    assert path.coefficients(half)[1].item() == pytest.approx(shift / (1 + shift))


def test_only_flows(backbone: CogView4) -> None:
    backbone.pipeline.scheduler = DDIMScheduler()
    with pytest.raises(InputError, match="DDIMScheduler: a CogView4Pipeline samples flows alone: give another model"):
        CogView4.of(backbone.pipeline, Model("x"))


def test_sizes(backbone: CogView4) -> None:
    """Height and width of the image, as it is and as it is wanted, and no corner cut off."""
    condition = CogView4.of(backbone.pipeline, Model("x", resolution=32, max_length=48)).encode(["x", "y"])
    assert condition["original_size"].tolist() == condition["target_size"].tolist() == [[32, 32]] * 2
    assert condition["crop_coords"].tolist() == [[0, 0]] * 2


def test_shapes_alone_are_enough(backbone: CogView4) -> None:
    """Where a cost is counted, on "meta", the lengths of texts are not known: all places are taken for text."""
    condition = {name: rows.to("meta") for name, rows in backbone.encode(PROMPTS).items()}
    denoiser = backbone.denoiser.to("meta")
    x, t = torch.empty(3, *backbone.latent_shape, device="meta"), torch.empty(3, device="meta")
    assert backbone.predict(denoiser, x, t, condition).shape == x.shape
