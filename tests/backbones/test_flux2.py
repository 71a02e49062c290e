"""What is particular to FLUX.2 klein: normalised patches, Qwen's layers, a shift by steps, distilled models."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from ddspo.backbones._outline import outline
from ddspo.backbones._readers import FEW
from ddspo.backbones._sampler import sampling_with
from ddspo.backbones.base import Model
from ddspo.backbones.flux2 import Flux2
from ddspo.errors import InputError
from ddspo.maths.paths import RectifiedFlow

PROMPTS = ["a red cube", "x"]


@pytest.fixture(scope="module")
def backbone() -> Flux2:
    return Flux2.tiny()


def test_a_sample_is_the_pipelines_image(backbone: Flux2) -> None:
    """What the scheduler left, of which the pipeline makes the autoencoder's code at its end: the same bits."""
    latents = backbone.generate(PROMPTS, [1, 2], 3, 4.0)
    kept = Flux2KleinPipeline._unpatchify_latents
    code = backbone.pipeline(
        prompt=PROMPTS,
        latents=backbone.initial_noise([1, 2]),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="latent",
        return_dict=False,
        **backbone.call,
    )[0]
    mean, std = backbone.autoencoder._statistics()
    assert torch.equal(kept(latents * std + mean), code)
    assert latents.shape == (2, 16, 4, 4)
    assert code.shape == (2, 4, 8, 8)
    image = backbone.pipeline(
        prompt=PROMPTS,
        latents=backbone.initial_noise([1, 2]),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="np",
        **backbone.call,
    ).images
    np.testing.assert_allclose(np.stack(backbone.decode(latents)), image * 255, rtol=0, atol=0.51)


def test_images_are_normalised_as_the_pipeline_does_it(backbone: Flux2) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))
    pixels = backbone.pipeline.image_processor.preprocess(np.stack(images) / np.float32(255))
    expected = backbone.pipeline._encode_vae_image(pixels, torch.Generator())
    torch.testing.assert_close(backbone.to_latents(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distilled", [False, True])
def test_the_shift_is_that_of_the_usual_steps(*, distilled: bool) -> None:
    """At 4096 patches, mu = 1.15 at 200 steps and 2.2563 at 10, and linear between and beyond.

    a = (1.15 - 2.2563) / 190 = -.0058225, so 2.0234 at 50 steps and 2.2912 at 4; the shift is e to that.
    """
    made = Flux2.of(Flux2.tiny(is_distilled=distilled).pipeline, Model("x", resolution=256))
    assert made.tokens == 4096
    assert isinstance(made.path, RectifiedFlow)
    assert made.path.shift == pytest.approx(math.exp(2.2912 if distilled else 2.0234), rel=1e-3)
    made.pipeline.scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4), mu=math.log(made.path.shift))
    torch.testing.assert_close(
        made.path.times(torch.tensor([1.0, 0.75, 0.5, 0.25])), made.pipeline.scheduler.timesteps, rtol=1e-5, atol=1e-3
    )


def test_another_scheduler_has_the_same_shift(backbone: Flux2) -> None:
    path = backbone.path
    assert isinstance(path, RectifiedFlow)
    with sampling_with(backbone, "UniPCMultistepScheduler", {}):
        assert backbone.pipeline.scheduler.config.flow_shift == path.shift


def test_a_distilled_model_is_not_guided(tmp_path: Path) -> None:
    """Its folder says that it is one; the pipeline would ignore the scale."""
    Flux2.tiny(is_distilled=True).save(tmp_path)
    given = Model(str(tmp_path), resolution=16, max_length=48)
    for made in (Flux2.load(given), outline(Flux2, given)):
        assert made.usual == (4, 1.0)
        assert made.evaluations(4, 4.0) == 4
        with pytest.raises(InputError, match=r"guidance 4: a distilled FLUX\.2 klein has none: give 1"):
            made.generate(PROMPTS, [1, 2], 1, 4.0)
    assert Flux2.tiny().usual == (50, 4.0)


def test_what_qwen_reads(backbone: Flux2) -> None:
    """The prompt in a conversation, up to 48 bytes and marks: one mark and "user" and a new line come before it."""
    (reader,) = backbone.readers()
    assert reader.prefix == "<|im_start|>user\n"
    ends = ["x" * 42, "x" * 43]
    assert [cut.prompt for cut in backbone.too_long(ends)] == [ends[1]]
    assert backbone.encode(PROMPTS)["encoder_hidden_states"].shape == (2, 48, 3 * 16)


def test_layers_side_by_side(backbone: Flux2) -> None:
    """Of each token after 9, 18 and 27 layers of 28: not the embeddings, not the last."""
    tokenizer, network = backbone.pipeline.tokenizer, backbone.pipeline.text_encoder
    text = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        states = network(ids, output_hidden_states=True).hidden_states
    found = backbone.encode(["x"])["encoder_hidden_states"][0, : ids.shape[1]]
    expected = torch.cat([states[layer][0] for layer in (9, 18, 27)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(states) == 29


def test_more_texts_than_are_read_at_once(backbone: Flux2) -> None:
    texts = [letter * 3 for letter in "abcdefghij"]
    found = backbone.encode(texts)["encoder_hidden_states"]
    assert len(texts) > FEW
    for row, text in zip(found, texts, strict=True):
        torch.testing.assert_close(backbone.encode([text])["encoder_hidden_states"][0], row, rtol=1e-4, atol=1e-5)
