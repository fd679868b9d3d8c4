"""How sure a model is of D*: errors grow with a structure's distance from those that it learnt from.

Legend: B structures, n structures of a training part, C features.
"""

import reprlib

import torch
from torch import Tensor, nn

from gpuion.checks import is_between

LEVELS = 100  # of coverage
_RIDGE = 0.1  # added to the features' variances, which are of order one


class Doubt(nn.Module):
    """The standard deviation of log D*, from how far a structure's features are from the training part's.

        σ = c m,    m² = 1 + (f − μ)ᵀ (Σ + λ)⁻¹ (f − μ),

    with μ and Σ the mean and the covariance of the training part's features f over their deviations. `measure` fixes
    these, `calibrate` fixes c so that errors over σ have a mean square of 1 on the validation part, and keeps the
    quantiles of their sizes: errors of networks are not normal, and intervals are as wide as those say.

    Parameters
    ----------
    features : int
        C.

    References
    ----------
    Janet, Duan, Yang, Nandy, Kulik, Chem. Sci. 10, 7913 (2019), for errors that grow with the distance from the
    training set among a network's own features; Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, J. Am. Stat. Assoc. 113,
    1094 (2018), for intervals by the quantiles of held-out errors.
    """

    mean: Tensor
    whitening: Tensor
    scale: Tensor
    quantiles: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.zeros(features, features))
        self.register_buffer("scale", torch.tensor(0.0))  # not known yet
        self.register_buffer("quantiles", torch.zeros(LEVELS))

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Fix mean and whitening from the training part's features [n, C]."""
        x = features.double()
        deviation = x.std(0, correction=0) + 1e-3
        y = (x - x.mean(0)) / deviation
        ridge = _RIDGE * torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        factor = torch.linalg.cholesky(y.mT @ y / len(y) + ridge)
        self.mean.copy_(x.mean(0))
        self.whitening.copy_(torch.linalg.inv(factor).mT / deviation[:, None])
        self.scale.zero_()

    @torch.no_grad()
    def calibrate(self, features: Tensor, error: Tensor) -> None:
        """Fix c and the quantiles from features [n, C] and errors of log D* [n] of structures held out."""
        ratio = error.double().abs() / self.distance(features).double()
        scale = ratio.square().mean().sqrt()
        self.scale.copy_(scale)
        levels = torch.arange(1, LEVELS + 1, dtype=ratio.dtype, device=ratio.device) / LEVELS
        self.quantiles.copy_(torch.quantile(ratio / scale, levels))

    def distance(self, features: Tensor) -> Tensor:
        """Return m [B] of features [B, C]."""
        return (1 + ((features - self.mean.to(features)) @ self.whitening.to(features)).square().sum(-1)).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """Return σ [B] of features [B, C], NaN before it is known."""
        known = torch.where(self.scale > 0, self.scale, torch.nan)
        return known.to(features) * self.distance(features)


def reach(quantiles: Tensor, coverage: float) -> Tensor:
    """Return how many σ on either side hold the truth with this probability, from the quantiles of a `Doubt`.

    Raises
    ------
    ValueError
        For a probability that is not between 0 and 1.
    """
    if not is_between(coverage, 0, 1):
        raise ValueError(f"coverage must lie between 0 and 1, got {reprlib.repr(coverage)}")
    coverage = float(coverage)
    at = coverage * LEVELS
    below = int(at)
    whole = torch.cat([quantiles.new_zeros(1), quantiles])
    return whole[below].lerp(whole[below + 1], at - below)
