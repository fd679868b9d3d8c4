"""From displacements at equal times to diffusivities: the slope of the mean squared displacement where it has settled.

64 equal times, so that every checkpoint is a time origin. With checkpoints at geometric times only the start is one:
over the same windows of the same walks of three media, standard errors were 1.6 times as large for the longest lag,
2.7, 4.1, 5.7 for its half, quarter, eighth, and 7.6 for the shortest, which takes 3 to 60 times the walkers.

On a CPU a structure's numbers are the same bit for bit in any batch: sums run along the last axis, over walkers.

Legend: B structures, W walkers, T checkpoints, J lag windows.
"""

import dataclasses
import math

import torch
from torch import Tensor

CHECKPOINTS = 64
_LAGS = (2, 4, 8, 16, 32)  # checkpoints; a window's slope runs over (lag/2, lag), every time origin counts
FEWEST = 30
"""Walkers below which the standard error is itself uncertain by more than 13%, and nothing is called settled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slopes:
    """Diffusivities from the windows that have settled; `gpuion.WalkResult` says of each what it is."""

    diffusivity: Tensor
    standard_error: Tensor
    mean: Tensor
    mean_error: Tensor
    converged: Tensor
    reason: tuple[str, ...]
    lag: Tensor
    slopes: Tensor
    slope_errors: Tensor
    lags: Tensor


def analyse(displacement: Tensor, interval: Tensor, spacing: float, box: Tensor, leads: Tensor) -> Slopes:
    """Turn displacements at equal times into slopes with errors, and choose each axis's window that has settled.

    Parameters
    ----------
    displacement : int [B, 64, W, 3]
        Unwrapped, in lattice steps, at times interval, 2 interval …
    interval : float64 [B]
    spacing : float
    box : float64 [3]
        Edges, voxels.
    leads : bool [B, 3]
        Axes that are open; along the others D is zero whatever the walkers say.
    """
    slopes = torch.stack([_slope(displacement, lag) for lag in _LAGS], 1)  # [B, J, 3, W] per checkpoint interval
    slopes = slopes * (spacing**2 / (2 * interval))[:, None, None, None]
    lags = interval[:, None] * torch.tensor(_LAGS, device=interval.device)
    level, error = slopes.mean(-1), _standard_error(slopes)  # [B, J, 3]
    settled, reason = _settle(slopes, level, error, lags, box, leads)
    index = settled.clamp_max(len(_LAGS) - 1)  # [B, 3]
    chosen = slopes.gather(1, index[:, None, :, None].expand(-1, 1, -1, slopes.shape[3]))[:, 0]  # [B, 3, W]
    chosen = torch.where(leads[..., None], chosen, 0.0)
    mean = (chosen[:, 0] + chosen[:, 1] + chosen[:, 2]) / 3
    return Slopes(
        diffusivity=chosen.mean(-1), standard_error=_standard_error(chosen), mean=mean.mean(-1),
        mean_error=_standard_error(mean), converged=(settled < len(_LAGS)).all(-1), reason=reason,
        lag=lags.gather(1, index), slopes=level, slope_errors=error, lags=lags,
    )  # fmt: skip


def _slope(displacement: Tensor, lag: int) -> Tensor:
    """Return each walker's squared displacement gained from lag/2 to lag, a checkpoint, float64 [B, 3, W]."""
    path = torch.nn.functional.pad(displacement, (0, 0, 0, 0, 1, 0))  # the start is a time origin, too
    squares = [(path[:, step:] - path[:, :-step]).double().square().mean(1) for step in (lag // 2, lag)]
    return ((squares[1] - squares[0]) / (lag - lag // 2)).mT.contiguous()


def _standard_error(samples: Tensor) -> Tensor:
    W = samples.shape[-1]
    return ((samples - samples.mean(-1, keepdim=True)).square().sum(-1) / (W * (W - 1))).sqrt()


def _settle(
    slopes: Tensor, level: Tensor, error: Tensor, lags: Tensor, box: Tensor, leads: Tensor
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the window to read each D_aa from [B, 3], J where there is none, and why there is none."""
    J = level.shape[1]
    fall = slopes[:, :, None] - slopes[:, None]  # paired by walker: [B, J, J, 3, W]
    window = torch.arange(J, device=level.device)
    later = (window - window[:, None])[..., None]
    sigmas = torch.where(later == 1, 2.0, 3.0)  # the next window, and those after it
    differs = (fall.mean(-1) > sigmas * _standard_error(fall)) & (later > 0)
    agrees = ~differs.any(2)  # [B, J, 3]
    relaxed = lags[..., None] / 2 * level.clamp_min(0) >= (box / (2 * math.pi)) ** 2
    clear = error <= 0.1 * level.abs()
    nothing = (level.abs() <= 2 * error) & (error > 0) & (error <= 0.01 * level.amax((1, 2), keepdim=True))
    nothing[:, :-1] &= nothing[:, 1:].clone()
    fits = ((agrees & relaxed & clear) | nothing)[:, :-1]
    if slopes.shape[3] < FEWEST:
        fits = torch.zeros_like(fits)
    first = torch.where(fits.any(1), fits.byte().argmax(1) + 1, J)
    first = torch.where(leads, first, J - 1)
    reasons = []
    for b in range(len(level)):
        open_axes = first[b] == J
        if not bool(open_axes.any()):
            reasons.append("")
        elif not bool(relaxed[b, :-1].any(0)[open_axes].all()):
            reasons.append(TIME[0])
        elif slopes.shape[3] < FEWEST or not bool((relaxed & clear)[b, :-1].any(0)[open_axes].all()):
            reasons.append(MORE)
        else:
            reasons.append(TIME[1])
    return first, tuple(reasons)


TIME = (
    "the walk is shorter than the relaxation time of the box; give more time",
    "a slope is still falling; give more time",
)
MORE = f"a slope is uncertain by more than 10%, or walkers are fewer than {FEWEST}; give more walkers"
