"""What an adaptation is: it gives one denoiser several behaviours, some trained and some frozen, and saves them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddspo.backbones.base import Backbone
from ddspo.maths.pair import Pair

if TYPE_CHECKING:
    from diffusers import ChromaTransformer2DModel
    from peft.tuners.tuners_utils import BaseTunerLayer

Around = Callable[[], AbstractContextManager[object]]
Recomputed = Callable[..., Any]
"""Calls a block, the first of its arguments, now and in the backward pass."""


@dataclass(frozen=True)
class Behaviour:
    """One way in which a network predicts.

    Attributes:
        network: The network.
        adapter: Which of its adapters is on; None: none is.
    """

    network: nn.Module
    adapter: str | None = None

    @contextmanager
    def open(self) -> Iterator[nn.Module]:
        """The network behaving so; on leaving, whatever happened, adapters and every requires_grad are as before.

        peft's own switches move requires_grad, and a backward pass skips parameters whose flag is off.
        """
        layers = tuners(self.network)
        adapters = [(layer, list(layer.active_adapters), layer.disable_adapters) for layer in layers]
        flags = [(parameter, parameter.requires_grad) for parameter in self.network.parameters()]
        try:
            for layer in layers:
                if self.adapter is not None:
                    layer.set_adapter(self.adapter)
                layer.enable_adapters(self.adapter is not None)
            yield self.network
        finally:
            for layer, active, off in adapters:
                layer.set_adapter(active)
                layer.enable_adapters(not off)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


class Attached(NamedTuple):
    """What training needs: a behaviour to train, which is on from now on, and the frozen one that it left, if any."""

    policy: Behaviour
    reference: Behaviour | None


class Adaptation(ABC):
    """How a denoiser is trained."""

    saves_pipeline: ClassVar[bool]
    """Whether `save` writes the whole pipeline or the trained weights alone."""

    @property
    def unusual(self) -> bool:
        """Whether its options may not fit a model, so that `check` is worth a look at the model's layers."""
        return False

    def check(self, backbone: Backbone) -> str | None:
        """What of its options does not fit the layers of a backbone, whose weights are not looked at, or None."""
        return None

    @abstractmethod
    def attach(self, backbone: Backbone, seed: int, *, frozen: bool = True) -> Attached:
        """Make a backbone's denoiser trainable in place, and keep the reference if a frozen policy is asked for."""

    @abstractmethod
    def fork(self, backbone: Backbone, seeds: Pair[int]) -> Pair[Behaviour]:
        """Two behaviours to train, both starting at the backbone's own, which is not kept."""

    @abstractmethod
    def frozen(self, backbone: Backbone, reference: Behaviour, name: str, folder: Path) -> Behaviour:
        """Read what `save` wrote as a further frozen behaviour beside the reference."""

    @abstractmethod
    def twin(self, backbone: Backbone, policy: Behaviour, name: str) -> Behaviour:
        """A frozen copy of what is trained, as it is now and in the precision in which it is trained."""

    @abstractmethod
    def parameters(self, behaviour: Behaviour) -> list[nn.Parameter]:
        """What of a behaviour is trained, in the same order for all of one kind."""

    @abstractmethod
    def weights(self, behaviour: Behaviour) -> dict[str, Tensor]:
        """The trained weights, by name."""

    @abstractmethod
    def restore(self, behaviour: Behaviour, weights: dict[str, Tensor]) -> None:
        """Put trained weights back."""

    @abstractmethod
    def save(
        self,
        backbone: Backbone,
        folder: Path,
        behaviour: Behaviour | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Write a behaviour, that of `attach` where none is named, as an ordinary diffusers artifact.

        Args:
            backbone: The one that has it.
            folder: Where to.
            behaviour: Which.
            weights: Its trained weights, where the network has a share of each alone.
        """

    @abstractmethod
    def load(self, backbone: Backbone, folder: Path) -> None:
        """Read what `save` wrote, as any user of diffusers would."""


def tuners(network: nn.Module) -> "list[BaseTunerLayer]":
    """The layers of a network that hold adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def recompute_activations(network: Any, around: Around = nullcontext) -> None:
    """Of every block of a diffusers network keep the inputs alone, and run it again in the backward pass.

    Memory of activations falls from all layers' to one block's; a backward pass costs one more forward (Chen et al.
    2016, Training Deep Nets with Sublinear Memory Cost). The gradients are the same.

    Args:
        network: Of diffusers.
        around: Entered around each block that runs again.
    """
    from diffusers import ChromaTransformer2DModel

    again: Recomputed = partial(_recomputed, around)
    network.enable_gradient_checkpointing(
        _masked(network, again) if isinstance(network, ChromaTransformer2DModel) else again
    )


def _masked(network: "ChromaTransformer2DModel", again: Recomputed) -> Recomputed:
    """The same with the mask of a forward, which diffusers' Chroma gives no block of one stream that runs again.

    Without it the policy would be another function with this option than the reference, which has no backward pass.
    """
    from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock

    given: dict[str, Tensor] = {}

    def note(_: nn.Module, inputs: Any, named: dict[str, Tensor]) -> None:
        given["mask"] = named["attention_mask"]

    def masked(block: nn.Module, *inputs: Any) -> Any:
        unmasked = isinstance(block, ChromaSingleTransformerBlock) and len(inputs) == 3
        return again(block, *inputs, given["mask"]) if unmasked else again(block, *inputs)

    network.register_forward_pre_hook(note, with_kwargs=True)
    return masked


def _recomputed(around: Around, block: nn.Module, *inputs: Any) -> Any:
    """A block that will run again with the adapter that is on now, whichever is on by then."""
    layers = tuners(block)
    on = layers[0].active_adapters[0] if layers and not layers[0].disable_adapters else None

    @contextmanager
    def again() -> Iterator[None]:
        with around(), Behaviour(block, on).open():
            yield

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
