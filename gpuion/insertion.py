"""Random sequential insertion of spheres as a tensor program: what a GPU runs, and the oracle of the scalar loop.

Every structure has rules of its own, so plain, chained and gapped ones are filled together, a window of draws of
each at a time. How many draws are tested together is a matter of speed and memory alone.

Legend: B structures, A structures still being filled, N particles, W draws tested at once. Lengths in voxels.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from gpuion.kernels.reference import Stream, philox, pick, uniform

PATIENCE = 64
"""Draws around one parent of a chained sphere, the rejected ones of the sampling included, before another is tried."""

MAX_DRAWS = 2_000_000
"""Draws for one sphere, before the structure counts as jammed."""

_TESTED = 2**22  # tests at once; one takes up to 48 bytes (27 measured), all of them 200 MB
_PER_DRAW = 8  # tests that a draw is worth besides one for each sphere: 300 bytes of random words and positions
_LEAST, _MOST = 8, 8192  # draws of one structure tested at once: fewer only if _TESTED asks for it
_GUARD = 1e-12  # relative; keeps distances on the right side of their limit in any float64 evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """What the placements of a batch must obey, structure by structure.

    Attributes
    ----------
    n_particles : int
    box, diameter : float
    seed : int
    distance : float64 [B, 2]
        Centre-to-centre range [lo, hi] to the parent; 0 and 0 where spheres have none.
    gap : float64 [B]
        Width of the slabs that are free of spheres.
    axes : bool [B, 3]
        Which axes have such a slab.
    """

    n_particles: int
    box: float
    diameter: float
    seed: int
    distance: Tensor
    gap: Tensor
    axes: Tensor

    def to(self, device: torch.device | str) -> "Rules":
        """Return the same rules on another device."""
        return self._each(lambda x: x.to(device))

    def __getitem__(self, index: slice | Tensor) -> "Rules":
        """Return the rules of some structures."""
        return self._each(lambda x: x[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Rules":
        return dataclasses.replace(self, distance=change(self.distance), gap=change(self.gap), axes=change(self.axes))


def fill_batch(ids: Tensor, slabs: Tensor, rules: Rules, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return centres float32 [B, N, 3] and how many spheres were placed, int64 [B]; twin of `scalar.fill`.

    At most max(_TESTED, N + 8) pairs of a draw and a sphere are tested at once, 48 bytes each, so memory is bounded
    whatever B is: first the window of draws shrinks, to 8 of each structure, then structures wait for one another.

    Parameters
    ----------
    ids : int64 [B]
        Global structure numbers.
    slabs : float64 [B, 3]
        Where each slab begins.
    rules : Rules
        On the same device.
    start : float32 [B, M, 3], optional
        Spheres that are there before; none if not given.
    """
    if start is None:
        start = slabs.new_zeros(len(ids), 0, 3, dtype=torch.float32)
    size = max(1, _TESTED // (_LEAST * (rules.n_particles + _PER_DRAW)))
    parts = [slice(first, first + size) for first in range(0, len(ids), size)]
    done = [_fill(ids[part], slabs[part], rules[part], start[part]) for part in parts]
    if not done:
        return slabs.new_zeros(0, rules.n_particles, 3, dtype=torch.float32), torch.zeros_like(ids)
    return torch.cat([centers for centers, _ in done]), torch.cat([placed for _, placed in done])


def _fill(ids: Tensor, slabs: Tensor, rules: Rules, start: Tensor) -> tuple[Tensor, Tensor]:
    centers = torch.zeros(len(ids), rules.n_particles, 3, device=ids.device)
    centers[:, : start.shape[1]] = start
    placed, drawn = torch.full_like(ids, start.shape[1]), torch.zeros_like(ids)
    active = torch.arange(len(ids), device=ids.device)
    is_chained = bool((rules.distance > 0).any())
    while len(active):
        window = max(1, min(_MOST, _TESTED // (len(active) * (rules.n_particles + _PER_DRAW))))
        number = drawn[active, None] + torch.arange(window, device=ids.device)  # [A, W]
        state = (centers[active], placed[active], ids[active], slabs[active])
        here = rules[active]
        points, fits = (_draw_chained if is_chained else _draw)(number, *state, here)
        fits &= _outside_slabs(points, state[3], here) & (number < MAX_DRAWS)
        fits &= _apart(points, state[0], state[1], here)
        found = fits.any(-1)
        first = fits.byte().argmax(-1)
        at = active[found]
        centers[at, placed[at]] = points[found, first[found]]
        placed[at] += 1
        drawn[active] = torch.where(found, 0, drawn[active] + window)
        active = active[(placed[active] < rules.n_particles) & (drawn[active] < MAX_DRAWS)]
    return centers, placed


def _draw(
    number: Tensor, _centers: Tensor, placed: Tensor, ids: Tensor, slabs: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Return candidate positions float32 [A, W, 3] of spheres without a parent, and that all may do, bool [A, W]."""
    u = _uniforms(number, placed, ids, rules)
    return _wrap(_anywhere(u, slabs, rules), rules.box), torch.ones_like(number, dtype=torch.bool)


def _draw_chained(
    number: Tensor, centers: Tensor, placed: Tensor, ids: Tensor, slabs: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Return candidate positions float32 [A, W, 3], and whether those with a parent have the right distance to it."""
    u = _uniforms(number, placed, ids, rules)
    parent = _parents(number, centers, placed, ids, rules)
    low, high = rules.distance[:, :1], rules.distance[:, 1:]
    offset, kept = _in_shell(u, low, high)
    chained = (placed > 0)[:, None] & (high > 0)
    points = torch.where(chained[..., None], parent + offset, _anywhere(u, slabs, rules))
    points = _wrap(points, rules.box)
    square = _separation(points.double(), parent, rules.box)
    kept &= (square >= low * low * (1 + _GUARD)) & (square <= high * high * (1 - _GUARD))
    return points, kept | ~chained


def _uniforms(number: Tensor, placed: Tensor, ids: Tensor, rules: Rules) -> Tensor:
    """Return the four random numbers of each draw, float64 [A, W, 4]."""
    words = philox(rules.seed, number, placed[:, None], ids[:, None], Stream.DRAW)
    return torch.stack([uniform(word) for word in words], -1)


def _anywhere(u: Tensor, slabs: Tensor, rules: Rules) -> Tensor:
    """Return positions uniform in the box or, on an axis with a slab, in the part that it leaves, [A, W, 3]."""
    gap = rules.gap[:, None, None]
    beside = slabs[:, None] + gap + rules.diameter / 2 + u[..., :3] * (rules.box - gap - rules.diameter)
    return torch.where(rules.axes[:, None], beside, u[..., :3] * rules.box)


def _parents(number: Tensor, centers: Tensor, placed: Tensor, ids: Tensor, rules: Rules) -> Tensor:
    """Return the centre that each draw is made around, float64 [A, W, 3]."""
    turn = number // PATIENCE
    word = philox(rules.seed, turn, placed[:, None], ids[:, None], Stream.PARENT)[0]
    index = torch.where(turn == 0, placed[:, None] - 1, pick(word, placed[:, None])).clamp_min(0)
    return centers.double().gather(1, index[..., None].expand(*index.shape, 3))


def _in_shell(u: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets uniform in a spherical shell [A, W, 3], and which to keep [A, W].

    Marsaglia's method for the direction (Ann. Math. Stat. 43, 645, 1972) and thinning by r² for the radius: products
    and square roots only, so every device draws the same bits.
    """
    a, b = 2 * u[..., 0] - 1, 2 * u[..., 1] - 1
    s = a * a + b * b
    radius = low + (high - low) * u[..., 2]
    stretch = 2 * (1 - s).clamp_min(0).sqrt()
    direction = torch.stack([a * stretch, b * stretch, 1 - 2 * s], -1)
    return radius[..., None] * direction, (s < 1) & (u[..., 3] * (high * high) < radius * radius)


def _wrap(points: Tensor, box: float) -> Tensor:
    """Return positions as float32 in [0, box)."""
    wrapped = torch.remainder(points, box).float()
    return torch.where(wrapped.double() >= box, 0.0, wrapped)  # rounding may reach the far edge


def _outside_slabs(points: Tensor, slabs: Tensor, rules: Rules) -> Tensor:
    """Return whether no part of a sphere lies in a slab, bool [A, W]."""
    radius = rules.diameter / 2
    along = torch.remainder(points.double() - slabs[:, None], rules.box)
    least = (rules.gap + radius) * (1 + _GUARD)
    free = (along >= least[:, None, None]) & (along <= (rules.box - radius) * (1 - _GUARD))
    return (free | ~rules.axes[:, None]).all(-1)


def _separation(points: Tensor, others: Tensor, box: float) -> Tensor:
    """Return the squared distance between nearest images of positions in [0, box), over the last axis."""
    square = torch.zeros((), dtype=torch.float64, device=points.device)
    for axis in range(3):
        apart = (points[..., axis] - others[..., axis]).abs()
        square = square + torch.minimum(apart, box - apart).square()
    return square


def _apart(points: Tensor, centers: Tensor, placed: Tensor, rules: Rules) -> Tensor:
    """Return whether a candidate overlaps no sphere placed before it, bool [A, W]."""
    count = int(placed.max())
    square = _separation(points[:, :, None].double(), centers[:, None, :count].double(), rules.box)
    clear = square >= rules.diameter**2 * (1 + _GUARD)
    return (clear | (torch.arange(count, device=placed.device) >= placed[:, None])[:, None]).all(-1)
