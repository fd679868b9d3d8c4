"""Overlapping spheres moved apart, many structures at once.

In a sweep both spheres of each overlapping pair move along the line through their centres, by half of what they lack to
a diameter and a little more; those of many pairs by the sum. Spheres that overlap none stay where they are.

Legend: B structures, A of them still with overlaps, N spheres. Lengths in voxels.
"""

import math

import torch
from torch import Tensor

from gpuion.checks import check_cell, check_tensor
from gpuion.errors import PackingError
from gpuion.medium import check_centers

_DENSEST = math.pi / math.sqrt(18)  # volume fraction of close packing: no arrangement of equal spheres has more
_SPARE = 1e-3  # of a diameter, added to what a pair lacks: a finite number of sweeps then ends it
_SWEEPS = 5000
_PAIRS = 2**20  # at once; a pair takes some 100 bytes


@torch.no_grad()
def separate(centers: Tensor, *, box: float, diameter: float) -> Tensor:
    """Return centres without overlaps, |x_i − x_j| ≥ σ over all periodic images, near those given.

    Sweep by sweep, x_i ← x_i + ½ Σ_j (1.001 σ − d_ij) (x_i − x_j) / d_ij over the spheres at distances d_ij < σ. Each
    structure's result is its own, whatever the batch; on a CPU bit for bit.

    Parameters
    ----------
    centers : float [B, N, 3]
        Sphere centres, voxels, any image; they may coincide.
    box : float
        Edge L of the periodic cube, voxels.
    diameter : float
        Sphere diameter σ, voxels.

    Returns
    -------
    Tensor
        As `centers`, no two closer than σ, evaluated in float64. What was moved is in [0, L), what was not is as given.
        There is no gradient.

    Raises
    ------
    ValueError
        For malformed centres, or spheres that fill more of the box than close packing, π/√18 = 0.7405.
    PackingError
        If overlaps are left after 5000 sweeps; more than RSA's 0.38 of volume takes luck.
    """
    check_centers(centers, box, diameter)
    centers, (box, diameter) = check_tensor("centers", centers).detach(), check_cell(box, diameter)
    B, N = centers.shape[:2]
    filled = N * math.pi * diameter**3 / (6 * box**3)
    if filled > _DENSEST:
        raise ValueError(
            f"{N} spheres of diameter {diameter:g} fill {filled:.3f} of a box of {box:g}, more than close packing "
            f"({_DENSEST:.4f}); use fewer or smaller ones"
        )
    found = centers.clone()
    size = max(1, _PAIRS // max(1, N * N))
    for first in range(0, B if N > 1 else 0, size):
        todo = torch.arange(first, min(first + size, B), device=centers.device)
        for sweep in range(_SWEEPS + 1):
            x = found[todo]
            push, overlaps = _push(x.double(), box, diameter)
            left = overlaps.flatten(1).any(1)
            todo, x, push, overlaps = todo[left], x[left], push[left], overlaps[left]
            if not len(todo):
                break
            if sweep == _SWEEPS:
                raise PackingError(
                    f"structure {int(todo[0])} of {B}: {int(overlaps[0].sum())} of {N} spheres of diameter "
                    f"{diameter:g} still overlap after {_SWEEPS} sweeps in a box of {box:g} (volume fraction "
                    f"{filled:.3f}); use fewer or smaller ones, or another start"
                )
            moved = (x.double() + push).remainder(box).to(x.dtype)
            moved = torch.where(moved < box, moved, 0.0)  # rounding may end at the box's edge itself
            found[todo] = torch.where(overlaps[..., None], moved, x)
    return found


def _push(x: Tensor, box: float, diameter: float) -> tuple[Tensor, Tensor]:
    """Return where spheres at x [A, N, 3] are pushed by those they overlap, [A, N, 3], and whether any, [A, N]."""
    N = x.shape[1]
    gap = (x[..., None] - x.mT[:, None]).contiguous()  # [A, N, 3, N]: sums over the last run in one order in any batch
    gap = gap - box * (gap / box).round()
    distance = _norm(gap)
    near = (distance < diameter) & ~torch.eye(N, dtype=torch.bool, device=x.device)
    away = _directions(N, x)
    gap = torch.where(distance[:, :, None] > 0, gap, away[..., None] - away.mT)  # centres that coincide
    lack = torch.where(near, (1 + _SPARE) * diameter - distance, 0.0)
    share = lack / 2 / _norm(gap).clamp_min(1e-300)
    return (gap * share[:, :, None]).sum(-1), near.any(-1)


def _norm(gap: Tensor) -> Tensor:
    """Return the lengths [A, N, N] of vectors [A, N, 3, N]."""
    x, y, z = gap.unbind(2)
    return (x * x + y * y + z * z).sqrt()


def _directions(N: int, like: Tensor) -> Tensor:
    """Return N different directions [N, 3], evenly spread over a sphere along a spiral."""
    n = torch.arange(N, dtype=like.dtype, device=like.device)
    z, angle = 1 - (2 * n + 1) / N, n * (math.pi * (3 - math.sqrt(5)))
    width = (1 - z * z).sqrt()
    return torch.stack([width * angle.cos(), width * angle.sin(), z], 1)
