"""Where a sphere comes to lie when it moves by whole voxels, whether it may, and with what settings chains can run.

Legend: C chains, N particles. Lengths are in voxels.

A centre is the sum of a fraction, which moves keep, and a cell, which they change: a structure is a function of
integers, and rounding does not add up.
"""

import dataclasses
import math
import reprlib

import torch
from torch import Tensor

from gpuion.checks import check_tensor, is_between, is_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What no move changes: the fractions float32 [C, N, 3] and the edge `box` of a cube of spheres of a `diameter`."""

    fraction: Tensor
    box: float
    diameter: float
    last: float  # the highest float32 coordinate


def split(centers: Tensor, box: float, diameter: float) -> tuple[Space, Tensor]:
    """Return the space of float32 centres [C, N, 3], and their cells int64 [C, N, 3].

    Raises
    ------
    ValueError
        If the box is not a whole number of voxels.
    """
    if box != round(box):
        raise ValueError(f"box must be a whole number of voxels, the length of a move, got {box}")
    centers = centers.float()
    whole = centers.floor()
    space = Space(
        fraction=centers - whole,  # exact
        box=float(box), diameter=diameter, last=float(torch.nextafter(torch.tensor(float(box)), torch.tensor(0.0))),
    )  # fmt: skip
    return space, whole.long().remainder(round(box))


def position(fraction: Tensor, cell: Tensor, space: Space) -> Tensor:
    """Return float32 centres: the sum, or the last number before box where it would round up to box."""
    return (fraction.double() + cell).float().clamp(max=space.last)


def overlaps(centers: Tensor, sphere: Tensor, place: Tensor, space: Space) -> Tensor:
    """Return whether a chain's `sphere` [C, 1] at `place` [C, 1, 3] would overlap another one, bool [C]."""
    apart = (centers.double() - place.double()).abs()
    x, y, z = torch.minimum(apart, space.box - apart).square().unbind(-1)
    return (x + y + z).scatter(1, sphere, math.inf).lt(space.diameter**2).any(1)


def first_overlap(centers: Tensor, space: Space) -> tuple[int, int] | None:
    """Return the number of a structure of [C, N, 3] with an overlap and of a sphere in it, None if there is none."""
    C, N, _ = centers.shape
    for i in range(N):
        sphere = torch.full((C, 1), i, device=centers.device)
        overlap = overlaps(centers, sphere, centers[:, i : i + 1], space)
        if bool(overlap.any()):
            return int(overlap.nonzero()[0, 0]), i
    return None


def check_apart(centers: Tensor, ids: Tensor, space: Space) -> None:
    """Raise ValueError for start structures [C, N, 3] with overlaps."""
    found = first_overlap(centers, space)
    if found:
        c, sphere = found
        raise ValueError(
            f"spheres of diameter {space.diameter} overlap in the start structure of chain "
            f"{int(ids[c])} (sphere {sphere}); anneal only moves spheres that do not"
        )


def check_ids(ids: Tensor | None, cell: Tensor) -> Tensor:
    """Return chain ids int64 [C] of chains with cells [C, N, 3]; 0 … C−1 if none are given."""
    C, N, _ = cell.shape
    if C < 1 or N < 1:
        raise ValueError(f"centers must hold at least one chain and one sphere, got {list(cell.shape)}")
    if ids is None:
        return torch.arange(C, device=cell.device)
    ids = check_tensor("ids", ids).to(cell.device)
    kind = ids.dtype.is_floating_point or ids.is_complex() or ids.dtype is torch.bool
    if ids.shape != (C,) or kind or int(ids.min()) < 0 or int(ids.max()) >= 2**32:
        raise ValueError(f"ids must be {C} integers in [0, 2³²), one a chain, got {ids.dtype} {list(ids.shape)}")
    return ids.long()


def check_settings(
    cycles: int, steps: int, samples: int, temperature: float | Tensor, cooling: float
) -> tuple[int, int, int]:
    """Return cycles, steps and samples; ValueError for settings that `anneal` cannot use."""
    if not is_whole(cycles, 1) or not is_whole(steps, 1):
        given = f"{reprlib.repr(cycles)} and {reprlib.repr(steps)}"
        raise ValueError(f"cycles and steps must be at least 1, whole numbers, got {given}")
    if cycles * steps > 2**32:
        raise ValueError(f"cycles · steps must be at most 2³², the length of a random sequence, got {cycles * steps}")
    if not is_whole(samples, 0):
        raise ValueError(f"samples must not be negative, a whole number, got {reprlib.repr(samples)}")
    heat = check_tensor("temperature", temperature)
    numbers = not (heat.is_complex() or heat.dtype is torch.bool)
    if not numbers or not bool(((heat.double() > 0) & heat.double().isfinite()).all()):
        raise ValueError(f"temperature must be positive and finite, got {reprlib.repr(temperature)}")
    if not is_between(cooling, 0, math.inf) or float(cooling) > 1:
        raise ValueError(f"cooling must lie in (0, 1], got {reprlib.repr(cooling)}")
    return int(cycles), int(steps), int(samples)
