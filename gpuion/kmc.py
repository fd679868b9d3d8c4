"""Diffusivity from random walks: many independent ions, the Einstein relation, and an error bar.

Ions hop between neighbouring sites at rates k(x→y) = √(D_x D_y) / h² · exp(−(U_y − U_x)/2). They start from the
stationary distribution π = exp(−U), and D is the slope of their mean squared displacement once it has settled.

Most attempts to hop fail on a coarse lattice, 96% at one site per voxel and 62% at five. A walk without rejections (the
n-fold way) was tried and not kept: on a CPU it is 0.7, 0.27, 0.20 and 0.24 times as fast at 1, 2, 3 and 5 sites per
voxel (`bench/rejection_free.py`; 27 spheres in 50³ voxels), as it goes one walker at a time; on a GPU its lanes would
wait for each other.

Legend: B structures, C of a group, W walkers, T checkpoints, J lag windows, X Y Z sites, K classes.
"""

import dataclasses
import math
import reprlib
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpuion.automatic import LONGER, LONGEST, STOP, Goal, next_steps, shortest
from gpuion.checks import check_kind, check_numbers, check_room, check_seed, check_whole, is_between
from gpuion.hops import rates, trapped
from gpuion.medium import Medium
from gpuion.slopes import CHECKPOINTS, Slopes, analyse
from gpuion.walkers import Ions, Walks, begin, check_attempts, longer, more

