"""What all models that read sphere centres have in common.

Legend: B structures, N particles.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gpuion.doubt import Doubt
from gpuion.prediction import Predicting

_LEAST = 1e-6  # what a D* of nothing at all counts as


class Predictor(Predicting):
    """A network from sphere centres to D*, in two steps: `prepare`, fixed numbers of a structure, and `forward`.

    `prepare(centers, box, diameter)` has no weights in it, so training does it once a structure. It does not change
    when a structure is shifted, turned or mirrored, so there is nothing to augment. `forward(*prepared)` gives D*,
    above 0. Training minimises squared errors of log D*: MAPE is a relative error.

    Attributes
    ----------
    arguments : dict
        The model's name under "model", and what its class is made with.
    meta : dict
        What a checkpoint says about it.
    per_axis : bool
        Whether `forward` gives D along x, y and z, [B, 3], rather than their mean, [B].
    doubt : Doubt
        How sure it is, from `features`.
    """

    is_small = True
    per_axis = False
    output_shift: Tensor
    output_scale: Tensor

    def __init__(self, arguments: dict[str, Any], features: int) -> None:
        super().__init__()
        self.doubt = Doubt(features)
        self.arguments = arguments
        self.meta: dict[str, Any] = {}
        for name, value in (("output_shift", 0.0), ("output_scale", 1.0)):
            self.register_buffer(name, torch.tensor(value))

    def prepare(self, centers: Tensor, box: float, diameter: float) -> tuple[Tensor, ...]:
        """Return what `forward` takes, batch first, of centres [B, N, 3] in a cell of edge `box`."""
        raise NotImplementedError

    def features(self, *inputs: Tensor) -> Tensor:
        """Return what tells structures of a kind from others, [B, C], of what `prepare` gave."""
        raise NotImplementedError

    def estimate(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return D*, [B] or along the axes [B, 3], and the standard deviation of the log of their mean, [B]."""
        return self(*inputs), self.doubt(self.features(*inputs))

    @property
    def quantiles(self) -> Tensor:
        """Quantiles of errors over their standard deviation, see `Prediction`."""
        return self.doubt.quantiles

    def inputs(self, centers: Tensor, box: float, diameter: float, batch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield what `prepare` gives, on a CPU of one structure at a time: sums round otherwise in a batch."""
        for some in centers.split(batch if centers.is_cuda else 1):
            yield self.prepare(some, box, diameter)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return what training minimises, [B]: squared errors of log D*, of the mean and, if known, along the axes."""
        error = (logarithm(prediction) - logarithm(target)).square()
        if not self.per_axis:
            return error
        mean = (logarithm(prediction.mean(-1)) - logarithm(target.mean(-1))).square()
        return mean + 0.3 * error.mean(-1)

    @torch.no_grad()
    def calibrate(self, targets: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Fix scales from the training set's D* [n] and the prepared inputs of some or all of its structures."""
        self.normalize(*inputs)
        outputs = logarithm(targets.double())
        self.output_shift.copy_(outputs.mean())
        if len(targets) > 1:
            self.output_scale.copy_(outputs.std().clamp_min(1e-6))

    def normalize(self, *inputs: Tensor) -> None:
        """Fix the scales of the inputs."""
        raise NotImplementedError


class Standard(nn.Module):
    """Features minus their mean over their deviation, both fixed by `fit`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, least: float = 0.05) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, x: Tensor) -> None:
        """Take mean and deviation from features [..., C]."""
        flat = x.reshape(-1, x.shape[-1]).double()
        if len(flat):
            self.mean.copy_(flat.mean(0))
            self.scale.copy_(flat.std(0, correction=0) + self.least)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of mean 0 and deviation 1 or less."""
        return (x.to(self.mean.dtype) - self.mean) / self.scale


def logarithm(target: Tensor) -> Tensor:
    """Return log D*; a D* of nothing at all counts as one millionth."""
    return target.clamp_min(_LEAST).log()


def layers(inputs: int, hidden: int, outputs: int, *, start_at_zero: bool = False) -> nn.Sequential:
    """Return two hidden layers with SiLU and a linear one."""
    last = nn.Linear(hidden, outputs)
    if start_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)
