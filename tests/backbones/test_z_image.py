"""Z-Image: its chat, its texts of different lengths, its guidance that counts from 0, Turbo."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddspo.backbones._readers import FEW
from ddspo.backbones.base import Model
from ddspo.backbones.z_image import ZImage
from ddspo.errors import InputError

PROMPTS = ["a red cube", "two cats", "x"]


@pytest.fixture
def backbone() -> ZImage:
    return ZImage.tiny()


def test_qwen_is_given_a_chat(backbone: ZImage) -> None:
    """A token a byte: <|im_start|> user 5 bytes, the prompt, <|im_end|> 1 byte, <|im_start|> assistant 10 bytes."""
    (reader,) = backbone.readers()
    assert reader.prefix == "<|im_start|>user\n"
    assert backbone.encode(PROMPTS)["cap_mask"].sum(1).tolist() == [6 + len(each) + 2 + 11 for each in PROMPTS]


def test_texts_are_the_pipelines_own(backbone: ZImage) -> None:
    """Its list of hidden states, and zeros where there is no text."""
    condition = backbone.encode(PROMPTS)
    wanted, _ = backbone.pipeline.encode_prompt(
        list(PROMPTS), do_classifier_free_guidance=False, max_sequence_length=64
    )
    for rows, mask, own in zip(condition["cap_feats"], condition["cap_mask"], wanted, strict=True):
        assert torch.equal(rows[mask], own)
        assert not rows[~mask].any()


def test_padding_changes_no_prediction(backbone: ZImage) -> None:
    """64 places for tokens, or 128, on either side of the text."""
    x, t = torch.randn(3, *backbone.latent_shape), torch.tensor([10.0, 500.0, 990.0])
    longer = ZImage.of(backbone.pipeline, Model("x", max_length=128, resolution=16))
    with torch.no_grad():
        few, many = (each.predict(each.denoiser, x, t, each.encode(PROMPTS)) for each in (backbone, longer))
        condition = {name: rows.roll(1, 1) for name, rows in longer.encode(PROMPTS).items()}
        moved = longer.predict(longer.denoiser, x, t, condition)
    torch.testing.assert_close(few, many, rtol=1e-5, atol=1e-6)
    assert torch.equal(moved, many)


def test_guidance_counts_from_one(backbone: ZImage) -> None:
    """n + 5 (p - n) = p + 4 (p - n): one step from the same noise, taken by hand from both predictions."""
    (sigma, end), noise = (1.0, 0.0), backbone.initial_noise([1])
    found = backbone.generate(["a red cube"], [1], 1, 5.0)
    with torch.no_grad():
        t = torch.tensor([1000.0 * sigma])
        p, n = (backbone.predict(backbone.denoiser, noise, t, backbone.encode([text])) for text in ("a red cube", ""))
    torch.testing.assert_close(found, noise + (end - sigma) * (n + 5 * (p - n)), rtol=1e-4, atol=1e-4)
    assert backbone.evaluations(1, 5.0) == 2
    assert backbone.evaluations(1, 1.0) == 1


def test_turbo_takes_few_steps_without_guidance(backbone: ZImage) -> None:
    assert backbone.usual == (28, 5.0)
    backbone.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert backbone.usual == (8, 1.0)


def test_a_dynamic_shift_is_the_pipelines_own(backbone: ZImage) -> None:
    backbone.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    backbone.generate(PROMPTS[:1], [1], 4, 1.0)
    times = backbone.path.times(torch.tensor([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(times, backbone.pipeline.scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_more_than_the_transformer_has_places_for(backbone: ZImage) -> None:
    """992 tokens and the image's own make 993 of 1024; 993 are filled up to 1024, and nothing is left."""
    ZImage.of(backbone.pipeline, Model("x", max_length=992, resolution=1024))
    with pytest.raises(InputError, match="max_length 993: the transformer has 1024 places"):
        ZImage.of(backbone.pipeline, Model("x", max_length=993, resolution=16))
    with pytest.raises(InputError, match="resolution 1028: the transformer goes to 1024"):
        ZImage.of(backbone.pipeline, Model("x", resolution=1028))


def test_shapes_alone_are_enough(backbone: ZImage) -> None:
    """Where a cost is counted, on "meta", every token counts as text."""
    condition = {name: rows.to("meta") for name, rows in backbone.encode(PROMPTS).items()}
    x, t = torch.empty(3, *backbone.latent_shape, device="meta"), torch.empty(3, device="meta")
    assert backbone.predict(backbone.denoiser.to("meta"), x, t, condition).shape == x.shape


def test_more_texts_than_are_read_at_once(backbone: ZImage) -> None:
    """Each says what it says alone, within the rounding of another batch."""
    texts = [letter * 3 for letter in "abcdefghij"]
    found = backbone.encode(texts)
    assert len(texts) > FEW
    for place, text in enumerate(texts):
        alone = backbone.encode([text])
        assert torch.equal(alone["cap_mask"][0], found["cap_mask"][place])
        torch.testing.assert_close(alone["cap_feats"][0], found["cap_feats"][place], rtol=1e-4, atol=1e-5)
