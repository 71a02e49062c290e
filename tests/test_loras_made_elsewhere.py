"""LoRAs of other trainers: ranks, alphas and scales of each layer's own, and DoRA."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import add, add_fused
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ddspo.backbones.base import Backbone, Model
from ddspo.backbones.flux import Flux
from ddspo.backbones.pixart import PixArt
from ddspo.backbones.sd import SD
from ddspo.conversion import Origin, converted
from ddspo.errors import InputError
from ddspo.exports.base import LORA, Aligned, Export
from ddspo.exports.comfyui import ComfyUI
from ddspo.exports.diffusers import Diffusers
from ddspo.exports.kohya import Kohya
from ddspo.exports.merged import Merged
from ddspo.stages.export import export

BACKBONES: dict[str, type[Backbone]] = {"sd": SD, "flux": Flux, "pixart": PixArt}
MIXED: dict[str, Any] = {"rank_pattern": {"to_k": 2, r"0\..*to_v": 6}, "alpha_pattern": {"to_q": 1.0, "to_k": 5.0}}
CONFIGS: dict[str, dict[str, Any]] = {
    "patterns": MIXED,
    "stabilised": MIXED | {"use_rslora": True},
    "dora": {"use_dora": True},
}


class Made:
    """A base and a random LoRA of rank 4 and alpha 8 on it, which differs from those that are trained here."""

    def __init__(self, folder: Path, backbone: str, config: str) -> None:
        cls = BACKBONES[backbone]
        made = cls.tiny()
        made.save(folder / "base")
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        settings = LoraConfig(r=4, lora_alpha=8, target_modules=targets, **CONFIGS[config])
        inject_adapter_in_model(settings, made.denoiser, "default")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in made.denoiser.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(0.5 * torch.rand(parameter.shape, generator=generator))
        kept = settings.to_dict() | {"target_modules": targets}
        made.save_lora(folder / "aligned", get_peft_model_state_dict(made.denoiser), kept)
        self.denoiser, self.folder = made.denoiser, folder
        self.aligned = Aligned("made", folder / "aligned", Model(str(folder / "base"), backbone), cls)

    def export(self, how: Export) -> Path:
        out = self.folder / f"out{how.suffix}"
        export(self.aligned, how, out, "a card")
        return out

    def base(self) -> Any:
        return BACKBONES[self.aligned.model.backbone or ""].load(self.aligned.model).denoiser

    def agrees(self, network: nn.Module, scale: float = 1.0) -> None:
        """Each adapted weight is what PEFT itself makes of it, which is another one than the base's."""
        weights = dict(network.named_parameters())
        for name, module in self.denoiser.named_modules():
            if isinstance(module, LoraLayer):
                wanted, before = merged(module, scale), module.get_base_layer().weight
                assert (wanted - before).abs().max() > 1e-2
                torch.testing.assert_close(weights[f"{name}.weight"], wanted, rtol=1e-6, atol=1e-6, msg=name)


def merged(layer: Any, scale: float) -> Tensor:
    alone = copy.deepcopy(layer)
    alone.scale_layer(scale)
    alone.merge(safe_merge=True)
    return alone.get_base_layer().weight


@pytest.mark.parametrize("config", ["patterns", "stabilised"])
@pytest.mark.parametrize(
    ("backbone", "how"),
    [("sd", Kohya()), ("flux", Kohya()), ("flux", ComfyUI()), ("pixart", ComfyUI())],
    ids=["sd-kohya", "flux-kohya", "flux-comfyui", "pixart-comfyui"],
)
def test_each_layer_keeps_its_rank_and_scale(backbone: str, how: Export, config: str, tmp_path: Path) -> None:
    """FLUX.1's fused query, key and value have ranks 4, 2, and 4 or 6, and three scales."""
    made = Made(tmp_path, backbone, config)
    file, network = made.export(how), made.base()
    if isinstance(how, ComfyUI):
        add(network, load_file(file))
    elif backbone == "flux":
        add_fused(network, load_file(file))
    else:
        add_each(network, load_file(file))
    made.agrees(network)
    if isinstance(how, Kohya):
        with safe_open(file, "pt") as held:
            assert {held.metadata()[f"ss_network_{key}"] for key in ("dim", "alpha")} == {"Dynamic"}


@torch.no_grad()
def add_each(unet: nn.Module, weights: dict[str, Tensor]) -> None:
    """What sd-scripts does with SD's names: W + (alpha / rank) up down."""
    for name, module in unet.named_modules():
        key = f"lora_unet_{name.replace('.', '_')}"
        if f"{key}.alpha" in weights:
            down, up = weights.pop(f"{key}.lora_down.weight"), weights.pop(f"{key}.lora_up.weight")
            module.weight += weights.pop(f"{key}.alpha") / len(down) * up @ down
    assert weights == {}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_merged(backbone: str, config: str, tmp_path: Path) -> None:
    """A DoRA too, which is also copied as it is."""
    made = Made(tmp_path, backbone, config)
    folder = made.export(Merged())
    made.agrees(BACKBONES[backbone].load(Model(str(folder), backbone)).denoiser)


@pytest.mark.parametrize("config", ["patterns", "stabilised"])
@pytest.mark.parametrize("backbone", ["sd", "flux"])
def test_merged_into_a_model_before_it_is_aligned(backbone: str, config: str, tmp_path: Path) -> None:
    made = Made(tmp_path, backbone, config)
    converted(Origin(str(tmp_path / "base"), (f"{tmp_path / 'aligned' / LORA}:0.8",)), tmp_path / "new")
    made.agrees(BACKBONES[backbone].load(Model(str(tmp_path / "new"), backbone)).denoiser, 0.8)


def test_a_dora_is_refused_where_it_would_lose_its_lengths(tmp_path: Path) -> None:
    made = Made(tmp_path, "sd", "dora")
    for how in (Kohya(), ComfyUI()):
        with pytest.raises(InputError, match=r"is a DoRA, no plain LoRA for .*: use --format diffusers or merged"):
            made.export(how)
    with pytest.raises(InputError, match=re.escape(f"{LORA}: it is a DoRA, and only LoRA is merged")):
        converted(Origin(str(tmp_path / "base"), (str(tmp_path / "aligned" / LORA),)), tmp_path / "new")
    copied = made.export(Diffusers()) / LORA
    assert copied.read_bytes() == (tmp_path / "aligned" / LORA).read_bytes()
