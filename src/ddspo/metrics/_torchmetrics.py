"""torchmetrics' statistics of features that are there already; its own networks take torchvision."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ddspo.errors import InputError

SEED = 2020
"""Of the shuffles, as torch-fidelity has it."""


class Given(nn.Module):
    """In place of a network: what it is given are features already.

    Attributes:
        num_features: How many.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.num_features = features.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """The same."""
        return features


def check_torchmetrics() -> None:
    """Find out before anything is loaded whether it is installed.

    Raises:
        InputError: It is not.
    """
    try:
        import torchmetrics.image  # noqa: F401
    except ImportError:
        raise InputError('torchmetrics is missing: pip install "ddspo[judges]"') from None


@contextmanager
def repeatable() -> Iterator[None]:
    """Shuffle alike every time, whoever drew random numbers before; what torchmetrics warns of is known here."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        for said in ("Metric .* will save all extracted features", r"std\(\): degrees of freedom"):
            warnings.filterwarnings("ignore", said, UserWarning)
        torch.manual_seed(SEED)
        yield


def sorted_rows(features: Tensor) -> Tensor:
    """The rows [N, F] in an order of their own, so that what is shuffled later does not depend on the files' order."""
    return features[torch.from_numpy(np.lexsort(features[:, :8].numpy().T[::-1]))]
