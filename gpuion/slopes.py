"""From displacements at equal times to diffusivities: the slope of the mean squared displacement where it has settled.

64 equal times, so that every checkpoint is a time origin. With checkpoints at geometric times only the start is one:
over the same windows of the same walks of three media, standard errors were 1.6 times as large for the longest lag,
2.7, 4.1, 5.7 for its half, quarter, eighth, and 7.6 for the shortest, which takes 3 to 60 times the walkers.

What a slope still has to fall is not left out. The walk is reversible and starts in equilibrium, so half the slope of
the mean square is D + Σ_k c_k exp(−λ_k t) with all c_k ≥ 0: it falls, ever more slowly. In a disordered medium of three
dimensions the excess goes as t^(−3/2) (Ernst et al. 1984, Novikov et al. 2014) until the box has relaxed, then faster;
from one window to the next, of twice the lag, it falls to 2^(−3/2) = 0.35 of itself. Measured beyond the relaxation
time of the box: to 0.3 to 0.5 in electrolytes, in media of two classes 10⁵ apart and near the percolation threshold. So
with a fall F between two windows the later one lies F / (2^(3/2) − 1) = 0.55 F above D. It may be less, to nothing, or
more, to F where the excess only halves; the standard deviation F / √12 of that range is part of the standard error.

The weights of the two windows are fixed. Weights from the walk's own covariances favour windows that happen to be low:
estimates were 0.2 to 0.5% too low with 300 walkers.

On a CPU a structure's numbers are the same bit for bit in any batch: sums run along the last axis, over walkers.

Legend: B structures, W walkers, T checkpoints, J lag windows.
"""

import dataclasses
import math

import torch
from torch import Tensor

CHECKPOINTS = 64
_LAGS = (2, 4, 8, 16, 32)  # checkpoints; a window's slope runs over (lag/2, lag), every time origin counts
AHEAD = 1 / (2**1.5 - 1)
"""How far a window lies above D, in falls to it from the window before."""
_DOUBT = 12**-0.5  # of that fall: the standard deviation of anything between 0 and 1
_FEW = 256  # walkers whose squares are made at once: 0.4 MB
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
    slopes = _slopes(displacement) * (spacing**2 / (2 * interval))[:, None, None, None]
    lags = interval[:, None] * torch.tensor(_LAGS, device=interval.device)
    level, error = slopes.mean(-1), _standard_error(slopes)  # [B, J, 3]
    ends = slopes[:, 1:] - AHEAD * (slopes[:, :-1] - slopes[:, 1:])  # [B, J−1, 3, W], where each pair leads to
    doubts = _DOUBT * (level[:, :-1] - level[:, 1:]).abs()
    settled, reason = _settle(slopes, ends, doubts, error, lags, box, leads)
    index = settled.clamp_max(len(_LAGS) - 2)[:, None]  # [B, 1, 3]
    chosen = ends.gather(1, index[..., None].expand(-1, -1, -1, slopes.shape[3]))[:, 0]  # [B, 3, W]
    chosen = torch.where(leads[..., None], chosen, 0.0)
    doubt = torch.where(leads, doubts.gather(1, index)[:, 0], 0.0)
    mean = (chosen[:, 0] + chosen[:, 1] + chosen[:, 2]) / 3
    return Slopes(
        diffusivity=chosen.mean(-1), standard_error=_standard_error(chosen).hypot(doubt), mean=mean.mean(-1),
        mean_error=_standard_error(mean).hypot((doubt[:, 0] + doubt[:, 1] + doubt[:, 2]) / 3),
        converged=(settled < len(_LAGS) - 1).all(-1), reason=reason, lag=lags.gather(1, index[:, 0] + 1),
        slopes=level, slope_errors=error, lags=lags,
    )  # fmt: skip


def _slopes(displacement: Tensor) -> Tensor:
    """Return each walker's squared displacement gained in each window, a checkpoint, float64 [B, J, 3, W].

    On a CPU a few walkers at a time, in memory that stays in the cache: all of 4000 at once, window by window, took
    seven times as long. Squares and their sums are whole numbers, so that none below 2⁵³ is rounded.
    """
    B, _, W, _ = displacement.shape
    some, few = (B, W) if displacement.is_cuda else (1, _FEW)
    slopes = torch.empty(B, len(_LAGS), 3, W, dtype=torch.float64, device=displacement.device)
    for b in range(0, B, some):
        for w in range(0, W, few):
            path = displacement[b : b + some, :, w : w + few].double()
            path = torch.nn.functional.pad(path, (0, 0, 0, 0, 1, 0))  # the start is a time origin, too
            squares = [(path[:, step:] - path[:, :-step]).square_().mean(1) for step in (1, *_LAGS)]
            for j, lag in enumerate(_LAGS):
                slopes[b : b + some, j, :, w : w + few] = ((squares[j + 1] - squares[j]) / (lag - lag // 2)).mT
    return slopes


def _standard_error(samples: Tensor) -> Tensor:
    W = samples.shape[-1]
    return ((samples - samples.mean(-1, keepdim=True)).square().sum(-1) / (W * (W - 1))).sqrt()


def _settle(
    slopes: Tensor, ends: Tensor, doubts: Tensor, error: Tensor, lags: Tensor, box: Tensor, leads: Tensor
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the first of each pair of windows to read D_aa from [B, 3], J − 1 where there is none, and why."""
    level, end, noise = slopes.mean(-1), ends.mean(-1), _standard_error(ends)
    pairs = end.shape[1]
    window = torch.arange(pairs + 1, device=level.device)
    later = (window > window[:-1, None] + 1)[..., None]  # [J−1, J, 1]
    # A slow motion may fall little at first: no later window may lie below D.
    over = ends[:, :, None] - slopes[:, None]  # paired by walker: [B, J−1, J, 3, W]
    below = over.mean(-1) > 2 * _standard_error(over)
    holds = ~(below & later).any(2)  # [B, J−1, 3]
    # The longest edge for every axis: what is slow along it bends the ways along the others, too. In 4 × 48 × 4 sites
    # near the percolation threshold walks lay 1.9% high where each axis had relaxed on its own edge alone.
    relaxed = lags[:, :-1, None] / 2 * end.clamp_min(0) >= (box.max() / (2 * math.pi)) ** 2
    clear = noise.hypot(doubts) <= 0.2 * end.abs()
    calm = doubts <= 0.3 * noise
    nothing = (level.abs() <= 2 * error) & (error > 0) & (error <= 0.01 * level.amax((1, 2), keepdim=True))
    fits = (holds & relaxed & clear & calm) | (nothing[:, :-1] & nothing[:, 1:])
    if slopes.shape[3] < FEWEST:
        fits = torch.zeros_like(fits)
    first = torch.where(fits.any(1), fits.byte().argmax(1), pairs)
    first = torch.where(leads, first, pairs - 1)
    early, known = relaxed[:, :-1].any(1), (relaxed & (noise <= 0.2 * end.abs()))[:, :-1].any(1)
    reasons = []
    for b, unsettled in enumerate(first == pairs):
        if not bool(unsettled.any()):
            reasons.append("")
        elif not bool(early[b, unsettled].all()):
            reasons.append(TIME[0])
        elif slopes.shape[3] < FEWEST or not bool(known[b, unsettled].all()):
            reasons.append(MORE)
        else:
            reasons.append(TIME[1])
    return first, tuple(reasons)


TIME = (
    "the walk is shorter than the relaxation time of the box; give more time",
    "a slope is still falling; give more time",
)
MORE = f"a slope is uncertain by more than 20%, or walkers are fewer than {FEWEST}; give more walkers"
