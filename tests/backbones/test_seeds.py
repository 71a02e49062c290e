"""What the seeds of a sample decide, under a scheduler that draws noise at every step."""

import pytest
import torch

from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.sd import SD

ANCESTRAL = "EulerAncestralDiscreteScheduler"


def test_each_sample_has_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all begin with one noise, samples of one prompt differ by their seeds alone."""
    backbone = SD.tiny()
    monkeypatch.setattr(SD, "initial_noise", lambda self, seeds: torch.ones(len(seeds), *self.latent_shape))
    with sampling_with(backbone, ANCESTRAL, {}):
        first, second, again = backbone.generate(["two cats"] * 3, [7, 8, 7], 3, 2.0)
        (alone,) = backbone.generate(["two cats"], [8], 3, 2.0)
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(second, alone, rtol=1e-3, atol=1e-4)
    assert (first - second).std() > 0.1


def test_draws_are_not_the_noise_that_they_begin_with() -> None:
    """The initial noise of a seed and what its generator draws first are two draws, and not one twice."""
    backbone, drawn = SD.tiny(), []
    with sampling_with(backbone, ANCESTRAL, {}):
        step = backbone.pipeline.scheduler.step

        def noting(*given: object, generator: list[torch.Generator], **options: object) -> object:
            state = generator[0].get_state()
            drawn.append(torch.randn(backbone.latent_shape, generator=generator[0]))
            generator[0].set_state(state)
            return step(*given, generator=generator, **options)

        backbone.pipeline.scheduler.step = noting
        backbone.generate(["two cats"], [7], 2, 2.0)
    start = backbone.initial_noise([7])[0]
    assert len(drawn) == 2
    assert all((each * start).mean().abs() < 0.3 for each in drawn)
