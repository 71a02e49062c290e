"""Every layer that a LoRA adapts if not told otherwise has its place in other tools' files, at published sizes."""

import re
from typing import Any

import diffusers
import pytest
import torch

from benchmarks import outlines
from ddspo import components
from ddspo.backbones.base import Backbone
from ddspo.exports._adapter import Adapter, Layer
from ddspo.exports._keys import kohya_flux
from ddspo.exports.comfyui import TRANSFORMERS
from ddspo.exports.kohya import NETWORKS


def adapted(name: str) -> tuple[type[Backbone], dict[str, Any]]:
    """Matrices of rank 1 for each layer that is adapted, on "meta"."""
    given = outlines.read(name)
    cls: type[Backbone] = components.find(Backbone, given["backbone"])
    spec = dict(given["parts"][cls.denoiser_name])
    kind: Any = getattr(diffusers, spec.pop("_class").removeprefix("diffusers."))
    with torch.device("meta"):
        modules = dict(kind.from_config(spec).named_modules())
        named = {
            each: module for each, module in modules.items() if each.endswith(tuple(f".{t}" for t in cls.lora_targets))
        }
        return cls, {
            each: (torch.empty(1, module.in_features), torch.empty(module.out_features, 1))
            for each, module in named.items()
            if isinstance(module, torch.nn.Linear)
        }


KNOWN = [name for name in outlines.names() if outlines.read(name)["backbone"] not in ("sd", "sdxl")]


@pytest.mark.parametrize("name", KNOWN)
def test_every_adapted_layer_has_a_place(name: str) -> None:
    """In kohya's files each block's fused weights once, and 3 tensors of each."""
    cls, layers = adapted(name)
    assert layers
    pattern = TRANSFORMERS.get(cls.pipeline_class.__name__)
    assert pattern is None or [each for each in layers if not re.fullmatch(pattern, each)] == []
    if NETWORKS.get(cls.pipeline_class.__name__) == "networks.lora_flux":
        weights = kohya_flux(Adapter({each: Layer(*pair, 1.0) for each, pair in layers.items()}))
        assert len(weights) == 3 * (4 * 19 + 38)  # q, k, v of both streams, what follows each, and the single stream
        up = weights["lora_unet_single_blocks_37_linear1.lora_up.weight"]
        assert up.shape == (3072 * 3 + 12_288, 4)
