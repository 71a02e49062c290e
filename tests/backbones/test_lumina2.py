"""Lumina-Image 2.0: its system prompt, its places, its shift, and what padding must not do."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddspo.backbones.base import Model
from ddspo.backbones.lumina2 import START, Lumina2
from ddspo.errors import InputError

PROMPTS = ["a red cube", "two cats", "x"]


@pytest.fixture
def backbone() -> Lumina2:
    return Lumina2.tiny()


def test_gemma_is_given_the_system_prompt(backbone: Lumina2) -> None:
    """It is counted among the tokens, and every token of the prompt has read it."""
    (reader,) = backbone.readers()
    assert reader.prefix == backbone.pipeline.system_prompt + START
    condition, plain = backbone.encode(PROMPTS), backbone.pipeline.tokenizer(PROMPTS).input_ids
    before = len(backbone.pipeline.tokenizer(reader.prefix).input_ids)
    assert condition["encoder_attention_mask"].sum(1).tolist() == [before + len(each) for each in plain]
    backbone.pipeline.system_prompt = "Other."
    assert not torch.equal(backbone.encode(PROMPTS)["encoder_hidden_states"], condition["encoder_hidden_states"])


def test_padding_changes_no_prediction(backbone: Lumina2) -> None:
    """24 places for tokens, or 60: the positions of the image begin where the text ends."""
    x, t = torch.randn(3, *backbone.latent_shape), torch.tensor([10.0, 500.0, 990.0])
    longer = Lumina2.of(backbone.pipeline, Model("x", max_length=60))
    with torch.no_grad():
        few, many = (each.predict(each.denoiser, x, t, each.encode(PROMPTS)) for each in (backbone, longer))
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-6)


def test_more_than_the_transformer_has_places_for(backbone: Lumina2) -> None:
    """The tiny one has 300, of which the image takes one, and 16 patches of 16 pixels to a side."""
    for option in ({"max_length": 299}, {"resolution": 256}):
        Lumina2.of(backbone.pipeline, Model("x", **option))
    with pytest.raises(InputError, match="max_length 300: the transformer has 300 places"):
        Lumina2.of(backbone.pipeline, Model("x", max_length=300))
    with pytest.raises(InputError, match="resolution 272: the transformer goes to 256"):
        Lumina2.of(backbone.pipeline, Model("x", resolution=272))
    with pytest.raises(InputError, match="resolution 24: give a multiple of 16"):
        Lumina2.of(backbone.pipeline, Model("x", resolution=24))


def test_a_dynamic_shift_is_the_pipelines_own(backbone: Lumina2) -> None:
    """Which takes the 4 channels for the number of positions."""
    backbone.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    backbone.generate(PROMPTS[:1], [1], 4, 1.0)
    times = backbone.path.times(torch.tensor([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(times, backbone.pipeline.scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_shapes_alone_are_enough(backbone: Lumina2) -> None:
    """Where a cost is counted, on "meta", the number of tokens is not known: all of them are taken for text."""
    condition = {name: rows.to("meta") for name, rows in backbone.encode(PROMPTS).items()}
    denoiser = backbone.denoiser.to("meta")
    x, t = torch.empty(3, *backbone.latent_shape, device="meta"), torch.empty(3, device="meta")
    assert backbone.predict(denoiser, x, t, condition).shape == x.shape
