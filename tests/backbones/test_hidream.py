"""What is particular to HiDream: experts with a gradient, all layers of Llama, one size, steps with fresh noise."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchLCMScheduler
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU

from ddspo.backbones._experts import Routed, route
from ddspo.backbones._outline import outline
from ddspo.backbones.base import Model, look_up
from ddspo.backbones.hidream import HiDream
from ddspo.errors import InputError


@pytest.fixture(scope="module")
def backbone() -> HiDream:
    return HiDream.tiny()


def test_experts_do_what_diffusers_own_do() -> None:
    """To the bit, and with the gradient that diffusers' own have in training, where sums are in another order."""
    torch.manual_seed(0)
    layer, x = MOEFeedForwardSwiGLU(8, 16, 4, 2).eval(), torch.randn(2, 9, 8)
    with torch.no_grad():
        expected = layer(x)
    gradients = torch.autograd.grad(layer.train()(x).square().sum(), list(layer.parameters()))
    route(layer.eval())
    assert type(layer) is Routed
    assert torch.equal(layer(x), expected)
    found = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_expert_that_nobody_asks_has_a_gradient_of_zero() -> None:
    """Training on several devices waits for one of every weight."""
    layer = MOEFeedForwardSwiGLU(8, 16, 4, 1).eval()
    route(layer)
    layer(torch.ones(1, 3, 8)).sum().backward()
    asked = [bool(expert.w1.weight.grad.any()) for expert in layer.experts]
    assert sorted(asked) == [False, False, False, True]


def test_shapes_alone(backbone: HiDream, tmp_path: Path) -> None:
    """A cost is counted of tensors without values: sides of images and shares of experts are known all the same."""
    backbone.save(tmp_path)
    without = outline(HiDream, Model(str(tmp_path), max_length=16))
    rows = {name: row.to("meta") for name, row in backbone.encode(["x", "y"]).items()}
    x, t = torch.empty(2, *without.latent_shape, device="meta"), torch.empty(2, device="meta")
    found = without.predict(without.denoiser, x, t, rows)
    assert found.shape == x.shape
    assert found.is_meta
    assert "patchify" not in vars(without.denoiser)


def test_all_layers_of_llama(backbone: HiDream) -> None:
    """After the first and after the last of two, not the embeddings."""
    tokenizer, network = backbone.pipeline.tokenizer_4, backbone.pipeline.text_encoder_4
    with torch.no_grad():
        states = network(tokenizer("x", return_tensors="pt").input_ids, output_hidden_states=True).hidden_states
    found = backbone.encode(["x"])["encoder_hidden_states_llama3"]
    assert found.shape == (1, 2, 16, 16)
    torch.testing.assert_close(found[0, :, 0], torch.stack([state[0, 0] for state in states[1:]]))


def test_what_each_reads(backbone: HiDream) -> None:
    """As many as asked for, a CLIP 218 at most."""
    assert [reader.limit for reader in backbone.readers()] == [16] * 4
    backbone.pipeline.tokenizer_3.model_max_length = 250
    long = HiDream.of(backbone.pipeline, Model("x", max_length=300))
    assert [reader.limit for reader in long.readers()] == [218, 218, 250, 300]


def test_another_size_is_refused(backbone: HiDream) -> None:
    assert HiDream.of(backbone.pipeline, Model("x", resolution=128)).call["height"] == 128
    with pytest.raises(InputError, match=r"model\.resolution 64: the pipeline always draws 128: leave it out"):
        HiDream.of(backbone.pipeline, Model("x", resolution=64))


@pytest.mark.parametrize(("shift", "steps"), [(6.0, 28), (3.0, 16)])
def test_dev_and_fast(shift: float, steps: int, tmp_path: Path) -> None:
    """Few steps, no guidance; and the noise of every step is that of an item's seed, alone or among others."""
    made = HiDream.tiny(FlowMatchLCMScheduler(shift=shift))
    assert made.usual == (steps, 1.0)
    together = made.generate(["x", "y"], [1, 2], 3, 1.0)
    torch.testing.assert_close(made.generate(["y"], [2], 3, 1.0)[0], together[1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(made.generate(["y"], [3], 3, 1.0)[0], together[1])
    assert "step" not in vars(made.pipeline.scheduler)
    with pytest.raises(InputError, match="guidance 5: HiDream-I1 Dev and Fast have none: give 1"):
        made.generate(["x"], [1], 1, 5.0)
    made.save(tmp_path)
    assert not HiDream.guides(look_up(Model(str(tmp_path))))
    assert HiDream.tiny().usual == (50, 5.0)
