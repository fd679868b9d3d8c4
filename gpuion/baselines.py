"""Baselines: D* from a few descriptors of a structure, by fully connected networks or by ridge regression.

Legend: B structures, N particles, C descriptors, n structures of a training set.
"""

from typing import Any

import torch
from torch import Tensor

from gpuion.descriptors import describe, nearest_distance
from gpuion.predictor import Predictor, Standard, layers, logarithm
from gpuion.radial import pair_distribution

_R_MAX = 38  # voxels, the paper's
_CUTOFFS = (11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 18.0)  # of clusters, voxels; coronas touch at 14
_PENALTIES = torch.logspace(-6, 3, 28, dtype=torch.float64)


class _Standardised(Predictor):
    """A model of descriptors that are standardised, and of nothing else."""

    def __init__(self, arguments: dict[str, Any], count: int) -> None:
        super().__init__(arguments, count)
        self.standard = Standard(count, 1e-3)

    def normalize(self, *inputs: Tensor) -> None:
        """Fix the scales of the descriptors."""
        self.standard.fit(inputs[0])

    def features(self, *inputs: Tensor) -> Tensor:
        """Return the descriptors, [B, C]."""
        return self.standard(inputs[0])


class Descriptive(_Standardised):
    """Two hidden layers from descriptors to log D*.

    `nearest` takes the mean distance to the nearest sphere, `pairs` g(r) at r = 0 … 38 voxels: the baselines of
    Kadulkar, Howard, Truskett and Ganesan (J. Phys. Chem. B 2021).

    Parameters
    ----------
    model : {"nearest", "pairs"}
    hidden : int
        Width of the layers.

    Raises
    ------
    ValueError
        For another model or no width.
    """

    def __init__(self, model: str, *, hidden: int = 32) -> None:
        if model not in {"nearest", "pairs"} or hidden < 1:
            raise ValueError(f"model must be nearest or pairs and hidden ≥ 1, got {model!r} and {hidden}")
        features = 1 if model == "nearest" else _R_MAX + 1
        super().__init__({"model": model, "hidden": hidden}, features)
        self.layers = layers(features, hidden, 1)

    def prepare(self, centers: Tensor, box: float, diameter: float) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return the descriptors, float64 [B, C]."""
        if self.arguments["model"] == "nearest":
            return (nearest_distance(centers, box=box).mean(1, keepdim=True),)
        return (pair_distribution(centers, box=box, r_max=_R_MAX),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return D* [B]."""
        value = self.layers(self.standard(inputs[0]))[:, 0]
        return (value * self.output_scale + self.output_shift).exp()


class Ridge(_Standardised):
    """Ridge regression of log D* on descriptors and their squares, in closed form.

    Descriptors: g(r) at r = 0 … 38, mean and deviation of the nearest distance, and at several cutoffs the share of
    the largest cluster, the number of clusters and the axes along which one percolates. The penalty is the one of
    least error when each structure is left out in turn.
    """

    weight: Tensor

    def __init__(self) -> None:
        count = 2 * (_R_MAX + 1 + 2 + 3 * len(_CUTOFFS))
        super().__init__({"model": "ridge"}, count)
        self.register_buffer("weight", torch.zeros(count))

    def prepare(self, centers: Tensor, box: float, diameter: float) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return descriptors and their squares, float64 [B, 2C]."""
        nearest = nearest_distance(centers, box=box)
        found = [
            pair_distribution(centers, box=box, r_max=_R_MAX),
            nearest.mean(1, keepdim=True), nearest.std(1, correction=0, keepdim=True),
        ]  # fmt: skip
        for cutoff in _CUTOFFS:
            near = describe(centers, box=box, cutoff=cutoff)
            share = near.clusters / centers.shape[1]
            found += [torch.stack([near.largest, share.double(), near.axes.double()], 1)]
        x = torch.cat(found, 1)
        return (torch.cat([x, x.square()], 1),)

    @torch.no_grad()
    def solve(self, targets: Tensor, inputs: tuple[Tensor, ...]) -> float:
        """Fit to the D* [n] of structures with these inputs; return the squared error of D* on them."""
        y = logarithm(targets.double())
        self.calibrate(targets, inputs)
        X = self.standard(inputs[0]).double()
        weight = ridge(X, y)
        self.weight.copy_(weight)
        self.output_shift.copy_(y.mean() - X.mean(0) @ weight)
        return float((self(*inputs).double() - targets).square().mean())

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return D* [B]."""
        return (self.standard(inputs[0]) @ self.weight + self.output_shift).exp()


def ridge(X: Tensor, y: Tensor) -> Tensor:
    """Return the weights of ridge regression with the penalty of least error when each row is left out in turn.

    With X = U S Vᵀ, less its mean, and r = S² / (S² + n λ), leaving row i out multiplies its residual by
    1 / (1 − 1/n − Σ_k U_ik² r_k).

    Parameters
    ----------
    X : float64 [n, C]
        Rows of descriptors.
    y : float64 [n]

    Returns
    -------
    float64 [C]
        w of y ≈ ⟨y⟩ + (x − ⟨x⟩) w.
    """
    U, S, Vh = torch.linalg.svd(X - X.mean(0), full_matrices=False)
    aim = U.mT @ (y - y.mean())
    kept = S.square() / (S.square() + len(y) * _PENALTIES[:, None].to(S.device))  # [λ, k]
    left = (y - y.mean())[:, None] - U @ (kept * aim).mT
    room = 1 - 1 / len(y) - U.square() @ kept.mT
    best = kept[(left / room.clamp_min(1e-12)).square().mean(0).argmin()]
    return Vh.mT @ (best * aim / S.clamp_min(1e-12))
