"""Random sequential adsorption of equal hard spheres into periodic cubes, many structures at once.

Every sphere has its own numbered sequence of random draws, a function of (seed, structure id, sphere, draw) alone,
and takes the first draw that fits. How many draws are tested together is then a matter of speed, and a structure is
the same alone, in any batch and on any rank.

Legend: B structures, N particles. Lengths in voxels.
"""

import math
import operator
import reprlib
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.checks import (
    LONGEST,
    check_cell,
    check_device,
    check_length,
    check_numbers,
    check_room,
    check_seed,
    check_tensor,
    check_whole,
    is_between,
    is_whole,
)
from gpuion.errors import PackingError
from gpuion.insertion import MAX_DRAWS, PATIENCE, Rules, fill_batch
from gpuion.kernels.reference import Stream, philox, uniform

SATURATION = 0.3841
"""Volume fraction at which random sequential adsorption of spheres stops for good (Zhang & Torquato 2013)."""


def sphere_diameter(n_particles: int, box: float, volume_fraction: float) -> float:
    """Return the diameter σ of N equal spheres that fill a fraction φ of a cube: φ = N π σ³ / (6 L³).

    Raises
    ------
    ValueError
        If an argument is not positive.
    """
    count = operator.index(n_particles) if is_whole(n_particles, 1) else 0
    if not (0 < count < 2**64 and all(is_between(x, 0, LONGEST) for x in (box, volume_fraction))):
        given = ", ".join(map(reprlib.repr, (n_particles, box, volume_fraction)))
        raise ValueError(f"n_particles, box and volume_fraction must be positive, and at most {LONGEST:g}, got {given}")
    return float(box) * (6 * float(volume_fraction) / (math.pi * count)) ** (1 / 3)