_AT_ONCE = 2**24  # displacements of a group of structures: 64 MB, and four times as much in float64 to analyse them
_LARGEST = (2048, 1024, 2048)  # what the GPU's interleaved addresses hold
_Batch = TypeVar("_Batch", "WalkResult", Walks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WalkResult(Slopes):
    """What the walks say.

    Attributes
    ----------
    diffusivity, standard_error : float64 [B, 3]
        D per axis from the settled slope, and its standard error: over independent walkers, and of what the slope has
        yet to fall. Both are zero along an axis that no cluster of open sites leads through.
    mean, mean_error : float64 [B]
        The mean over axes and its own standard error.
    converged : bool [B]
        Whether the slopes of all three axes have settled (and, with time="auto", the mean is known to `rtol`); of
        those of `diffusivity` that have not settled, the last windows' is given, which is probably too high.
    reason : tuple of str
        Why a structure has not converged; empty strings for the others.
    trapped : float64 [B]
        Share of the stationary weight in closed pockets: exact, from the labels. It carries nothing and counts in D.
    lag : float64 [B, 3]
        The longer lag of the later of the two windows that each D_aa is taken from, voxel² / D_ref.
    slopes, slope_errors : float64 [B, J, 3]
        Slope of each lag window and its standard error: the plateau to look at, see `gpuion.plots.plateau`.
    lags : float64 [B, J]
        The longer lag of each window.
    time : float64 [B]
        How long each ion walked, voxel² / D_ref.
    walkers : int64 [B]
    hops, attempts : int64 [B]
        Hops made and attempted by all walkers.
    """

    trapped: Tensor
    time: Tensor
    walkers: Tensor
    hops: Tensor
    attempts: Tensor


@torch.no_grad()
def walk(
    medium: Medium, *, walkers: int = 10_000, time: float | str = 12_000.0, rtol: float = 0.02,
    max_attempts: float = 1e10, seed: int = 0, ids: Sequence[int] | Tensor | None = None,
) -> WalkResult:  # fmt: skip
    """Return the diffusivity of ions in each structure by kinetic Monte Carlo.

    D_aa = ½ d⟨[r_a(t) − r_a(0)]²⟩/dt. Displacements are recorded at 64 equal times and averaged over walkers and
    time origins. The slope is taken over lags (t/2, t) for t = 1/32 … 1/2 of the walk. From the stationary start it
    falls towards 2 D from above, ever more slowly: as t^(−3/2) in disordered media until the box has relaxed, faster
    then. So D lies below a window's slope by 1 / (2^(3/2) − 1) = 0.55 of its fall F from the window before. F / √12,
    the standard deviation of anything between nothing and F, is part of the standard error (`gpuion.slopes` says why).

    D is read at the first two windows, the earlier of them beyond the relaxation time of the box, L² / 4π²D of the
    longest edge L, from which it comes out as known to 20%, with F / √12 no more than 0.3 of the error over walkers,
    and no more than two standard errors above any later window. An axis also counts as settled where its slope is zero
    within two standard errors, in two windows, and known to 1% of the fastest axis, or where no cluster of open sites
    leads through: D is zero there. Below 30 walkers nothing settles.

    With time="auto" a walk begins short. As long as an axis has not settled, its time is doubled, all walkers going
    on where they stood, and so where it could be read at the last windows alone, the noisiest; elsewhere, where only
    the noise is too large, other walkers join from the start, as many as the error asks for and at most four times
    those at hand. It ends when all axes have settled and the mean of the three is known to `rtol`, or would take more
    than `max_attempts`: then `converged` is false. Each structure stops for itself.

    Parameters
    ----------
    medium : Medium
    walkers : int
        W, at least 2; with time="auto" those to begin with. The relative error of the mean of three axes is about
        √(2 / 3W) or less.
    time : float or "auto"
        Length of each walk, voxel² / D_ref.
    rtol : float
        With time="auto", the standard error of the mean over axes, relative to it.
    max_attempts : float
        With time="auto", the most attempts that all walkers of a structure make together, those of the first walk
        among them; 10¹⁰ take a CPU core some seven seconds.
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
        If no site of a structure is open, if rates span more than 10⁶ (use `homogenize`) or are beyond 10^±140, if an
        argument is no number of its range, if the walk is too long, or if `max_attempts` are fewer than those that
        `walkers` make to begin with; the message says how many that is.

    Notes
    -----
    Error bars against `homogenize`, z of the mean over axes of the walks that settled:

    ==================================================  ==============  ==============  =============
    medium, walks                                       settled         mean z          rms z
    ==================================================  ==============  ==============  =============
    two classes and blocked sites, 6³, given time       192 of 200      −0.06 ± 0.07    0.93 ± 0.05
    the same, automatic to 3%                           200 of 200      +0.08 ± 0.07    0.85 ± 0.05
    two classes 1 / 10³ apart, 9 · 8 · 7, to 2%         240 of 240      −0.01 ± 0.06    0.93 ± 0.05
    the same, 10⁵ apart                                 240 of 240      +0.45 ± 0.06    1.11 ± 0.05
    0.4 of the sites open, 10³, to 5%                   240 of 240      −0.03 ± 0.06    0.92 ± 0.05
    0.34 of them (percolation at 0.31)                  216 of 216      −0.17 ± 0.07    0.93 ± 0.05
    the same, 300 walkers for a time of 4000            206 of 216      −0.11 ± 0.07    0.96 ± 0.05
    the same for 1500                                   56 of 100       +0.52 ± 0.13    1.03 ± 0.09
    27 spheres in 50³, 300 walkers for 40 000           22 of 30        −0.03 ± 0.21    1.02 ± 0.15
    ==================================================  ==============  ==============  =============

    They were counted with one rule more, which kept 1 in 40 walks near the threshold from settling and changed no z.
    Where classes lie 10⁵ apart what is left to fall only halves from window to window: estimates are 1% high at
    2%. Where only some walks settle, they are those that read high by chance. No more than 2 in 100 of any row lie
    beyond three. Error bars are 1.3 times as wide as those of the later slope alone; automatic walks make twice the
    attempts of those that read it where a medium relaxes quickly, 1.5 times in the others.

    References
    ----------
    Kadulkar et al., J. Phys. Chem. B 2021 (the ground truth of that paper). M. H. Ernst, J. Machta, J. R. Dorfman and
    H. van Beijeren, J. Stat. Phys. 34, 477 (1984) and D. S. Novikov, J. H. Jensen, J. A. Helpern and E. Fieremans, PNAS
    111, 5088 (2014): what the slope has yet to fall.
    """
    check_kind("medium", medium, Medium)
    _check(medium, time, rtol, max_attempts)
    rtol, max_attempts = float(rtol), float(max_attempts)
    walkers, seed = check_whole("walkers", walkers, 2), check_seed(seed)  # one walker has no error bar
    numbers = check_numbers(len(medium), ids).to(medium.labels.device)
    check_room(20.0 * CHECKPOINTS * 3 * walkers, f"the paths of {walkers} walkers")
    tables = rates(medium)
    tick = torch.where(tables.fastest > 0, 1 / (6 * tables.fastest.clamp_min(1e-300)), math.inf)
    lasts = shortest(medium, tables.fastest) if isinstance(time, str) else torch.full_like(tick, float(time))
    quads = torch.ceil(lasts / (CHECKPOINTS * 4 * tick)).clamp_max(LONGEST).long()
    if int(quads.max() if len(medium) else 0) * CHECKPOINTS * 4 >= LONGEST:
        raise ValueError(f"time = {time} takes more than 2³¹ attempts a walker; walk a shorter time")
    if isinstance(time, str):
        check_attempts(walkers, quads, max_attempts)
    shut, leads = trapped(medium)
    ions = Ions(medium=medium, tables=tables, ids=numbers, seed=seed, tick=tick, trapped=shut, leads=leads)
    goal = Goal(rtol=rtol, max_attempts=max_attempts) if isinstance(time, str) else None
    done: list[tuple[Tensor, WalkResult]] = []
    for index in torch.arange(len(medium), device=tick.device).split(_share(walkers)):
        pending = [begin(ions, index, walkers, quads[index], lasts[index])]
        while pending:
            walks = pending.pop()
            result = _result(ions, walks)
            plan = next_steps(result, walks, goal)
            for extra in sorted(set(plan)):
                rows = torch.tensor([c for c, p in enumerate(plan) if p == extra], device=index.device)
                for some in rows.split(_share((1 + max(extra, 0.0)) * walks.start.shape[1])):
                    part = _select(walks, some)
                    if extra == STOP:
                        done.append((part.index, _select(result, some)))
                    else:
                        pending.append(longer(ions, part) if extra == LONGER else more(ions, part, extra))
            if not plan:  # an empty batch
                done.append((walks.index, result))
    return _join(done, goal)


def _check(medium: Medium, time: Any, rtol: Any, max_attempts: Any) -> None:
    from gpuion.kernels.lanes import sides

    shape = medium.labels.shape[1:]
    if not (isinstance(time, str) and time == "auto") and not is_between(time, 0, math.inf):
        raise ValueError(f'time must be a positive number, finite, or "auto", got {reprlib.repr(time)}')
    if not is_between(rtol, 0, 1):
        raise ValueError(f"rtol is a relative error in (0, 1), got {reprlib.repr(rtol)}; 0.02 is usual")
    if not is_between(max_attempts, 0, math.inf) and not (isinstance(max_attempts, float) and max_attempts == math.inf):
        raise ValueError(f"max_attempts must be a positive number, got {reprlib.repr(max_attempts)}; 1e10 is usual")
    if math.prod(shape) >= 2**31:
        raise ValueError(f"a structure of {'·'.join(map(str, shape))} sites is too large; at most 2³¹ − 1")
    if not medium.labels.is_cuda and math.prod(sides(shape)) >= 2**32:
        raise ValueError(
            f"a structure of {'·'.join(map(str, shape))} sites is too thin for a walk on a CPU, which puts images "
            "around it; walk a shorter piece of it, or use homogenize"
        )
    if medium.labels.is_cuda and any(n > most for n, most in zip(shape, _LARGEST, strict=True)):
        raise ValueError(
            f"a structure of {'·'.join(map(str, shape))} sites is too long for a GPU; at most {_LARGEST} along "
            "x, y, z: turn it, or walk on the CPU"
        )


def _share(walkers: float) -> int:
    """Return how many structures to keep in hand at once."""
    return max(1, int(_AT_ONCE // (CHECKPOINTS * walkers * 3)))


def _result(ions: Ions, walks: Walks) -> WalkResult:
    """Return what these walks say."""
    W, spacing = walks.start.shape[1], ions.medium.spacing
    box = torch.tensor(ions.medium.labels.shape[1:], device=walks.start.device) * spacing
    slopes = analyse(walks.path, walks.interval, spacing, box, ions.leads[walks.index])
    return WalkResult(
        **vars(slopes), trapped=ions.trapped[walks.index], time=CHECKPOINTS * walks.interval,
        walkers=torch.full_like(walks.quads, W), hops=walks.hops, attempts=walks.quads * 4 * CHECKPOINTS * W,
    )  # fmt: skip


def _select(batch: _Batch, rows: Tensor) -> _Batch:
    """Return some structures of a result or of walks."""
    fields: dict[str, Any] = {
        name: x[rows] if isinstance(x, Tensor) else tuple(x[row] for row in rows.tolist())
        for name, x in vars(batch).items()
    }
    return dataclasses.replace(batch, **fields)


def _join(done: list[tuple[Tensor, WalkResult]], goal: Goal | None) -> WalkResult:
    """Return the results of all structures in their order; of automatic walks, note those that missed their goal."""
    order = torch.cat([index for index, _ in done]).argsort()
    parts = [vars(result) for _, result in done]
    fields = {
        name: torch.cat([part[name] for part in parts])[order] for name, x in parts[0].items() if isinstance(x, Tensor)
    }
    reasons = [reason for part in parts for reason in part["reason"]]
    reasons = [reasons[row] for row in order.tolist()]
    if goal is not None:
        relative = torch.where(fields["mean_error"] > 0, fields["mean_error"] / fields["mean"].abs(), 0.0).tolist()
        limit = f"max_attempts = {goal.max_attempts:g} or 2³¹ of a walker are too few"
        for b, (reason, error) in enumerate(zip(reasons, relative, strict=True)):
            if reason:
                reasons[b] = f"{reason}: {limit}"
            elif error > goal.rtol:
                reasons[b] = f"the mean is known to {error:.2%}, not {goal.rtol:.2%}: {limit}"
        fields["converged"] = torch.tensor([not reason for reason in reasons], device=order.device)
    return WalkResult(**fields, reason=tuple(reasons))
