"""Counts of a model that were made before in this process: a plan asks for the cost of many recipes of one model."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import nn

from ddspo.backbones.base import Backbone

T = TypeVar("T")
_FOUND: dict[Hashable, Any] = {}


def once(backbone: Backbone, key: Hashable, count: Callable[[], T]) -> T:
    """What a function counts, or has counted before of a model of the same shapes, under the same key.

    Args:
        backbone: The model, whose denoiser may have adapters: they are a matter of the key.
        key: All else that the result depends on.
        count: The function.
    """
    whole = (_shapes(backbone), key)
    if whole not in _FOUND:
        _FOUND[whole] = count()
    found: T = _FOUND[whole]
    return found


def _shapes(backbone: Backbone) -> Hashable:
    """Everything that shapes and precisions of a model without weights follow from."""
    parts = backbone.pipeline.components
    networks = [(name, repr(part.config)) for name, part in parts.items() if isinstance(part, nn.Module)]
    precisions = [str(part.dtype) for part in parts.values() if isinstance(part, nn.Module)]
    read = [(reader.encoder, reader.limit, reader.prefix) for reader in backbone.readers()]
    return str((type(backbone), networks, precisions, read, backbone.latent_shape, backbone.distilled_guidance))