def place(
    family: str, *, n_structures: int, n_particles: int, box: float, diameter: float | None = None,
    volume_fraction: float | None = None, distance: Sequence[float] | Tensor | None = None,
    gap: float | Tensor | None = None, axes: Sequence[int] | Tensor | None = None, seed: int = 0,
    device: torch.device | str = "cpu", ids: Sequence[int] | Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return sphere centres placed at random without overlap, by random sequential adsorption (RSA).

    `random` draws each centre uniformly from the box. `chained` draws it uniformly from the shell [lo, hi] around the
    sphere placed before it; after 64 failed draws the parent becomes a random placed sphere, and another one after
    each further 64, so every sphere but the first has an earlier one within [lo, hi]. `gapped` keeps a slab free of
    spheres, at a random position on each of the given axes, and is plain or (with `distance`) chained otherwise.

    Parameters
    ----------
    family : {"random", "chained", "gapped"}
    n_structures, n_particles : int
        B and N.
    box : float
        Edge L of the periodic cube, voxels.
    diameter, volume_fraction : float
        One of the two: sphere diameter σ in voxels, or φ = N π σ³ / (6 L³).
    distance : (float, float) or float [B, 2]
        Centre-to-centre range [lo, hi] of a chained sphere to its parent, voxels, nearest image; for all structures
        or for each. A gapped structure whose two numbers are NaN is plain.
    gap : float or float [B]
        Width of each slab, voxels.
    axes : sequence of int, or bool [B, 3]
        The axes, of 0, 1, 2, that have a slab; or for each structure whether an axis has one.
    seed : int
        In [0, 2⁶⁴).
    device : torch.device or str
    ids : sequence of int, optional
        Global structure numbers in [0, 2³²), default 0 … B−1. Structure b depends on (seed, ids[b]) alone.

    Returns
    -------
    Tensor
        float32 [B, N, 3] in [0, box); no two closer than σ, evaluated in float64.

    Raises
    ------
    ValueError
        For arguments that no arrangement can satisfy, such as φ above RSA saturation, 0.3841.
    PackingError
        If a sphere finds no place in two million draws; the message says how many were placed.

    References
    ----------
    Kadulkar et al., J. Phys. Chem. B 2021, for the three families.
    """
    n_structures, n_particles = check_whole("n_structures", n_structures, 0), check_whole("n_particles", n_particles, 1)
    seed, device, box = check_seed(seed), check_device(device), check_length("box", box)
    diameter = check_spheres(n_particles, box, diameter, volume_fraction)
    # The centres, and of the structure at work their float64 twins and the cells.
    check_room((12.0 * n_structures + 96) * n_particles, f"{n_structures} structures of {n_particles} spheres")
    numbers = check_numbers(n_structures, ids)
    ranges, widths, slabs = _check_family(family, n_structures, box, diameter, distance, gap, axes)
    rules = Rules(
        n_particles=n_particles, box=float(box), diameter=diameter, seed=seed, distance=ranges.nan_to_num(0.0),
        gap=widths, axes=slabs,
    )  # fmt: skip
    centers, placed = fill(numbers.to(device), rules)
    if bool((placed < n_particles).any()):
        worst = int(placed.argmin())
        raise PackingError(jam(int(numbers[worst]), int(placed[worst]), n_particles))
    return centers


@torch.no_grad()
def fill(ids: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Return centres float32 [B, N, 3] and how many spheres were placed, int64 [B], fewer than N where one jammed.

    Tensor by tensor on a GPU, structure by structure on a CPU, as the ids int64 [B] have it. The rules are not checked.
    """
    slabs = torch.stack([uniform(word) for word in philox(rules.seed, 0, 0, ids, Stream.SLAB)[:3]], -1) * rules.box
    if ids.is_cuda:
        return fill_batch(ids, slabs, rules.to(ids.device))
    from gpuion.kernels import scalar

    return scalar.fill(
        ids, slabs, rules.n_particles, rules.seed, rules.box, rules.diameter, rules.distance, rules.gap, rules.axes,
        PATIENCE, MAX_DRAWS,
    )  # fmt: skip


def jam(number: int, placed: int, n_particles: int) -> str:
    """Return what to say of a structure that found no place for its next sphere."""
    return (
        f"structure {number} holds {placed} of {n_particles} spheres and found no place for the next in "
        f"{MAX_DRAWS} draws; lower the volume fraction or the gap, or widen the distance range"
    )


def check_spheres(n_particles: int, box: float, diameter: float | None, volume_fraction: float | None) -> float:
    """Return the diameter, once these are found to be right."""
    if (diameter is None) == (volume_fraction is None):
        raise ValueError("give either diameter or volume_fraction")
    box = check_length("box", box)
    if diameter is None:
        diameter = sphere_diameter(n_particles, box, 0.0 if volume_fraction is None else volume_fraction)
    _, diameter = check_cell(box, diameter)
    fraction = n_particles * math.pi * diameter**3 / (6 * box**3)
    if fraction >= SATURATION:
        raise ValueError(f"volume fraction {fraction:.4f} is not below {SATURATION}, where random insertion saturates")
    return float(diameter)


def _check_family(
    family: str, n_structures: int, box: float, diameter: float, distance: Sequence[float] | Tensor | None,
    gap: float | Tensor | None, axes: Sequence[int] | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return distances float64 [B, 2], NaN where there are none, gaps float64 [B] and axes bool [B, 3], on the CPU."""
    if family not in ("random", "chained", "gapped"):
        raise ValueError(f"family must be random, chained or gapped, got {reprlib.repr(family)}")
    if (family == "chained" and distance is None) or (family == "random" and distance is not None):
        raise ValueError("distance=(lo, hi) belongs to the chained family, and may be given with the gapped one")
    if (family == "gapped") != (gap is not None and axes is not None):
        raise ValueError("gap and axes belong to the gapped family, which needs both")
    ranges = _rows("distance", (math.nan, math.nan) if distance is None else distance, n_structures, (2,))
    _check_ranges(ranges if family == "chained" else ranges[~ranges.isnan().all(-1)], box, diameter)
    if gap is None or axes is None:
        widths, slabs = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool)
    else:
        widths, slabs = _rows("gap", gap, n_structures, ()), _check_axes(axes, n_structures)
        if not bool((widths > 0).all()):
            raise ValueError(f"gap must be positive, got {float(widths.min())}")
        if bool((widths + diameter > box).any()):
            most = float(widths.max())
            raise ValueError(f"gap = {most} leaves no room for spheres of {diameter:.6g} in a box of {box}; narrow it")
    return ranges.expand(n_structures, 2), widths.expand(n_structures), slabs.expand(n_structures, 3)


def _rows(name: str, value: Sequence[float] | float | Tensor, n_structures: int, shape: tuple[int, ...]) -> Tensor:
    """Return one value for all structures, or one for each, as float64 [1 or B, …]."""
    rows = check_tensor(name, value).detach()
    if rows.is_complex() or rows.dtype is torch.bool:
        raise ValueError(f"{name} must be real numbers, got {rows.dtype}")
    rows = rows.to("cpu", torch.float64)
    rows = rows[None] if rows.shape == shape else rows
    if rows.shape not in {(1, *shape), (n_structures, *shape)}:
        allowed = f"{list(shape)} or {[n_structures, *shape]}"
        raise ValueError(f"{name} must have shape {allowed}, for all structures or for each, got {list(rows.shape)}")
    return rows


def _check_ranges(ranges: Tensor, box: float, diameter: float) -> None:
    low, high = ranges.unbind(-1)
    wrong = ~((low >= diameter) & (low < high))
    if bool(wrong.any()):
        a, b = ranges[wrong][0].tolist()
        raise ValueError(f"distance must satisfy diameter = {diameter:.6g} ≤ lo < hi, got {a:.6g}, {b:.6g}")
    if bool((low >= box * math.sqrt(3) / 2).any()):
        raise ValueError(f"no two points of a periodic box of {box} are {float(low.max())} apart; lower the distance")


def _check_axes(axes: Sequence[int] | Tensor, n_structures: int) -> Tensor:
    """Return which axes have a slab, bool [1 or B, 3], from their numbers or from such a table."""
    table = check_tensor("axes", axes).cpu()
    if table.ndim == 2:
        if table.dtype is not torch.bool or table.shape != (n_structures, 3) or not bool(table.any(-1).all()):
            raise ValueError(f"axes must be bool [{n_structures}, 3], one or more true a structure, or numbers of axes")
        return table
    numbers = [] if table.dtype is torch.bool or table.ndim != 1 else table.tolist()
    if not numbers or len(set(numbers)) != len(numbers) or not set(numbers) <= {0, 1, 2}:
        raise ValueError(f"axes must be different ones of 0, 1, 2, got {reprlib.repr(axes)}")
    return torch.tensor([[axis in numbers for axis in range(3)]])
