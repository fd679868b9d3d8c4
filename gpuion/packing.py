"""Random sequential adsorption of equal hard spheres into periodic cubes, many structures at once.

Every sphere has its own numbered sequence of random draws, a function of (seed, structure id, sphere, draw) alone,
and takes the first draw that fits. How many draws are tested together is then a matter of speed, and a structure is
the same alone, in any batch and on any rank.

Legend: B structures, A structures still being filled, N particles, W draws tested at once. Lengths in voxels.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gpuion.errors import PackingError
from gpuion.kernels.reference import Stream, philox, pick, uniform

SATURATION = 0.3841
"""Volume fraction at which random sequential adsorption of spheres stops for good (Zhang & Torquato 2013)."""

PATIENCE = 64
"""Draws around one parent of a chained sphere, the rejected ones of the sampling included, before another is tried."""

_MAX_DRAWS = 2_000_000  # for one sphere, before the structure counts as jammed
_TESTED = 2**22  # sphere pairs tested at once on a GPU, 8 bytes each in a handful of temporaries
_BATCH = 4096  # structures filled together
_GUARD = 1e-12  # relative; keeps distances on the right side of their limit in any float64 evaluation


def sphere_diameter(n_particles: int, box: float, volume_fraction: float) -> float:
    """Return the diameter σ of N equal spheres that fill a fraction φ of a cube: φ = N π σ³ / (6 L³).

    Raises
    ------
    ValueError
        If an argument is not positive.
    """
    if n_particles < 1 or not box > 0 or not volume_fraction > 0:
        raise ValueError(
            f"n_particles, box and volume_fraction must be positive, got {n_particles}, {box}, {volume_fraction}"
        )
    return box * (6 * volume_fraction / (math.pi * n_particles)) ** (1 / 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rules:
    """What a placement must obey, checked once."""

    n_particles: int
    box: float
    diameter: float
    distance: tuple[float, float] | None
    gap: float
    axes: tuple[int, ...]
    seed: int


def place(
    family: str, *, n_structures: int, n_particles: int, box: float, diameter: float | None = None,
    volume_fraction: float | None = None, distance: tuple[float, float] | None = None, gap: float | None = None,
    axes: Sequence[int] | None = None, seed: int = 0, device: torch.device | str = "cpu",
    ids: Sequence[int] | Tensor | None = None,
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
    distance : (float, float)
        Centre-to-centre range [lo, hi] of a chained sphere to its parent, voxels, nearest image.
    gap : float
        Width of each slab, voxels.
    axes : sequence of int
        The axes, of 0, 1, 2, that have a slab.
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
    rules = _check(family, n_particles, box, diameter, volume_fraction, distance, gap, axes, seed)
    numbers = torch.arange(n_structures) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
    if n_structures < 0 or numbers.shape != (n_structures,):
        raise ValueError(f"ids must be {n_structures} integers, one a structure, got shape {list(numbers.shape)}")
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < 2**32:
        raise ValueError("ids must lie in [0, 2³²)")
    parts = [_fill(part.to(device), rules) for part in numbers.split(_BATCH)]
    return torch.cat(parts) if parts else torch.empty(0, n_particles, 3, device=device)


def _check(
    family: str, n_particles: int, box: float, diameter: float | None, volume_fraction: float | None,
    distance: tuple[float, float] | None, gap: float | None, axes: Sequence[int] | None, seed: int,
) -> _Rules:  # fmt: skip
    if family not in {"random", "chained", "gapped"}:
        raise ValueError(f"family must be random, chained or gapped, got {family!r}")
    if (diameter is None) == (volume_fraction is None):
        raise ValueError("give either diameter or volume_fraction")
    if n_particles < 1 or not (box > 0 and math.isfinite(box)):
        raise ValueError(f"n_particles and box must be positive, got {n_particles} and {box}")
    if diameter is None:
        diameter = sphere_diameter(n_particles, box, volume_fraction or 0.0)
    if not 0 < diameter <= box:
        raise ValueError(f"diameter must lie in (0, box = {box}], got {diameter}")
    fraction = n_particles * math.pi * diameter**3 / (6 * box**3)
    if fraction >= SATURATION:
        raise ValueError(f"volume fraction {fraction:.4f} is not below {SATURATION}, where random insertion saturates")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2⁶⁴), got {seed}")
    _check_family(family, box, diameter, distance, gap, axes)
    return _Rules(
        n_particles=n_particles, box=float(box), diameter=float(diameter),
        distance=None if distance is None else (float(distance[0]), float(distance[1])), gap=float(gap or 0.0),
        axes=tuple(axes or ()), seed=seed,
    )  # fmt: skip


def _check_family(
    family: str, box: float, diameter: float, distance: tuple[float, float] | None, gap: float | None,
    axes: Sequence[int] | None,
) -> None:  # fmt: skip
    if (family == "chained" and distance is None) or (family == "random" and distance is not None):
        raise ValueError("distance=(lo, hi) belongs to the chained family, and may be given with the gapped one")
    if distance is not None:
        low, high = distance
        if not diameter <= low < high:
            raise ValueError(f"distance must satisfy diameter = {diameter:.6g} ≤ lo < hi, got {low:.6g}, {high:.6g}")
        if low >= box * math.sqrt(3) / 2:
            raise ValueError(f"no two points of a periodic box of {box} are {low} apart; lower the distance")
    if (family == "gapped") != (gap is not None and axes is not None):
        raise ValueError("gap and axes belong to the gapped family, which needs both")
    if gap is None or axes is None:
        return
    if not axes or len(set(axes)) != len(axes) or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"axes must be different ones of 0, 1, 2, got {tuple(axes)}")
    if not gap > 0:
        raise ValueError(f"gap must be positive, got {gap}")
    if gap + diameter > box:
        raise ValueError(f"gap = {gap} leaves no room for spheres of {diameter:.6g} in a box of {box}; narrow it")


@torch.no_grad()
def _fill(ids: Tensor, rules: _Rules) -> Tensor:
    """Fill the structures of these ids, [B, N, 3]: tensor by tensor on a GPU, structure by structure on a CPU."""
    slabs = torch.stack([uniform(word) for word in philox(rules.seed, 0, 0, ids, Stream.SLAB)[:3]], -1) * rules.box
    if ids.is_cuda:
        centers, placed = fill_batch(ids, slabs, rules)
    else:
        from gpuion.kernels.scalar import fill

        axes = torch.tensor([axis in rules.axes for axis in range(3)])
        centers, placed = fill(
            ids, slabs, rules.n_particles, rules.seed, rules.box, rules.diameter, rules.distance or (0.0, 0.0),
            rules.gap, axes, PATIENCE, _MAX_DRAWS,
        )  # fmt: skip
    if bool((placed < rules.n_particles).any()):
        worst = int(placed.argmin())
        raise PackingError(
            f"structure {int(ids[worst])} holds {int(placed[worst])} of {rules.n_particles} spheres and found no place "
            f"for the next in {_MAX_DRAWS} draws; lower the volume fraction or the gap, or widen the distance range"
        )
    return centers


def fill_batch(ids: Tensor, slabs: Tensor, rules: _Rules) -> tuple[Tensor, Tensor]:
    """Fill all structures together, a window of draws of each at a time; return centres and spheres placed."""
    centers = torch.zeros(len(ids), rules.n_particles, 3, device=ids.device)
    placed, drawn = torch.zeros_like(ids), torch.zeros_like(ids)
    active = torch.arange(len(ids), device=ids.device)
    while len(active):
        window = max(8, min(1024, _TESTED // (len(active) * rules.n_particles)))
        number = drawn[active, None] + torch.arange(window, device=ids.device)  # [A, W]
        state = (centers[active], placed[active], ids[active], slabs[active])
        points, fits = _draw(number, *state, rules)
        fits &= _apart(points, state[0], state[1], rules) & (number < _MAX_DRAWS)
        found = fits.any(-1)
        first = fits.byte().argmax(-1)
        at = active[found]
        centers[at, placed[at]] = points[found, first[found]]
        placed[at] += 1
        drawn[active] = torch.where(found, 0, drawn[active] + window)
        active = active[(placed[active] < rules.n_particles) & (drawn[active] < _MAX_DRAWS)]
    return centers, placed


def _draw(
    number: Tensor, centers: Tensor, placed: Tensor, ids: Tensor, slabs: Tensor, rules: _Rules
) -> tuple[Tensor, Tensor]:
    """Return candidate positions float32 [A, W, 3], and whether each obeys its family's rule, bool [A, W]."""
    box = rules.box
    words = philox(rules.seed, number, placed[:, None], ids[:, None], Stream.DRAW)
    u = torch.stack([uniform(word) for word in words], -1)
    points = u[..., :3] * box
    for axis in rules.axes:  # straight into the part that the slab leaves
        start = slabs[:, None, axis] + rules.gap + rules.diameter / 2
        points[..., axis] = start + u[..., axis] * (box - rules.gap - rules.diameter)
    if rules.distance is None:
        points = _wrap(points, box)
        return points, _outside_slabs(points, slabs, rules)
    parent = _parents(number, centers, placed, ids, rules)
    offset, kept = _in_shell(u, *rules.distance)
    chained = (placed > 0)[:, None]
    points = _wrap(torch.where(chained[..., None], parent + offset, points), box)
    square = _separation(points.double(), parent, box)
    low, high = (limit**2 for limit in rules.distance)
    kept &= (square >= low * (1 + _GUARD)) & (square <= high * (1 - _GUARD))
    return points, (kept | ~chained) & _outside_slabs(points, slabs, rules)


