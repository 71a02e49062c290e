"""Low-rank adapters beside the attention weights: the base exists once, and is the reference."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le, MinLen
from torch import Tensor, nn
from typing_extensions import Doc

from ddspo.adaptations.base import Adaptation, Attached, Behaviour, tuners
from ddspo.backbones.base import Backbone
from ddspo.errors import quoted, shortened
from ddspo.exports._adapter import adapter_in, read
from ddspo.files import settle_header
from ddspo.maths.pair import Pair

POLICY = "default"
USUAL = 64
"""Ranks up to this one need no look at a model's layers."""
TAKES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that peft gives an adapter."""


@dataclass(frozen=True)
class LoRA(Adaptation):
    """W + (alpha / rank) B A with A Gaussian and B zero at the start (Hu et al. 2021), saved as a diffusers LoRA."""

    saves_pipeline = False

    rank: Annotated[int, Gt(0), Doc("inner dimension")] = 16
    alpha: Annotated[float, Gt(0), Le(1e5), Doc("scale; the update is multiplied by alpha / rank")] = 16.0
    targets: Annotated[
        Annotated[tuple[str, ...], MinLen(1)] | None,
        Doc("module names that get an adapter; null: those of the backbone's attention"),
    ] = None

    @property
    def unusual(self) -> bool:
        """Where layers are named, or the rank is above those of small models."""
        return self.targets is not None or self.rank > USUAL

    def check(self, backbone: Backbone) -> str | None:
        """Each name is that of some layers, these take an adapter, and the rank is within what they have."""
        targets, widest = self.targets or backbone.lora_targets, 0
        for target in targets:
            found = [(name, each) for name, each in backbone.denoiser.named_modules() if _is(name, target)]
            if not found:
                return f"targets: no layer of {backbone.denoiser_name} is called {quoted(target)}: {_names(backbone)}"
            for name, layer in found:
                if not isinstance(layer, TAKES):
                    return f"targets: {shortened(name)} is a {type(layer).__name__}, which takes no adapter"
                widest = max(widest, min(layer.weight.shape[:2]))
        fits = self.rank <= widest
        return None if fits else f"rank {self.rank}: its layers have {widest} inputs and outputs at most: give no more"

    def attach(self, backbone: Backbone, seed: int, *, frozen: bool = True) -> Attached:
        """Add the adapter, in float32; the reference is the same network with all adapters off, and costs nothing."""
        denoiser = backbone.denoiser.requires_grad_(False)
        return Attached(self._add(backbone, denoiser, POLICY, seed), Behaviour(denoiser))

    def fork(self, backbone: Backbone, seeds: Pair[int]) -> Pair[Behaviour]:
        """Two adapters on the one base."""
        denoiser = backbone.denoiser.requires_grad_(False)
        win, lose = (self._add(backbone, denoiser, name, seed) for name, seed in seeds._asdict().items())
        return Pair(win, lose)

    def frozen(self, backbone: Backbone, reference: Behaviour, name: str, folder: Path) -> Behaviour:
        """One more adapter beside the reference's own weights."""
        return self._copy(backbone, reference.network, name, backbone.read_lora(folder))

    def twin(self, backbone: Backbone, policy: Behaviour, name: str) -> Behaviour:
        """One more adapter."""
        return self._copy(backbone, policy.network, name, self.weights(policy))

    def parameters(self, behaviour: Behaviour) -> list[nn.Parameter]:
        """The adapter's A and B."""
        named = behaviour.network.named_parameters()
        return [each for name, each in named if ".lora_" in name and behaviour.adapter in name.split(".")]

    def weights(self, behaviour: Behaviour) -> dict[str, Tensor]:
        """The adapter's A and B."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(behaviour.network, adapter_name=behaviour.adapter)

    def restore(self, behaviour: Behaviour, weights: dict[str, Tensor]) -> None:
        """Put A and B back."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(behaviour.network, weights, adapter_name=behaviour.adapter)

    def save(
        self,
        backbone: Backbone,
        folder: Path,
        behaviour: Behaviour | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write pytorch_lora_weights.safetensors with rank and alpha in its header, and read it again.

        Raises:
            InputError: The adapter is not finite, or the file is not what was written.
        """
        what = behaviour or Behaviour(backbone.denoiser, POLICY)
        network: Any = what.network
        config = network.peft_config[what.adapter].to_dict()
        ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        weights = self.weights(what) if weights is None else weights
        backbone.save_lora(folder, weights, ordered)
        for file in folder.glob("*.safetensors"):
            settle_header(file)
        name = backbone.denoiser_name
        written = read({f"{name}.{key}": value for key, value in weights.items()}, name, ordered)
        written.check_read(adapter_in(folder, name, idle=True), folder)

    def load(self, backbone: Backbone, folder: Path) -> None:
        """`load_lora_weights`."""
        backbone.load_lora(folder)

    def _copy(self, backbone: Backbone, network: nn.Module, name: str, weights: dict[str, Tensor]) -> Behaviour:
        behaviour = self._add(backbone, network, name, seed=0)
        self.restore(behaviour, weights)
        for parameter in self.parameters(behaviour):
            parameter.requires_grad_(False)
        return behaviour

    def _add(self, backbone: Backbone, network: nn.Module, name: str, seed: int) -> Behaviour:
        """A trainable adapter in float32; those before it stay as they are, and the first stays on."""
        from peft import LoraConfig, inject_adapter_in_model

        flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        active = [list(layer.active_adapters) for layer in tuners(network)][:1]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.targets or backbone.lora_targets),
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are the idea
            torch.manual_seed(seed)
            # By peft itself, because not every diffusers model has the `add_adapter` that would do the same.
            inject_adapter_in_model(config, network, name)
        for layer in tuners(network):
            layer.set_adapter(active[0] if active else name)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        behaviour = Behaviour(network, name)
        for parameter in self.parameters(behaviour):
            parameter.data = parameter.data.to(backbone.device, torch.float32)
            parameter.requires_grad_(True)
        return behaviour


def _is(name: str, target: str) -> bool:
    """Whether a layer is meant by a target, which is its name or the end of it."""
    return name == target or name.endswith(f".{target}")


def _names(backbone: Backbone) -> str:
    """What layers that take an adapter are called at their end, for messages."""
    layers = (name for name, each in backbone.denoiser.named_modules() if isinstance(each, TAKES))
    ends = {re.sub(r"^.*\.(?=[^.]*[a-z])", "", name) for name in layers}
    return f"there are {shortened(', '.join(sorted(ends)), 400)}"
