"""Diffusivity from random walks: many independent ions, the Einstein relation, and an error bar.

Ions hop between neighbouring sites at rates k(x→y) = √(D_x D_y) / h² · exp(−(U_y − U_x)/2). They start from the
stationary distribution π = exp(−U), and D is the slope of their mean squared displacement once it has settled.

Legend: B structures, W walkers, T checkpoints, J lag windows, X Y Z sites, K classes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpuion.kernels.reference import Stream, philox, pick
from gpuion.medium import Medium

CHECKPOINTS = 64
_LAGS = (2, 4, 8, 16, 32)  # checkpoints; a window's slope runs over (lag/2, lag), every time origin counts
_SCALE = 2.0**32 / (1 + 2.0**-20)  # a bond at k_max stays just below 2³², so that it fits a word
_RAREST = 1e-6  # smallest k/k_max whose threshold a 32-bit word resolves to 0.2%


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalkResult:
    """What the walks say.

    Attributes
    ----------
    diffusivity, standard_error : float64 [B, 3]
        D per axis from the settled slope, and its standard error over independent walkers.
    mean, mean_error : float64 [B]
        The mean over axes and its own standard error.
    converged : bool [B]
        Whether the slopes of all three axes have settled; if not, those of `diffusivity` that have not are
        the last window's and probably too high.
    reason : tuple of str
        Why a structure has not converged; empty strings for the others.
    lag : float64 [B, 3]
        The longer lag of the window that each D_aa is taken from, voxel² / D_ref.
    slopes, slope_errors : float64 [B, J, 3]
        Slope of each lag window and its standard error: the plateau to look at.
    lags : float64 [B, J]
        The longer lag of each window.
    hops, attempts : int64 [B]
        Hops made and attempted by all walkers.
    """

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
    hops: Tensor
    attempts: Tensor


@torch.no_grad()
def walk(
    medium: Medium, *, walkers: int = 10_000, time: float = 12_000.0, seed: int = 0,
    ids: Sequence[int] | Tensor | None = None,
) -> WalkResult:  # fmt: skip
    """Return the diffusivity of ions in each structure by kinetic Monte Carlo.

    D_aa = ½ d⟨[r_a(t) − r_a(0)]²⟩/dt. Displacements are recorded at 64 equal times and averaged over walkers and
    time origins. The slope is taken over lags (t/2, t) for t = 1/32 … 1/2 of the walk. From the stationary start it
    falls towards 2 D from above, never rising. An axis has settled at the first window beyond the relaxation time of
    the box, L² / 4π²D, that lies no more than two standard errors above the next window, three above any later one,
    and is known to 10%; D is read from the next window. An axis also counts as settled where its slope is zero within
    two standard errors, in two windows, and known to 1% of the fastest axis.

    Parameters
    ----------
    medium : Medium
    walkers : int
        W, at least 2. The relative error of the mean of three axes is about √(2 / 3W) or less.
    time : float
        Length of each walk, voxel² / D_ref.
    seed : int
        In [0, 2⁶⁴). A structure's walks depend on (seed, id) alone.
    ids : sequence of int, optional
        Global structure ids, default 0 … B−1.

    Returns
    -------
    WalkResult

    Raises
    ------
    ValueError
        If no site of a structure is open, if rates span more than 10⁶ (use `homogenize`), or if the walk is too long.

    References
    ----------
    Kadulkar et al., J. Phys. Chem. B 2021 (the ground truth of that paper).
    """
    numbers = _check(medium, walkers, time, seed, ids)
    tables = _rates(medium)
    tick = torch.where(tables.fastest > 0, 1 / (6 * tables.fastest.clamp_min(1e-300)), math.inf)
    quads = torch.ceil(time / (CHECKPOINTS * 4 * tick)).long()
    if int(quads.max() if len(medium) else 0) * CHECKPOINTS * 4 >= 2**31:
        raise ValueError(f"time = {time} takes more than 2³¹ attempts a walker; walk a shorter time")
    start = _starts(medium, walkers, seed, numbers)
    arguments = (
        medium.labels.contiguous(), tables.leave, tables.enter, start, quads.int(), numbers, seed, CHECKPOINTS
    )  # fmt: skip
    if medium.labels.is_cuda:
        from gpuion.kernels.walk import walk as launch
    else:
        from gpuion.kernels.scalar import walk as launch
    displacement, hops = launch(*arguments)
    interval = torch.where(quads > 0, quads * 4 * tick, time / CHECKPOINTS)
    box = torch.tensor(medium.labels.shape[1:], device=interval.device) * medium.spacing
    attempts = quads * 4 * CHECKPOINTS * walkers
    return _analyse(displacement, interval, medium.spacing, box, hops.long().sum(-1), attempts)


def _check(medium: Medium, walkers: int, time: float, seed: int, ids: Sequence[int] | Tensor | None) -> Tensor:
    B, X, Y, Z = medium.labels.shape
    if walkers < 2:
        raise ValueError(f"walkers must be at least 2 for an error bar, got {walkers}")
    if not (time > 0 and math.isfinite(time)):
        raise ValueError(f"time must be positive, got {time}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2⁶⁴), got {seed}")
    if X * Y * Z >= 2**31:
        raise ValueError(f"a structure of {X}·{Y}·{Z} sites is too large; at most 2³¹ − 1")
    numbers = torch.arange(B) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
    if numbers.shape != (B,) or (B and not 0 <= int(numbers.min()) <= int(numbers.max()) < 2**32):
        raise ValueError(f"ids must be {B} integers in [0, 2³²), one a structure")
    return numbers.to(medium.labels.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rates:
    """Hop rates as tables of the class left and the class entered."""

    leave: Tensor  # float32 [B, 256], √D e^{U/2}, scaled
    enter: Tensor  # float32 [B, 256], √D e^{−U/2} / h²
    fastest: Tensor  # float64 [B], k_max of the clock


def _rates(medium: Medium) -> _Rates:
    """Return each structure's rate tables, scaled so that leave · enter is the threshold of a hop."""
    potential, root = medium.potential, medium.diffusivity.sqrt()
    is_open = torch.isfinite(potential)
    level = torch.where(is_open, potential, 0.0)
    middle = (level[is_open].max() + level[is_open].min()) / 2 if bool(is_open.any()) else 0.0
    leave = torch.where(is_open, root * torch.exp((level - middle) / 2), 0.0)
    enter = torch.where(is_open, root * torch.exp(-(level - middle) / 2), 0.0) / medium.spacing**2
    if not bool(torch.isfinite(leave).all() & torch.isfinite(enter).all()) or max(leave.max(), enter.max()) > 1e30:
        raise ValueError("the potential spans too many kT for a walk; use homogenize")
    table = enter.new_zeros(len(medium), 2, 256)
    fastest = enter.new_zeros(len(medium))
    for b in range(len(medium)):
        slow, fast = _extremes(medium.labels[b], leave, enter)
        if 0 < slow < _RAREST * fast:
            raise ValueError(
                f"structure {b}: rates of its bonds span a factor {fast / slow:.1e}, more than {1 / _RAREST:.0e}, "
                "so a walk would hardly ever make the slow hops; use homogenize"
            )
        fastest[b] = fast * (1 + 2.0**-20)
        table[b, 0, : len(leave)] = leave * (2.0**32 / fastest[b] if fast > 0 else 0.0)
        table[b, 1, : len(enter)] = enter
    return _Rates(leave=table[:, 0].float().contiguous(), enter=table[:, 1].float().contiguous(), fastest=fastest)