def _parents(number: Tensor, centers: Tensor, placed: Tensor, ids: Tensor, rules: _Rules) -> Tensor:
    """Return the centre that each draw is made around, float64 [A, W, 3]."""
    turn = number // PATIENCE
    word = philox(rules.seed, turn, placed[:, None], ids[:, None], Stream.PARENT)[0]
    index = torch.where(turn == 0, placed[:, None] - 1, pick(word, placed[:, None])).clamp_min(0)
    return centers.double().gather(1, index[..., None].expand(*index.shape, 3))


def _in_shell(u: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return offsets uniform in a spherical shell [A, W, 3], and which to keep [A, W].

    Marsaglia's method for the direction (Ann. Math. Stat. 43, 645, 1972) and thinning by r² for the radius: products
    and square roots only, so every device draws the same bits.
    """
    a, b = 2 * u[..., 0] - 1, 2 * u[..., 1] - 1
    s = a * a + b * b
    radius = low + (high - low) * u[..., 2]
    stretch = 2 * (1 - s).clamp_min(0).sqrt()
    direction = torch.stack([a * stretch, b * stretch, 1 - 2 * s], -1)
    return radius[..., None] * direction, (s < 1) & (u[..., 3] * high**2 < radius**2)


def _wrap(points: Tensor, box: float) -> Tensor:
    """Return positions as float32 in [0, box)."""
    wrapped = torch.remainder(points, box).float()
    return torch.where(wrapped.double() >= box, 0.0, wrapped)  # rounding may reach the far edge


def _outside_slabs(points: Tensor, slabs: Tensor, rules: _Rules) -> Tensor:
    """Return whether no part of a sphere lies in a slab, bool [A, W]."""
    radius = rules.diameter / 2
    free = points.new_ones(points.shape[:2], dtype=torch.bool)
    for axis in rules.axes:
        along = torch.remainder(points[..., axis].double() - slabs[:, None, axis], rules.box)
        free &= (along >= (rules.gap + radius) * (1 + _GUARD)) & (along <= (rules.box - radius) * (1 - _GUARD))
    return free


def _separation(points: Tensor, others: Tensor, box: float) -> Tensor:
    """Return the squared distance between nearest images of positions in [0, box), over the last axis."""
    square = torch.zeros((), dtype=torch.float64, device=points.device)
    for axis in range(3):
        apart = (points[..., axis] - others[..., axis]).abs()
        square = square + torch.minimum(apart, box - apart).square()
    return square


def _apart(points: Tensor, centers: Tensor, placed: Tensor, rules: _Rules) -> Tensor:
    """Return whether a candidate overlaps no sphere placed before it, bool [A, W]."""
    count = int(placed.max())
    square = _separation(points[:, :, None].double(), centers[:, None, :count].double(), rules.box)
    clear = square >= rules.diameter**2 * (1 + _GUARD)
    return (clear | (torch.arange(count, device=placed.device) >= placed[:, None])[:, None]).all(-1)
