"""Experts of which a few see each token, with a gradient."""

import torch
from diffusers.models.transformers.transformer_hidream_image import MOEFeedForwardSwiGLU
from torch import Tensor, nn


class Routed(MOEFeedForwardSwiGLU):  # type: ignore[misc]  # diffusers has no types
    """diffusers' own, to the same sums: outside of `training` that one gives its experts no gradient.

    In `training` it would add numbers in another order, and the policy be another function than the reference.
    """

    def moe_infer(self, x: Tensor, flat_expert_indices: Tensor, flat_expert_weights: Tensor) -> Tensor:
        """Of tokens [N, width], each with K experts and their weights, [N K] and [N K, 1], the weighted sums."""
        places = flat_expert_indices.argsort()
        found = torch.zeros_like(x)
        for expert, own in zip(self.experts, torch.split(places, self._shares(flat_expert_indices)), strict=True):
            tokens = own // self.num_activated_experts
            out = expert(x[tokens])
            found = found.to(out.dtype).index_add(0, tokens, (out * flat_expert_weights[own]).to(out.dtype))
        return found

    def _shares(self, chosen: Tensor) -> list[int]:
        """How often each expert was chosen; where tensors have shapes alone ("meta"), all alike."""
        count = len(self.experts)
        if not chosen.is_meta:
            return [int(each) for each in chosen.bincount(minlength=count).tolist()]
        return [(len(chosen) + place) // count for place in range(count)]


def route(network: nn.Module) -> None:
    """Make all experts of a network such ones."""
    for module in network.modules():
        if type(module) is MOEFeedForwardSwiGLU:
            module.__class__ = Routed
