"""Rounded weights: which, how far, what they take, what the backward pass keeps, and what is refused."""

import importlib.util
from pathlib import Path
from typing import get_args

import pytest
import torch
from peft.tuners.lora.bnb import Linear4bit as LoRA4bit
from torch import nn

from ddspo import components
from ddspo.adaptations.base import tuners
from ddspo.adaptations.full import Full
from ddspo.adaptations.lora import LoRA
from ddspo.backbones import _quantize as module
from ddspo.backbones._model import Quantization
from ddspo.backbones._outline import outline
from ddspo.backbones._quantize import EightBits, block_layers, compute_dtype, quantize, stored_bytes
from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.sd import SD
from ddspo.errors import InputError
from ddspo.maths.pair import Pair

HOW = get_args(Quantization)


class Network(nn.Module):
    """Blocks between two layers that stay."""

    def __init__(self, outputs: int = 64, inputs: int = 64) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(inputs, outputs), nn.Sequential(nn.Linear(outputs, inputs), nn.GELU())])
        self.end = nn.Linear(inputs, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.end(x)


@pytest.mark.parametrize("how", HOW)
def test_layers_of_blocks_are_rounded_and_nothing_else(how: Quantization) -> None:
    """And inputs are cast to the type of what stays, though the first weight is an integer."""
    network = Network().to(torch.bfloat16)
    ends = {name: value.clone() for name, value in network.state_dict().items() if "end" in name or "bias" in name}
    quantize(network, how)
    assert not next(network.parameters()).is_floating_point()
    assert compute_dtype(network) == torch.bfloat16
    assert all(torch.equal(network.state_dict()[name], value) for name, value in ends.items())
    assert network(torch.ones(3, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_eight_bits_by_hand() -> None:
    """Row by row: [1, -127, 63.4] has s = 1 and Q = [1, -127, 63]; [0, 0, 0] stays; [.1, .2, .3] has s = .3 / 127."""
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data = torch.tensor([[1, -127, 63.4], [0, 0, 0], [0.1, 0.2, 0.3]])
    eight = EightBits(layer, "int8", torch.device("cpu"))
    assert eight.weight.tolist() == [[1, -127, 63], [0, 0, 0], [42, 85, 127]]
    torch.testing.assert_close(eight.scale, torch.tensor([[1], [torch.finfo(torch.float32).tiny], [0.3 / 127]]))
    expected = torch.tensor([[1.0, -127, 63], [0, 0, 0], [42 * 0.3 / 127, 85 * 0.3 / 127, 0.3]])
    torch.testing.assert_close(eight(torch.eye(3)).T, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("how", "most"), [("int8", 0.0095), ("fp8", 0.03), ("nf4", 0.1)])
def test_how_far_weights_move(how: Quantization, most: float, dtype: torch.dtype) -> None:
    """Normal weights, 256 a row: a step of int8 is about 2.8 deviations / 127, of rms error 1 / sqrt(12) of it, .0064.

    No row is larger or smaller for it: the scale is rounded to the weights' own type before they are divided by it.
    """
    layer = nn.Linear(256, 256, bias=False, dtype=dtype)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    before = layer.weight.detach().float()
    after = module.MAKERS[how](layer, how, torch.device("cpu"))(torch.eye(256, dtype=dtype)).T.float()
    assert (after - before).norm() / before.norm() < most
    assert ((after * before).sum(1) / before.square().sum(1) - 1).abs().mean() < (0.01 if how == "nf4" else 0.003)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("how", HOW)
def test_whatever_is_finite_stays_finite(how: Quantization, value: float) -> None:
    layer = nn.Linear(64, 64, bias=False)
    layer.weight.data.fill_(value)
    made = module.MAKERS[how](layer, how, torch.device("cpu"))
    torch.testing.assert_close(made(torch.eye(64)), torch.full((64, 64), value), rtol=0.01, atol=1e-32)


@pytest.mark.parametrize("how", HOW)
def test_the_backward_pass_keeps_no_whole_weight(how: Quantization) -> None:
    """Only integers and scales are saved: dequantised weights of all layers would be as many bytes as before."""
    layer = module.MAKERS[how](nn.Linear(64, 32), how, torch.device("cpu"))
    saved: list[torch.Tensor] = []
    x = torch.randn(5, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        y = layer(x)
    assert not [each.shape for each in saved if each.itemsize > 1 and each.numel() > 32]
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (layer(torch.eye(64)).T - layer(torch.zeros(64))[:, None]).sum(0).expand(5, 64))


def test_no_pass_changes_the_weights_of_4_bits() -> None:
    """Some processors lay them out anew at the first pass without gradient, and no gradient flows from then on."""
    layer = module.MAKERS["nf4"](nn.Linear(64, 64), "nf4", torch.device("cpu")).eval()
    before = layer.weight.data.clone()
    with torch.no_grad():
        alone = layer(torch.ones(1, 64))
    assert torch.equal(layer.weight.data, before)
    x = torch.ones(1, 64, requires_grad=True)
    assert torch.equal(layer(x).detach(), alone)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_4_bits_take_peft_own_layers() -> None:
    backbone = SD.tiny()
    quantize(backbone.denoiser, "nf4")
    LoRA().attach(backbone, 0)
    assert tuners(backbone.denoiser)
    assert all(isinstance(each, LoRA4bit) for each in tuners(backbone.denoiser))


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear")
def test_fusing_into_4_bits_rounds_the_adapter_away() -> None:
    """A LoRA that moves weights by a hundredth of their size: two thirds of what it does are other than they were."""
    backbone = SD.tiny()
    quantize(backbone.denoiser, "nf4")
    LoRA().attach(backbone, 0)
    lost = []
    for layer in tuners(backbone.denoiser):
        x = torch.eye(layer.in_features)
        with torch.no_grad():
            base = layer.base_layer(x)
            layer.lora_B["default"].weight.normal_(std=1.0, generator=torch.Generator().manual_seed(0))
            change = layer(x) - base
            layer.lora_B["default"].weight *= 0.01 * base.norm() / change.norm()
            change = layer(x) - base
            layer.merge()
            lost.append(((layer.base_layer(x) - base - change).norm() / change.norm()).item())
    assert sum(lost) / len(lost) > 0.6


@pytest.mark.parametrize("name", components.names(Backbone))
@pytest.mark.parametrize("how", HOW)
def test_bytes_are_those_that_are_held(name: str, how: Quantization, tmp_path: Path) -> None:
    """Counted on "meta", where nothing can be rounded, for every backbone."""
    backbone = components.find(Backbone, name).tiny()
    backbone.save(tmp_path)
    expected = stored_bytes(outline(type(backbone), Model(str(tmp_path)), reads=False).denoiser, how)
    quantize(backbone.denoiser, how)
    assert held(backbone.denoiser) == expected


def held(network: nn.Module) -> int:
    tensors = [*network.parameters(), *network.buffers()]
    for _, layer in block_layers(network, (nn.Linear,)):
        if not isinstance(layer, EightBits):
            state = layer.weight.quant_state
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_bytes_of_flux_in_4_bits() -> None:
    """Half a byte a weight and .0159 for the scales, as in QLoRA: 1 / 64 + 4 / (64 x 256)."""
    with torch.device("meta"):
        network = Network(3072, 12_288)
    numbers = 2 * 3072 * 12_288
    assert stored_bytes(network, "nf4") / numbers == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, rel=0.005)
    assert stored_bytes(network, "int8") / numbers == pytest.approx(1, rel=0.005)


@pytest.mark.parametrize("how", HOW)
def test_a_model_is_rounded_as_it_is_loaded(how: Quantization, tiny_folder: Path) -> None:
    """After its weights were looked at; and so is an outline with random weights, but none without."""
    model = Model(str(tiny_folder), dtype="bf16", quantize=how)
    backbone = SD.load(model)
    assert backbone.quantized
    assert backbone.compute_dtype == torch.bfloat16
    assert torch.isfinite(backbone.generate(["x"], [1], 2, 3.0)).all()
    assert not any(layer.weight.requires_grad for _, layer in block_layers(backbone.denoiser, (nn.Linear,)))
    assert outline(SD, model, "cpu").quantized
    assert not outline(SD, model).quantized


def test_full_fine_tuning_of_rounded_weights_is_refused() -> None:
    backbone = Flux.tiny()
    quantize(backbone.denoiser, "int8")
    for make in (lambda: Full().attach(backbone, 0), lambda: Full().fork(backbone, Pair(0, 1))):
        with pytest.raises(InputError, match="adaptation full"):
            make()


def test_what_cannot_be_had_is_said_before_weights_are_read(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"model.quantize nf4: bitsandbytes is missing: .*ddspo\[quantize\]"):
        SD.check(Model(str(tiny_folder), quantize="nf4"))
    SD.check(Model(str(tiny_folder), quantize="nf4"), weights=False)
    SD.check(Model(str(tiny_folder), quantize="int8"))
    with pytest.raises(InputError, match=r"model.quantize fp8: mps has no such numbers"):
        module.check_quantization("fp8", torch.device("mps"))
