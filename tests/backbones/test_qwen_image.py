"""Qwen-Image: its instruction, its mask, an autoencoder of videos, its shift, and the text that nothing reads."""

import pytest
import torch

from ddspo.adaptations.base import Adaptation
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones._readers import FEW
from ddspo.backbones.base import Model
from ddspo.backbones.qwen_image import QwenImage
from ddspo.errors import InputError

PROMPTS = ["a red cube", "two cats", "x"]


@pytest.fixture
def backbone() -> QwenImage:
    return QwenImage.tiny()


def test_texts_are_the_pipelines_own(backbone: QwenImage) -> None:
    """A token a byte, special ones apart; the first 34 are dropped. Beyond the pipeline's padding there are zeros."""
    condition = backbone.encode(PROMPTS)
    hidden, mask = condition["encoder_hidden_states"], condition["encoder_hidden_states_mask"]
    wanted, own = backbone.pipeline.encode_prompt(list(PROMPTS), max_sequence_length=192)
    length = wanted.shape[1]
    torch.testing.assert_close(hidden[:, :length], wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(mask[:, :length], own.bool())
    assert not hidden[:, length:].any()
    assert not mask[:, length:].any()
    (reader,) = backbone.readers()
    texts = backbone.pipeline.tokenizer([f"{reader.prefix}{prompt}" for prompt in PROMPTS]).input_ids
    end = 1 + 1 + 1 + len("assistant\n")  # <|im_end|>, a new line, <|im_start|>
    assert mask.sum(1).tolist() == [len(each) + end - 34 for each in texts]


def test_padding_changes_no_prediction(backbone: QwenImage) -> None:
    """192 places for tokens, or 256."""
    x, t = torch.randn(3, *backbone.latent_shape), torch.tensor([10.0, 500.0, 990.0])
    longer = QwenImage.of(backbone.pipeline, Model("x", max_length=256, resolution=16))
    with torch.no_grad():
        few, many = (each.predict(each.denoiser, x, t, each.encode(PROMPTS)) for each in (backbone, longer))
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-6)


def test_a_shift_with_an_end_is_the_pipelines_own(backbone: QwenImage) -> None:
    """Sigmas of sampling are stretched so that the last of them is .02; those of training so that 0 would be.

    With n steps the last shifted sigma is s, and 1 - sigma is multiplied by .98 / (1 - s); in training by .98.
    """
    backbone.pipeline.scheduler.register_to_config(shift_terminal=0.02)
    backbone.generate(PROMPTS[:1], [1], 4, 1.0)
    sigmas = backbone.pipeline.scheduler.sigmas[:4]
    u = torch.tensor([1.0, 0.75, 0.5, 0.25])
    shift = backbone.path.shift  # type: ignore[attr-defined]
    last = shift * u[-1] / (1 + (shift - 1) * u[-1])
    torch.testing.assert_close((1 - sigmas) * (1 - last), 1 - backbone.path.times(u) / 1000, rtol=1e-4, atol=1e-6)
    assert backbone.path.times(torch.tensor([0.0])).item() == pytest.approx(20 + 980 * shift / 1000, rel=2e-3)


def test_an_image_is_a_video_of_one_frame(backbone: QwenImage) -> None:
    """Latents have no time axis here, and each channel a mean and a deviation."""
    latents = torch.randn(2, *backbone.latent_shape)
    vae = backbone.pipeline.vae
    mean, std = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        wanted = vae.decode(latents.unsqueeze(2) * std + mean).sample[:, :, 0]
        assert torch.equal(backbone.autoencoder.decoded(latents), wanted)


@pytest.mark.parametrize("adaptation", [LoRA(), Full()])
def test_what_nothing_reads_has_a_gradient_of_zero(backbone: QwenImage, adaptation: Adaptation) -> None:
    """A weight without one would stop training on several devices."""
    x, condition = torch.randn(3, *backbone.latent_shape), backbone.encode(PROMPTS)
    policy = adaptation.attach(backbone, 0).policy
    backbone.predict(policy.network, x, torch.full((3,), 500.0), condition).square().sum().backward()
    parts = [name for name, _ in policy.network.named_parameters() if name.startswith("transformer_blocks.1.")]
    assert [name for name in parts if "txt_mlp" in name or "to_add_out" in name]
    for name in parts:
        parameter = policy.network.get_parameter(name)
        assert (parameter.grad is not None) == parameter.requires_grad
        assert not (("txt_mlp" in name or "to_add_out" in name) and parameter.requires_grad and parameter.grad.any())


def test_more_than_the_pipeline_reads(backbone: QwenImage) -> None:
    with pytest.raises(InputError, match="max_length 1025: the pipeline reads 1024 at most"):
        QwenImage.of(backbone.pipeline, Model("x", max_length=1025))


def test_shapes_alone_are_enough(backbone: QwenImage) -> None:
    condition = {name: rows.to("meta") for name, rows in backbone.encode(PROMPTS).items()}
    x, t = torch.empty(3, *backbone.latent_shape, device="meta"), torch.empty(3, device="meta")
    assert backbone.predict(backbone.denoiser.to("meta"), x, t, condition).shape == x.shape


def test_more_texts_than_are_read_at_once() -> None:
    backbone, texts = QwenImage.tiny(), [letter * 3 for letter in "abcdefghij"]
    found = backbone.encode(texts)
    assert len(texts) > FEW
    for place, text in enumerate(texts):
        for name, row in backbone.encode([text]).items():
            torch.testing.assert_close(row[0], found[name][place], rtol=1e-4, atol=1e-5)