def _extremes(labels: Tensor, leave: Tensor, enter: Tensor) -> tuple[float, float]:
    """Return the slowest and the fastest rate of the bonds that occur in a structure; 0 where there is none."""
    K = len(leave)
    pairs = [labels.long() * K + labels.roll(-1, axis).long() for axis in range(3)]
    occurs = torch.bincount(torch.stack(pairs).reshape(-1), minlength=K * K).reshape(K, K) > 0
    rates = (leave[:, None] * enter)[occurs | occurs.T]
    rates = rates[rates > 0]
    return (float(rates.min()), float(rates.max())) if len(rates) else (0.0, 0.0)


def _starts(medium: Medium, walkers: int, seed: int, ids: Tensor) -> Tensor:
    """Draw first sites from π, int32 [B, W]: a class by its total weight, then one of its sites.

    Counts are integers and the cumulative weights are made on the CPU, so that every device draws the same sites.
    """
    B, device = len(medium), medium.labels.device
    is_open = torch.isfinite(medium.potential)
    lowest = torch.where(is_open, medium.potential, math.inf).min().clamp_max(1e300)
    weight = torch.where(is_open, torch.exp(lowest - medium.potential), 0.0).cpu()
    start = torch.empty((B, walkers), dtype=torch.int32, device=device)
    number = torch.arange(walkers, device=device)
    for b in range(B):
        flat = medium.labels[b].reshape(-1)
        counts = torch.bincount(flat.long(), minlength=len(weight)).cpu()
        share = np.cumsum(counts.double().numpy() * weight.numpy())
        if not share[-1] > 0:
            raise ValueError(f"structure {b} has no open site")
        words = philox(seed, 0, number, ids[b], Stream.WALK_START)
        u = (words[0] * 2**21 + (words[1] >> 11)).double() * 2.0**-53
        kind = torch.searchsorted(torch.from_numpy(share / share[-1]).to(device), u, right=True)
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(device)
        rank = first[kind] + pick(words[2], counts.to(device)[kind])
        start[b] = torch.argsort(flat, stable=True)[rank].int()
    return start


