"""The Frechet distance between two sets of features."""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) of the Gaussians fitted to [N, F] and [M, F] (Heusel 2017).

    The trace of the root is the sum of the singular values of C_x^(1/2) C_y^(1/2); float64 throughout.

    Raises:
        ValueError: A set has fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError("the Frechet distance needs two rows of each set")
    x, y = x.double(), y.double()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    roots = [_root(torch.cov(part.T)) for part in (x, y)]
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    return float(gap + sum(root.square().sum() for root in roots) - 2 * cross)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
