"""Other volume fractions from the same arrangements: spheres taken out of a structure, or put in.

Legend: B structures, N particles before, M after. Lengths in voxels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.checks import check_cell, check_numbers, check_seed, check_tensor, check_whole
from gpuion.errors import PackingError
from gpuion.insertion import Rules, fill_batch
from gpuion.kernels.reference import Stream, philox
from gpuion.packing import check_spheres, jam


@torch.no_grad()
def change_loading(
    centers: Tensor, n_particles: int, *, box: float, diameter: float, seed: int = 0,
    ids: Sequence[int] | Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return the structures with M spheres each: a random choice of theirs, or theirs and more without overlap.

    Spheres that stay keep their places and their order. New ones come behind them by random sequential adsorption,
    plain whatever the family of the structure was.

    Parameters
    ----------
    centers : float32 [B, N, 3]
        Sphere centres that do not overlap, voxels, in [0, box).
    n_particles : int
        M ≥ 1; all of the spheres stay if it is N.
    box, diameter : float
        Edge of the periodic cube and diameter of the spheres, voxels.
    seed : int
        In [0, 2⁶⁴).
    ids : sequence of int, optional
        Global structure numbers in [0, 2³²), default 0 … B−1. What becomes of structure b depends on its centres and
        (seed, ids[b]) alone.

    Returns
    -------
    Tensor
        float32 [B, M, 3] on the same device; no two new spheres, and no new one and an old one, closer than the
        diameter.

    Raises
    ------
    ValueError
        For malformed arguments, or a volume fraction at or above RSA saturation, 0.3841.
    PackingError
        If a sphere finds no place in two million draws; the message says how many there were.

    References
    ----------
    Kadulkar et al., J. Phys. Chem. B 2021, who test on φ = 0.05 and 0.15 made so from φ = 0.1.
    """
    centers, (box, diameter) = check_tensor("centers", centers, torch.float32).detach(), check_cell(box, diameter)
    if centers.ndim != 3 or centers.shape[-1] != 3 or centers.dtype is not torch.float32:
        raise ValueError(f"centers must be float32 [B, N, 3], got {centers.dtype} {list(centers.shape)}")
    if centers.numel() and not bool(((centers >= 0) & (centers.double() < box)).all()):
        raise ValueError(f"centers must lie in [0, box = {box}); wrap them with torch.remainder")
    numbers, seed = check_numbers(len(centers), ids).to(centers.device), check_seed(seed)
    n_particles = check_whole("n_particles", n_particles, 1)
    check_spheres(n_particles, box, diameter, None)
    N = centers.shape[1]
    if n_particles <= N:
        draw = philox(seed, 0, torch.arange(N, device=centers.device), numbers[:, None], Stream.THINNING)[0]
        kept = torch.argsort(draw, dim=-1, stable=True)[:, :n_particles].sort(-1).values
        return centers.gather(1, kept[..., None].expand(-1, -1, 3))
    rules = Rules(
        n_particles=n_particles, box=float(box), diameter=float(diameter), seed=seed,
        distance=torch.zeros(len(centers), 2, dtype=torch.float64),
        gap=torch.zeros(len(centers), dtype=torch.float64), axes=torch.zeros(len(centers), 3, dtype=torch.bool),
    )  # fmt: skip
    slabs = torch.zeros(len(centers), 3, dtype=torch.float64, device=centers.device)
    filled, placed = fill_batch(numbers, slabs, rules.to(centers.device), start=centers)
    if bool((placed < n_particles).any()):
        worst = int(placed.argmin())
        raise PackingError(jam(int(numbers[worst]), int(placed[worst]), n_particles))
    return filled