def _analyse(
    displacement: Tensor, interval: Tensor, spacing: float, box: Tensor, hops: Tensor, attempts: Tensor
) -> WalkResult:
    """Turn displacements at equal times into slopes with errors, and choose each axis's window that has settled."""
    slopes = torch.stack([_slope(displacement, lag) for lag in _LAGS], 1)  # [B, J, W, 3] per checkpoint interval
    slopes = slopes * (spacing**2 / (2 * interval))[:, None, None, None]
    lags = interval[:, None] * torch.tensor(_LAGS, device=interval.device)
    level, error = slopes.mean(2), _standard_error(slopes, 2)  # [B, J, 3]
    settled, reason = _settle(slopes, level, error, lags, box)
    index = settled.clamp_max(len(_LAGS) - 1)  # [B, 3]
    chosen = slopes.gather(1, index[:, None, None].expand(-1, 1, slopes.shape[2], -1))[:, 0]  # [B, W, 3]
    return WalkResult(
        diffusivity=chosen.mean(1), standard_error=_standard_error(chosen, 1), mean=chosen.mean((1, 2)),
        mean_error=_standard_error(chosen.mean(-1), 1), converged=(settled < len(_LAGS)).all(-1), reason=reason,
        lag=lags.gather(1, index), slopes=level, slope_errors=error, lags=lags, hops=hops, attempts=attempts,
    )  # fmt: skip


def _slope(displacement: Tensor, lag: int) -> Tensor:
    """Return each walker's squared displacement gained from lag/2 to lag, a checkpoint, float64 [B, W, 3]."""
    path = torch.nn.functional.pad(displacement, (0, 0, 0, 0, 1, 0))  # the start is a time origin, too
    squares = [(path[:, step:] - path[:, :-step]).double().square().mean(1) for step in (lag // 2, lag)]
    return (squares[1] - squares[0]) / (lag - lag // 2)


def _standard_error(samples: Tensor, dim: int) -> Tensor:
    return samples.std(dim) / math.sqrt(samples.shape[dim])


def _settle(slopes: Tensor, level: Tensor, error: Tensor, lags: Tensor, box: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Return the window to read each D_aa from [B, 3], J where there is none, and why there is none."""
    J = level.shape[1]
    fall = slopes[:, :, None] - slopes[:, None]  # paired by walker: [B, J, J, W, 3]
    window = torch.arange(J, device=level.device)
    later = (window - window[:, None])[..., None]
    sigmas = torch.where(later == 1, 2.0, 3.0)  # the next window, and those after it
    differs = (fall.mean(3) > sigmas * _standard_error(fall, 3)) & (later > 0)
    agrees = ~differs.any(2)  # [B, J, 3]
    relaxed = lags[..., None] / 2 * level.clamp_min(0) >= (box / (2 * math.pi)) ** 2
    clear = error <= 0.1 * level.abs()
    nothing = (level.abs() <= 2 * error) & (error <= 0.01 * level.amax((1, 2), keepdim=True))
    nothing[:, :-1] &= nothing[:, 1:].clone()
    still = (level == 0).all(1)  # no ion ever moved along this axis
    fits = ((agrees & relaxed & clear) | nothing)[:, :-1]
    first = torch.where(fits.any(1), fits.byte().argmax(1) + 1, J)
    first = torch.where(still, J - 1, first)
    reasons = []
    for b in range(len(level)):
        open_axes = first[b] == J
        if not bool(open_axes.any()):
            reasons.append("")
        elif not bool(relaxed[b, :-1].any(0)[open_axes].all()):
            reasons.append("the walk is shorter than the relaxation time of the box; give more time")
        elif not bool((relaxed & clear)[b, :-1].any(0)[open_axes].all()):
            reasons.append("a slope is uncertain by more than 10%; give more walkers")
        else:
            reasons.append("a slope is still falling; give more time")
    return first, tuple(reasons)
